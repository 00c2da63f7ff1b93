"""Where rows come from, a file, a folder, an S3 prefix or the Hub, and the rows in it, one after the other."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune import hub, layouts, runtime, storage
from calltune.errors import DataError, no_such_file
from components.ingest import files
from components.ingest.jsontext import RawRow
from components.ingest.objects import Fetcher

_READ = ", ".join(layouts.SUFFIXES)
_ALSO = " (texts also as .gz or .zst)"


@dataclass(frozen=True)
class Source:
    """What is to be read.

    Attributes:
        uri: as the config names it.
        parts: its files, or the S3 objects.
        keys: the keys of the S3 objects; empty where the source is on this disk.
        total: how much there is, in `unit`.
        unit: bytes, objects, or rows of the Hub.
    """

    uri: str
    parts: tuple[Path, ...] | tuple[storage.Object, ...]
    keys: tuple[str, ...]
    total: int
    unit: str

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows; one at a time is in memory, and one S3 object at a time on disk.

        Raises:
            DataError: a file cannot be read, or an object has changed since it was listed.
        """
        return self._of_objects() if self.keys else self._of_files()

    def recorded(self) -> list[dict[str, Any]]:
        """What was read, to be written down: of each file its size, of each object also the ETag."""
        if self.keys:
            bucket = urlsplit(self.uri).netloc
            return [{"uri": f"s3://{bucket}/{o.key}", "etag": o.etag.strip('"'), "bytes": o.size} for o in self._objects()]
        return [{"uri": str(path), "bytes": path.stat().st_size} for path in self._files()]

    def _of_files(self) -> Iterator[RawRow]:
        before = 0
        for path in self._files():
            for row in files.rows(path, str(path)):
                yield row if before == 0 else replace(row, done=before + row.done)
            before += path.stat().st_size

    def _of_objects(self) -> Iterator[RawRow]:
        bucket = urlsplit(self.uri).netloc
        fetcher = Fetcher(bucket)
        with tempfile.TemporaryDirectory() as folder:
            for number, item in enumerate(self._objects(), 1):
                path = Path(folder) / f"object{layouts.suffix_of(item.key)}"
                fetcher.fetch(item, path)
                for row in files.rows(path, f"s3://{bucket}/{item.key}"):
                    yield replace(row, done=number)

    def _files(self) -> list[Path]:
        return [part for part in self.parts if isinstance(part, Path)]

    def _objects(self) -> list[storage.Object]:
        return [part for part in self.parts if isinstance(part, storage.Object)]


def find(uri: str) -> Source:
    """The source at a path, ``s3://bucket/prefix`` or ``hf://datasets/…``.

    Of a folder or a prefix every file that may hold rows is read, by its name.

    Raises:
        DataError: there is none.
    """
    if uri.startswith("s3://"):
        return _prefix(uri)
    if uri.startswith(hub.PREFIX):
        from components.ingest import hub as on_hub

        return on_hub.find(uri)
    path = Path(uri)
    if path.is_dir():
        return _folder(uri, path)
    if not path.is_file():
        raise no_such_file(uri)
    return Source(uri, (path,), (), path.stat().st_size, "bytes")


def _prefix(uri: str) -> Source:
    parts = urlsplit(uri)
    found = storage.S3(parts.netloc).objects(parts.path.lstrip("/"))
    objects = tuple(item for item in found if layouts.is_data(item.key))
    if not objects:
        raise DataError(f"{uri}: no {_READ} object there{_ALSO}")
    _say_what_is_left_out(uri, [item.key for item in found if not layouts.is_data(item.key)], len(found))
    return Source(uri, objects, tuple(item.key for item in objects), len(objects), "objects")


def _folder(uri: str, folder: Path) -> Source:
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    visible = sorted(path for path in inside if not any(part.startswith((".", "_")) for part in path.parts))
    paths = tuple(folder / path for path in visible if layouts.is_data(path.name))
    if not paths:
        raise DataError(f"{uri}: no {_READ} file in this folder{_ALSO}")
    _say_what_is_left_out(uri, [str(path) for path in visible if not layouts.is_data(path.name)], len(visible))
    return Source(uri, paths, (), sum(path.stat().st_size for path in paths), "bytes")


def _say_what_is_left_out(uri: str, names: list[str], total: int) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        runtime.note(
            f"ingest.source: {uri}: {len(names)} of {total} files are not read, since their names do not end in "
            f"{_READ}{_ALSO}: {shown}"
        )
