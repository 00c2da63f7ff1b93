"""Where an export is written before its digest, and so its place in the cache, is known."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calltune import models


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder to be made and written to, which is gone when the block ends; so is what killed exports left behind.

    Each export holds a lock on its place, which the system opens when its process ends, however it does.
    """
    place = models.cache_dir() / "exports"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob("[!.]*"):
        with contextlib.suppress(OSError), (left / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    # Hidden until it is locked, so that no other export takes it for one that was left behind.
    hidden = Path(tempfile.mkdtemp(prefix=".", dir=place))
    with (hidden / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own = hidden.rename(place / hidden.name.removeprefix("."))
        try:
            yield own / "model"
        finally:
            shutil.rmtree(own, ignore_errors=True)
