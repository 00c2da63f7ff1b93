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
LONGEST_TEMPORARY = 70
"""Bytes of a path below which libraries put Unix sockets: a socket's path has 107 at most, and they add up to 35."""


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
    store = config.storage.uri
    is_address = store == "embedded" or "://" in store
    return {"storage": store if is_address else str(Path(store).resolve()), "tracking": config.tracking.uri}


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
