"""Records and rendered rows that stay on disk: memory holds a few bytes of each, however many there are."""

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from calltune.errors import DataError
from calltune.records import Record
from calltune.render import Rendered


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


class RenderedFile:
    """Rendered rows in a temporary file: 5 bytes for each token."""

    def __init__(self) -> None:
        self.file, self.end = tempfile.TemporaryFile(), 0  # noqa: SIM115  # closed by __exit__

    def add(self, rows: Sequence[Rendered]) -> int:
        """Write the rows of one record; returns where they are."""
        place = self.end
        lengths = np.array([len(rows), *(len(row.input_ids) for row in rows)], np.int32)
        parts = [lengths.tobytes()]
        for row in rows:
            parts += [np.array(row.input_ids, np.int32).tobytes(), np.array(row.loss_mask, np.bool_).tobytes()]
        data = b"".join(parts)
        self.file.seek(place)
        self.file.write(data)
        self.end += len(data)
        return place

    def rows(self, place: int) -> list[Rendered]:
        """The rows of the record that was written there."""
        self.file.seek(place)
        (count,) = np.frombuffer(self.file.read(4), np.int32)
        lengths = np.frombuffer(self.file.read(4 * int(count)), np.int32)
        found = []
        for length in map(int, lengths):
            ids = np.frombuffer(self.file.read(4 * length), np.int32).tolist()
            found.append(Rendered(ids, np.frombuffer(self.file.read(length), np.bool_).tolist()))
        return found

    def __enter__(self) -> "RenderedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
