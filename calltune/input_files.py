"""The files that settings name, beside the data itself: where they lie on this machine, and what is in them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from calltune import models, storage
from calltune.errors import DataError, no_such_file
from calltune.records import sha256

_BROUGHT = re.compile(r"s3://.+/inputs/([0-9a-f]{64})(/.+)?")
"""An address that `submit` gave to what it brought into the store: its content's SHA-256 is in it."""


def content(setting: str, place: str) -> str:
    """SHA-256 of a file, or of a folder over its files' names and their own; of what is in the store, as its address says it.

    Raises:
        DataError: there is no such file.
    """
    brought = _BROUGHT.fullmatch(place)
    if brought:
        return brought[1]
    path = Path(place)
    if path.is_dir():
        return sha256({name: models.file_sha256(file) for name, file in within(path)})
    if not path.is_file():
        raise no_such_file(place, setting)
    return models.file_sha256(path)


def within(folder: Path) -> Iterator[tuple[str, Path]]:
    """A folder's files by their names in it, in order; without hidden ones, and what Python leaves behind.

    Raises:
        DataError: a name is not in UTF-8.
    """
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            require_utf8(folder, path)
            yield "/".join(parts), path


def require_utf8(folder: Path, path: Path) -> None:
    """Refuse a file in a folder whose name no record, no store and no screen can hold.

    Raises:
        DataError: its name is not in UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{folder}: the name of a file in it is not in UTF-8: {os.fsencode(path)!r}") from None


def text_of(file: Path) -> str:
    """What is written in a file that people write; without the mark that some editors begin one with.

    Raises:
        DataError: it is no file that can be read, or no text in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text in UTF-8: {error}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def local(setting: str, place: str) -> str:
    """The whole path of a file or folder on this machine's disk, fetched where it was brought into the store.

    Raises:
        DataError: there is no such file.
        UserError: the store cannot be read.
    """
    brought = _BROUGHT.fullmatch(place)
    if not brought:
        if not Path(place).exists():
            raise no_such_file(place, setting)
        return os.path.abspath(place)
    target = models.cache_dir() / "inputs" / brought[1]
    if not target.exists():
        store, key = storage.at(place[: brought.end(1)])
        names = [name.removeprefix(f"{key}/") for name in store.list(key)]
        if not names:
            raise no_such_file(place, setting)
        with models.making(target) as folder:
            for name in names:
                store.download(f"{key}/{name}", folder / name)
    return str(target) + (brought[2] or "")
