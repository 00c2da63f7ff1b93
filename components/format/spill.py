"""Records and rendered rows that stay on disk: memory holds a few bytes of each, however many there are."""

import hashlib
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from calltune.errors import DataError
from calltune.records import Record
from calltune.render import Rendered

_DIGEST_BYTES = 32


class RecordFile(Sequence[Record]):
    """The records of a JSON lines file, each read when it is asked for.

    Raises:
        DataError: the file is absent, or a line is not JSON (the file was damaged after it was written).
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        self.path, self.file, self.starts = path, path.open("rb"), array("q")
        at = 0
        for line in self.file:
            self.starts.append(at)
            at += len(line)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        self.file.seek(self.starts[index])
        try:
            record: Record = json.loads(self.file.readline())
        except ValueError as error:
            raise DataError(f"{self.path}, line {index + 1}: not JSON: {error}") from None
        return record

    def lines(self) -> Iterator[bytes]:
        """Yield all lines, as they are."""
        with self.path.open("rb") as file:
            yield from file

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()


class Some(Sequence[Record]):
    """Some of a sequence of records, by their places in it, which are read when they are asked for."""

    def __init__(self, records: Sequence[Record], places: Iterable[int]) -> None:
        self.records, self.places = records, array("q", places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        return self.records[self.places[index]]

    def __iter__(self) -> Iterator[Record]:
        return (self.records[place] for place in self.places)


@dataclass(frozen=True)
class Row:
    """A rendered row as it comes back from the disk.

    Attributes:
        input_ids: int32, shape ``(tokens,)``.
        loss_mask: bool, shape ``(tokens,)``.
        prefix: tokens before the first user turn.
        prefix_sha256: of these as int32, in hex.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    prefix: int
    prefix_sha256: str


def tokens_sha256(ids: Sequence[int]) -> bytes:
    """SHA-256 of token ids, as int32."""
    return hashlib.sha256(array("i", ids).tobytes()).digest()


def packed(rows: Sequence[Rendered], prefix: int) -> bytes:
    """The rows of one record as bytes.

    Args:
        rows: that it is rendered to.
        prefix: how many of their tokens come before the first user turn.
    """
    parts = [np.array([len(rows), prefix, *(len(row.input_ids) for row in rows)], np.int32).tobytes()]
    for row in rows:
        parts += [array("i", row.input_ids).tobytes(), bytes(row.loss_mask), tokens_sha256(row.input_ids[:prefix])]
    return b"".join(parts)


class RenderedFile:
    """Packed rows in a temporary file: 5 bytes for each token."""

    def __init__(self) -> None:
        self.file, self.end = tempfile.TemporaryFile(), 0  # noqa: SIM115  # closed by __exit__

    def add(self, rows: bytes) -> int:
        """Write the packed rows of one record; returns where they are."""
        place = self.end
        self.file.seek(place)
        self.file.write(rows)
        self.end += len(rows)
        return place

    def rows(self, place: int) -> list[Row]:
        """The rows of the record that was written there."""
        self.file.seek(place)
        count, prefix = np.frombuffer(self.file.read(8), np.int32).tolist()
        found = []
        for length in np.frombuffer(self.file.read(4 * count), np.int32).tolist():
            ids = np.frombuffer(self.file.read(4 * length), np.int32)
            mask = np.frombuffer(self.file.read(length), np.bool_)
            found.append(Row(ids, mask, prefix, self.file.read(_DIGEST_BYTES).hex()))
        return found

    def __enter__(self) -> "RenderedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
