"""The whole DAG on this machine: a supervisor that the user sees, and the pipeline in a process group of its own.

The supervisor starts the embedded S3 server and the pipeline, follows the steps' events, draws progress, and at the end
reads the run's summary from the store. kfp.local's steps have no terminal, so that nothing else could draw.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import hub, runtime, storage, tracking
from calltune.errors import ConfigError, UserError, no_such_file
from calltune.processes import in_environment
from pipelines import answering, leash, suites
from pipelines.apart import require_outside_sources
from pipelines.config import RunConfig, absolute
from pipelines.embedded import alone, s3_server
from pipelines.screen import Screen
from pipelines.workdir import link_results, remember_places, require_own, require_same_places, temporary

POLL_S = 0.2
MIN_FREE_GIB = 3
"""A run of the smallest model writes about 2 GiB: weights, their export, and the store's copy of it."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        exit_code: 0 done, 2 a user's error, 1 anything else.
        summary: `summary.json`, None where the run failed.
        steps: what each step that ran took: the events of kind `step`.
        error: what failed: `step` and `message`, None where nothing did.
    """

    exit_code: int
    summary: dict[str, Any] | None
    steps: list[dict[str, Any]]
    error: dict[str, Any] | None


def run(config: RunConfig, workdir: Path, screen: Screen) -> Outcome:
    """Run the DAG in `workdir` and follow it to its end.

    Raises:
        DataError: a source, the tools file or a file of evaluate's suites is not there.
        ConfigError: a suite has no such task, or its library is not installed; or what evaluate is to answer with is not here, or
            no grammar can be made of a tool.
        UserError: the workdir is in use, has no room, has files of the user in it, lies in a source's folder or goes with another
            store, or the store cannot be started.
        KeyboardInterrupt: Ctrl-C, after everything that was started has been ended.
    """
    require_outside_sources("--workdir", workdir, config)
    workdir = workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    require_own(workdir)
    _require_room(workdir)
    starting = screen.phase("start the S3 server") if config.storage.uri == "embedded" else nullcontext()
    with ExitStack() as stack:
        stack.enter_context(alone(workdir))
        require_same_places(config, workdir)
        events = workdir / "events.jsonl"
        # A run that fails leaves neither of these, also not that of the run before it.
        for stale in (events, workdir / "summary.json"):
            stale.unlink(missing_ok=True)
        # What look and ingest say is left to them where somebody is to be told.
        if not config.notify.via:
            _require_inputs(config)
        suites.require(config)
        answering.require(config)
        with starting:
            variables = stack.enter_context(environment(config, workdir))
        scratch = stack.enter_context(temporary(workdir))
        config = absolute(config)
        runtime.write_json(workdir / "job.json", config.model_dump(mode="json"))
        variables |= {"CALLTUNE_EVENTS": str(events), "CALLTUNE_RUN_ID": new_run_id()}
        # For the pipeline and its steps, and for what this process reads from the store and says to MLflow.
        stack.enter_context(in_environment(variables))
        try:
            code, seen = _executed(config, workdir, scratch, screen)
        except KeyboardInterrupt:
            if any(_has_looked(event) for event in Events(events).new()):
                _end_as_killed(config.name, screen)
            raise
        outcome = _outcome(code, seen, workdir)
        if outcome.summary is not None:
            runtime.write_json(workdir / "summary.json", outcome.summary)
            link_results(workdir, outcome.summary, screen)
        return outcome


def require_one_node(config: RunConfig) -> None:
    """Refuse several nodes, since this machine is one.

    Raises:
        ConfigError: `resources.train.nodes` is more than 1.
    """
    if config.nodes > 1:
        raise ConfigError(
            f"resources.train.nodes: {config.nodes} nodes are there on a cluster only (calltune submit): "
            "leave it out here, or --set resources={}"
        )


def _executed(config: RunConfig, workdir: Path, scratch: Path, screen: Screen) -> tuple[int, list[dict[str, Any]]]:
    """Start the pipeline with this process's environment and follow it; returns its exit code and its events."""
    seen: list[dict[str, Any]] = []
    with (workdir / "run.log").open("wb") as log:
        pipeline = leash.start(
            [sys.executable, "-m", "pipelines.worker", str(workdir / "job.json"), str(workdir / "kfp")],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            for event in _follow(pipeline, workdir / "events.jsonl"):
                seen.append(event)
                screen.show(event)
                if _has_looked(event):
                    remember_places(config, workdir)
                elif event["kind"] == "start" and event["name"] not in ("look", "notify"):
                    # The report before stays where nothing is new, and only there.
                    (workdir / "report.html").unlink(missing_ok=True)
        finally:
            # Its whole group: a signal to its head alone would leave the running step behind.
            leash.end(pipeline)
    return pipeline.returncode, seen


def _has_looked(event: dict[str, Any]) -> bool:
    """Whether the event says that look has ended well: store and tracking have answered, and MLflow has the run."""
    return event["kind"] == "step" and event["name"] == "look" and event["error"] is None


def _end_as_killed(name: str, screen: Screen) -> None:
    """Have MLflow say of an interrupted run that it was: notify, which ends one that fails, was interrupted with it."""
    try:
        with tracking.hurried(), screen.phase("end the run in MLflow"):
            mlflow, tag = tracking.client(), f"tags.`{tracking.RUN_TAG}` = '{runtime.run_id()}'"
            experiment = mlflow.get_experiment_by_name(name)
            for run in mlflow.search_runs([experiment.experiment_id], filter_string=tag) if experiment else []:
                if run.info.status == "RUNNING":
                    mlflow.set_terminated(run.info.run_id, "KILLED")
    except Exception as error:  # whatever it is, the command still ends as an interrupted one
        screen.show({"kind": "note", "message": f"MLflow still says that run {runtime.run_id()} goes on: {error}"})


def new_run_id() -> str:
    """The time, to be read by people, and the process, so that no two are the same."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"


@contextmanager
def environment(config: RunConfig, workdir: Path) -> Iterator[dict[str, str]]:
    """The variables that steps find store, tracking and cache by; the embedded server runs while the block runs.

    Raises:
        UserError: the workdir goes with another store or tracking, or the server does not come up.
    """
    require_same_places(config, workdir)
    if config.storage.uri != "embedded":
        yield variables_of(config, workdir)
        return
    with s3_server(workdir / "s3") as server:
        yield variables_of(config, workdir) | server


def variables_of(config: RunConfig, workdir: Path) -> dict[str, str]:
    """The variables that steps find store, tracking and cache by, without those of an embedded server."""
    tracking = config.tracking.uri
    found = {
        "CALLTUNE_TRACKING": f"sqlite:///{workdir / 'mlflow.db'}" if tracking == "embedded" else tracking,
        "CALLTUNE_CACHE": str(Path(os.environ.get("CALLTUNE_CACHE") or workdir / "cache").resolve()),
        # The Python that runs this is the one that kfp.local's `python3` must find.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        # A folder `components` where the user stands must not be taken for ours.
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The steps report progress themselves; in a log the libraries' bars are a line for each of their steps.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        # What will be deprecated in a library's next version tells a user nothing.
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore::FutureWarning"),
    }
    if config.storage.uri != "embedded":
        store = config.storage.uri
        found["CALLTUNE_STORAGE"] = store if store.startswith("s3://") else str(Path(store).resolve())
        if config.storage.endpoint_url:
            found |= dict.fromkeys(("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"), config.storage.endpoint_from_here)
    return found


class Events:
    """The events in a file, as they come."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that have come since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.position += len(line)
                yield json.loads(line)


def _follow(pipeline: "subprocess.Popen[bytes]", path: Path) -> Iterator[dict[str, Any]]:
    """The pipeline's events as they come, until it has ended."""
    events, ended = Events(path), False
    while not ended:
        ended = pipeline.poll() is not None  # before the last look, so that no event is missed
        yield from events.new()
        if not ended:
            time.sleep(POLL_S)


def _outcome(code: int, seen: list[dict[str, Any]], workdir: Path) -> Outcome:
    steps = [event for event in seen if event["kind"] == "step"]
    errors = [event for event in seen if event["kind"] == "error"]
    if code == 0 and not errors:
        summary = storage.of_run().get_json(f"runs/{runtime.run_id()}/summary.json")
        if summary is not None:
            return Outcome(0, summary, steps, None)
    if errors:
        return Outcome(errors[0]["code"], None, steps, errors[0])
    begun = [event["name"] for event in seen if event["kind"] == "start"]
    ended = {step["name"] for step in steps}
    killed = next((name for name in begun if name not in ended), None)
    message = "was killed before it could end" if killed else f"the pipeline failed; see {workdir / 'run.log'}"
    return Outcome(1, None, steps, {"step": killed or "pipeline", "message": message})


def _require_inputs(config: RunConfig) -> None:
    """What can be said before a server is started; look and ingest say the rest."""
    for kind, path in [*(("data", part.source) for part in config.ingest.sources), ("tools", config.ingest.tools)]:
        if path and not path.startswith(("s3://", hub.PREFIX)) and not Path(path).exists():
            raise no_such_file(path, kind)


def _require_room(workdir: Path) -> None:
    free = shutil.disk_usage(workdir).free / 2**30
    if free < MIN_FREE_GIB:
        raise UserError(
            f"{workdir}: {free:.1f} GiB free, a run needs {MIN_FREE_GIB}: free some, or use --workdir on another disk"
        )
