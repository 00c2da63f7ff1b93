"""How old the data is: since when nothing in it has changed, as far as its source can tell."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from calltune import hub, storage
from calltune.errors import DataError, no_such_file
from calltune.layouts import is_data, is_hidden

FUTURE = timedelta(days=1)
"""By how much clocks may differ."""


def age_days(sources: Sequence[str], now: datetime) -> int:
    """Whole days since anything in one of the sources was last changed.

    Of a file that is its modification time, of an object in S3 when it was put there, of a data set on the Hub the date of the
    commit. A copy can be younger than what was copied, and is never older: rows that `calltune submit` uploads are as old as
    their first upload.

    Args:
        sources: as ingest reads them.
        now: with its time zone.

    Raises:
        DataError: a source does not exist, has nothing that ingest would read, cannot be read, or is dated in the future.
    """
    changed = {source: _changed(source) for source in sources}
    newest = max(changed, key=lambda source: changed[source])
    if changed[newest] > now + FUTURE:
        raise DataError(
            f"{newest}: was last changed at {changed[newest]:%Y-%m-%d %H:%M} UTC, which is yet to come: set its date right"
        )
    return max(0, (now - changed[newest]).days)


def _changed(source: str) -> datetime:
    if source.startswith("s3://"):
        parts = urlsplit(source)
        objects = storage.S3(parts.netloc).changed(parts.path.lstrip("/"))
        dates = [date for key, date in objects.items() if is_data(key)]
        if not dates:
            raise DataError(f"{source}: there is no object that can be read as data")
        return max(dates)
    if source.startswith(hub.PREFIX):
        return hub.date_of(source)
    path = Path(source)
    try:
        files = (
            [file for file in path.rglob("*") if file.is_file() and _is_read(file.relative_to(path))] if path.is_dir() else [path]
        )
        newest = max((file.stat().st_mtime for file in files), default=None)
    except FileNotFoundError:
        raise no_such_file(source, "data") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None
    if newest is None:
        raise DataError(f"{source}: there is no file that can be read as data")
    return datetime.fromtimestamp(newest, UTC)


def _is_read(name: Path) -> bool:
    return is_data(name.name) and not is_hidden(name)
