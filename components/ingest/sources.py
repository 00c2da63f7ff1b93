"""The raw rows of a source, one after the other: a file or an S3 prefix, JSON lines or a JSON array, always UTF-8."""

import codecs
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from calltune import storage
from calltune.errors import DataError

CHUNK_BYTES = 1 << 20
SUFFIXES = (".jsonl", ".ndjson", ".json")
_BOM = codecs.BOM_UTF8
# How near to the end of what has been read a JSON error can still come from a value that goes on beyond it: `\u00e` or `-1.5e`.
_TAIL = 16


@dataclass(frozen=True)
class RawRow:
    """One row as the source has it.

    Attributes:
        uri: the file or object.
        row: its line in a JSON lines file, its place in a JSON array; from 1.
        text: its JSON, or what should be.
        done: how much of the source has been read with it, in the source's unit.
    """

    uri: str
    row: int
    text: str
    done: int


@dataclass(frozen=True)
class Source:
    """What is to be read.

    Attributes:
        uri: as the config names it.
        keys: the S3 objects; empty for a file.
        total: how much there is, in `unit`.
        unit: bytes or objects.
    """

    uri: str
    keys: tuple[str, ...]
    total: int
    unit: str

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows; one at a time is in memory.

        Raises:
            DataError: it cannot be read, is not UTF-8, or is a JSON array with a syntax error.
        """
        if not self.keys:
            yield from _rows(Path(self.uri), self.uri)
            return
        store, _ = storage.at(self.uri)
        with tempfile.TemporaryDirectory() as folder:
            for number, key in enumerate(self.keys, 1):
                path = Path(folder) / f"object{Path(key).suffix}"
                store.download(key, path)
                for row in _rows(path, f"{store.uri}/{key}"):
                    yield RawRow(row.uri, row.row, row.text, number)


def find(uri: str) -> Source:
    """The source at a path or ``s3://bucket/prefix``; of a prefix every `.jsonl`, `.ndjson` and `.json` object is read.

    Raises:
        DataError: there is none.
    """
    if uri.startswith("s3://"):
        store, prefix = storage.at(uri)
        keys = tuple(key for key in store.list(prefix) if key.endswith(SUFFIXES))
        if not keys:
            raise DataError(f"{uri}: no {', '.join(SUFFIXES)} object there")
        return Source(uri, keys, len(keys), "objects")
    path = Path(uri)
    if path.is_dir():
        raise DataError(f"{uri}: is a folder; name the file to read")
    if not path.is_file():
        raise DataError(f"{uri}: no such file")
    return Source(uri, (), path.stat().st_size, "bytes")


def _rows(path: Path, uri: str) -> Iterator[RawRow]:
    try:
        with path.open("rb") as file:
            start = file.read(len(_BOM) + 1024)
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            is_array = path.suffix not in (".jsonl", ".ndjson") and start.removeprefix(_BOM).lstrip().startswith(b"[")
            yield from _array(file, uri) if is_array else _lines(file, uri)
    except OSError as error:
        raise DataError(f"{uri}: cannot be read: {error.strerror}") from None


def _lines(file: BinaryIO, uri: str) -> Iterator[RawRow]:
    offset = file.tell()
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise _not_utf8(uri, offset + error.start, line[error.start], f"line {number}, ") from None
        offset += len(line)
        if text:
            yield RawRow(uri, number, text, offset)


def _array(file: BinaryIO, uri: str) -> Iterator[RawRow]:
    """Yield the elements of a JSON array without holding more of it than the one at hand.

    A broken array, unlike a broken line, does not say where its next row begins: it is refused as a whole.
    """
    text = _Window(file, uri)
    text.skip("[")
    row, closed = 0, text.next() == "]"
    while not closed:
        element = text.value()
        row += 1
        yield RawRow(uri, row, element, text.offset)
        if text.next() not in (",", "]"):
            raise text.error("a comma or the end of the array should follow")
        closed = text.next() == "]"
        if not closed:
            text.skip(",")
    text.skip("]")
    if text.next():
        raise text.error("something follows the end of the array")


class _Window:
    """The part of a JSON text that is being read: grows until the next value fits, and forgets what is behind.

    Attributes:
        offset: bytes read from the file.
    """

    def __init__(self, file: BinaryIO, uri: str) -> None:
        self.file, self.uri, self.offset = file, uri, file.tell()
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.json = json.JSONDecoder()
        self.text, self.position, self.line, self.ended = "", 0, 1, False

    def next(self) -> str:
        """The next letter that is not a space, left in place; empty at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.text) or not self._grow():
                return self.text[self.position : self.position + 1]

    def skip(self, letter: str) -> None:
        """Pass over a letter that is known to be next."""
        self.next()
        self.position += len(letter)

    def value(self) -> str:
        """The text of the next JSON value, passed over."""
        self.next()
        while True:
            try:
                _, end = self.json.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos + _TAIL >= len(self.text)
                if not cut_off or not self._grow():
                    raise self.error(f"not JSON: {error.msg}", error.pos) from None
            except (RecursionError, ValueError) as error:
                raise self.error(f"not JSON: {error}") from None
            else:
                # A number that ends where the text ends may go on; so may anything else that is no object.
                if end < len(self.text) or not self._grow():
                    start, self.position = self.position, end
                    return self.text[start:end]

    def error(self, message: str, position: int | None = None) -> DataError:
        """What is wrong, with the line where it is."""
        line = self.line + self.text.count("\n", 0, self.position if position is None else position)
        return DataError(f"{self.uri}, line {line}: {message}; a JSON array is read whole or not at all (JSON lines are not)")

    def _grow(self) -> bool:
        """Read on, and forget what has been passed; false at the end of the file."""
        if self.ended:
            return False
        self.line += self.text.count("\n", 0, self.position)
        # Doubling keeps a value of any length linear in cost, although it is decoded anew each time.
        chunk = self.file.read(max(CHUNK_BYTES, len(self.text) - self.position))
        self.offset += len(chunk)
        self.ended = not chunk
        try:
            more = self.utf8.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            at = self.offset - len(error.object) + error.start
            raise _not_utf8(self.uri, at, error.object[error.start]) from None
        self.text, self.position = self.text[self.position :] + more, 0
        return not self.ended


def _not_utf8(uri: str, offset: int, byte: int, line: str = "") -> DataError:
    return DataError(f"{uri}: {line}byte {offset}: not UTF-8 (0x{byte:02x}); JSON lines or a JSON array in UTF-8 would be right")
