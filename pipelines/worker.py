"""The process that executes the DAG through kfp.local. Run by local.py: `python -m pipelines.worker JOB ROOT`."""

import logging
import sys
import warnings
from pathlib import Path

from kfp import local

from calltune import runtime
from pipelines import leash
from pipelines.code import code_of
from pipelines.config import RunConfig
from pipelines.finetune import STEPS, build
from pipelines.suites import keyed


def main(job: Path, root: Path) -> int:
    """Run the pipeline of a config; returns the exit code.

    Args:
        job: JSON of the run's config.
        root: folder for KFP's artifacts and cache.
    """
    leash.take_group_along()
    config = RunConfig.model_validate(runtime.read_json(job))
    # kfp.local replaces the text `python3` by the interpreter's path wherever it stands, also inside a longer path;
    # PATH has this interpreter first, so that the plain name is right.
    sys.executable = "python3"
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    pipeline = build(config, keyed(config, code_of(STEPS)), on_cluster=False)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), enable_caching=True)
    try:
        pipeline()
    except RuntimeError as error:  # kfp's one error for a step that failed; the events say which and why
        logging.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
