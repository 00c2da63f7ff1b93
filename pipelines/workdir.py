"""What a run keeps in its workdir besides KFP's own files: where its results are kept, temporary files, the results."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calltune import exports, models, runtime, storage
from calltune.errors import UserError
from pipelines.config import RunConfig
from pipelines.screen import Screen

PLACES = "places.json"
"""In a workdir that has been used: the URIs of its store and its tracking."""
NOT_ONLY_OF_RUNS = {"lock", "s3", "cache", "mlflow.db", "mlflow.db-journal", "mlflow.log", ".calltune-tmp"}
"""What other commands leave in a workdir in which nothing has run yet, and a run that could not start its server."""
LONGEST_TEMPORARY = 70
"""Bytes of a path below which libraries put Unix sockets: a socket's path has 107 at most, and they add up to 35."""


def require_own(workdir: Path) -> None:
    """Refuse a folder of the user's: a run replaces report, summary, log and `model` in it.

    Raises:
        UserError: there are files in it, and no run has made them; or its `model` is no link.
    """
    names = {path.name for path in workdir.iterdir()}
    others = sorted(names - NOT_ONLY_OF_RUNS)
    if others and not names & {"job.json", PLACES}:
        raise UserError(f"{workdir}: is no run's folder, and {others[0]} is in it: use a new or an empty folder as --workdir")
    model = workdir / "model"
    if model.exists() and not model.is_symlink():
        raise UserError(f"{model}: is not the link that a run has left there, and would be replaced: move it elsewhere")


def require_same_places(config: RunConfig, workdir: Path) -> None:
    """Refuse another store or another tracking than before: KFP's cache and the registry name what is in the first one.

    Raises:
        UserError: one of the two is another one.
    """
    file = workdir / PLACES
    if not file.exists():
        return
    before, now = runtime.read_json(file), _places(config)
    if before != now:
        was, wanted = (f"storage.uri {place['storage']} and tracking.uri {place['tracking']}" for place in (before, now))
        raise UserError(
            f"{workdir}: was used with {was}, not with {wanted}, and the two would mix: use another --workdir, or delete this one"
        )


def remember_places(config: RunConfig, workdir: Path) -> None:
    """Write down which store and tracking the workdir goes with: once both have answered, so that no mistake is kept."""
    runtime.write_json(workdir / PLACES, _places(config))


def _places(config: RunConfig) -> dict[str, str]:
    store, server = config.storage.uri, config.storage.endpoint_url
    if store.startswith("s3://"):
        store += f" at {server}" if server else ""  # another server's bucket of that name is another one
    elif store != "embedded":
        store = str(Path(store).resolve())
    return {"storage": store, "tracking": config.tracking.uri}


@contextmanager
def temporary(workdir: Path) -> Iterator[Path]:
    """A folder for temporary files, of which KFP leaves some for each step; gone when the block ends, however it ends."""
    folder = workdir / ".calltune-tmp"
    if len(os.fsencode(folder)) > LONGEST_TEMPORARY:
        with tempfile.TemporaryDirectory(prefix="calltune-", ignore_cleanup_errors=True) as short:
            yield Path(short)
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_results(workdir: Path, summary: dict[str, Any], screen: Screen) -> None:
    """Put what a user looks for at the top of the workdir: the report as a file, the model as a link to its folder.

    The store and the cache are those that the environment names, as for a step.
    """
    if summary["artifacts"] is None:
        return
    store, key = storage.at(summary["artifacts"]["report"])
    store.download(key, workdir / "report.html")
    uri, link = summary["artifacts"]["model"], workdir / "model"
    folder = models.cache_dir() / "models" / uri.rsplit("/", 1)[1]
    if not folder.exists():
        # It was exported into another cache, and no step of this run needed it.
        with screen.phase("fetch the model"):
            exports.fetch_address(uri)
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
