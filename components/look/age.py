"""How old the data is: since when nothing in it has changed, as far as its source can tell."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from calltune import hub, storage
from calltune.errors import DataError, no_such_file


def age_days(sources: Sequence[str], now: datetime) -> int:
    """Whole days since anything in one of the sources was last changed.

    Of a file that is its modification time, of an object in S3 when it was put there, of a data set on the Hub the date of the
    commit. A copy can be younger than what was copied, and is never older: rows that `calltune submit` uploads are as old as
    their first upload.

    Args:
        sources: as ingest reads them.
        now: with its time zone.

    Raises:
        DataError: a source does not exist, is empty, or cannot be read.
    """
    return max(0, (now - max(_changed(source) for source in sources)).days)


def _changed(source: str) -> datetime:
    if source.startswith("s3://"):
        parts = urlsplit(source)
        found = storage.S3(parts.netloc).changed(parts.path.lstrip("/"))
        if found is None:
            raise DataError(f"{source}: there is no object")
        return found
    if source.startswith(hub.PREFIX):
        return hub.date_of(source)
    path = Path(source)
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        newest = max((file.stat().st_mtime for file in files), default=None)
    except FileNotFoundError:
        raise no_such_file(source, "data") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None
    if newest is None:
        raise DataError(f"{source}: there is no file")
    return datetime.fromtimestamp(newest, UTC)
