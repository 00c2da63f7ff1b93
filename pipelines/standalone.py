"""What a step that somebody runs by itself finds around it: the variables of a run, and a screen that shows its events."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

from rich.console import Console

from calltune.processes import in_environment
from pipelines import local
from pipelines.config import RunConfig
from pipelines.screen import Screen


def workdir_of(config: RunConfig, workdir: Path | None) -> Path:
    """The run's folder: the given one, or `./runs/<name>`; absolute."""
    return (workdir or Path("runs") / config.name).resolve()


@contextmanager
def standalone(config: RunConfig, workdir: Path | None, store: bool = False) -> Iterator[Path]:
    """Be a step of the run in `workdir` while the block runs; yields that folder.

    Args:
        config: of the run.
        workdir: as on the command line.
        store: whether the block uses the store: where it is embedded its server then runs, about 4 s slower.

    Raises:
        UserError: the embedded server cannot be started, or a run is using it.
    """
    place = workdir_of(config, workdir)
    around = local.environment(config, place) if store else nullcontext(local.variables_of(config, place))
    with tempfile.TemporaryDirectory() as folder, Screen(Console(stderr=True)) as screen, around as variables:
        events = Path(folder) / "events.jsonl"
        variables |= {"CALLTUNE_EVENTS": str(events), "CALLTUNE_RUN_ID": local.new_run_id()}
        ended = threading.Event()
        thread = threading.Thread(target=_show, args=(local.Events(events), screen, ended), daemon=True)
        thread.start()
        try:
            # What libraries print is no result.
            with in_environment(variables), redirect_stdout(sys.stderr):
                yield place
        finally:
            ended.set()
            thread.join()


def _show(events: local.Events, screen: Screen, ended: threading.Event) -> None:
    last = False
    while not last:
        last = ended.wait(local.POLL_S)  # one more look after the end, so that no event is missed
        for event in events.new():
            screen.show(event)
