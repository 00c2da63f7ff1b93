"""What is to be read, a file, a folder or an S3 prefix, and the rows in it, one after the other."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune import layouts, storage
from components.ingest import files
from components.ingest.jsontext import RawRow
from components.ingest.objects import Fetcher


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
