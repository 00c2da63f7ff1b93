"""The raw rows of one file, whatever its layout: JSON lines, a JSON array, CSV or Parquet, the texts also packed."""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from calltune.errors import DataError
from calltune.layouts import PACKED, packing_of, suffix_of
from components.ingest import jsontext
from components.ingest.jsontext import RawRow

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 256
"""Rows of a Parquet file that are in memory at once, beside its row group."""
CELL_LETTERS = 1 << 26
_NO_PYTHON = (KeyError, OverflowError, UnicodeDecodeError)
"""What comes out of pyarrow for a map with a key twice, a date beyond Python's, and a string that is not UTF-8."""
_BOM = codecs.BOM_UTF8
_SAVE = "save the rows as JSON lines or CSV in UTF-8"
_NO_TEXT = {
    b"\x1f\x8b": "gzip: the name of such a file must end in .gz",
    b"\x28\xb5\x2f\xfd": "zstd: the name of such a file must end in .zst",
    b"PAR1\x15": "Parquet: the name of such a file must end in .parquet",
    b"PK\x03\x04": f"a zip archive, as .xlsx is one: {_SAVE}",
    b"\xd0\xcf\x11\xe0": f"an old Office file, as .xls is one: {_SAVE}",
    **{b"BZh%d1AY&SY" % level: "bzip2: unpack it, or pack it as .gz or .zst" for level in range(1, 10)},
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), f"UTF-16: {_SAVE}"),
}
"""What a file looks like that begins so, and what would be right."""


def rows(path: Path, uri: str) -> Iterator[RawRow]:
    """Yield the rows of a file, its layout told by its name, JSON of both kinds by its first letter.

    One row is in memory at a time, of a Parquet file a row group. `done` counts bytes of the file as it is on disk.

    Raises:
        DataError: it cannot be read, is cut off, is not what its name says, or is a JSON array or a header that is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            if suffix_of(path.name) == ".parquet":
                yield from _parquet(file, uri, path.stat().st_size)
            elif packing_of(path.name):
                for row in _text(_unpacked(file, packing_of(path.name)), uri, suffix_of(path.name).split(".")[1]):
                    yield replace(row, done=file.tell())
            else:
                yield from _text(file, uri, suffix_of(path.name).removeprefix("."))
    except OSError as error:
        if error.strerror is not None:
            raise DataError(f"{uri}: cannot be read: {error.strerror}") from None
        # pyarrow's own words, such as `Truncated compressed stream`
        cut = "Truncated" in str(error)
        what = "ends too early: it was cut off; copy or write it again" if cut else f"is damaged or not packed so: {error}"
        raise DataError(f"{uri}: the {PACKED.get(packing_of(path.name), 'Parquet')} file {what}") from None


def _unpacked(file: BinaryIO, packing: str) -> BinaryIO:
    import pyarrow

    # Unlike gzip and zstandard, it reads both kinds, in several frames, and tells a stream that was cut off.
    return io.BufferedReader(pyarrow.input_stream(file, compression=PACKED[packing]), jsontext.CHUNK_BYTES)  # type: ignore[type-var, return-value]


def _text(file: BinaryIO, uri: str, layout: str) -> Iterator[RawRow]:
    start: bytes = file.peek(len(_BOM) + 1024)  # type: ignore[attr-defined]
    other = next((what for begins, what in _NO_TEXT.items() if start.startswith(begins)), None)
    if other is not None:
        raise DataError(f"{uri}: is no text in UTF-8, but looks like {other}")
    offset = len(file.read(len(_BOM))) if start.startswith(_BOM) else 0
    if layout in ("tsv", "tab"):
        raise DataError(
            f"{uri}: cells separated by tabs are not read: CSV, with commas and a name that ends in .csv, would be right"
        )
    if layout == "csv":
        yield from _csv(_Lines(file, offset), uri)
    elif layout not in ("jsonl", "ndjson") and start.removeprefix(_BOM).lstrip().startswith(b"["):
        yield from jsontext.array(file, uri, offset)
    else:
        yield from jsontext.lines(file, uri, offset)


class _Lines:
    """The lines of a text, decoded, bytes that are no UTF-8 as escapes.

    Attributes:
        offset: how many bytes of it have been read.
        wrong: what the last line that was not UTF-8 has; whoever has told it takes it away.
    """

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self.file, self.offset, self.wrong = file, offset, ""

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                text = line.decode("utf-8", "backslashreplace")
                self.wrong = jsontext.not_utf8(self.offset + error.start, line[error.start], "CSV")
            self.offset += len(line)
            yield text


def _csv(file: _Lines, uri: str) -> Iterator[RawRow]:
    """Yield the rows below the header as JSON objects of strings."""
    csv.field_size_limit(CELL_LETTERS)
    table = csv.reader(file, strict=True)
    try:
        header = next((cells for cells in table if cells), [])
        if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
            raise DataError(f"{uri}: its header {header[0][:60]!r} has no comma: cells must be separated by commas")
        if file.wrong:
            raise DataError(f"{uri}: its header has {file.wrong}")
        if len(set(header)) < len(header):
            raise DataError(f"{uri}: two columns have one name; the header is {', '.join(header)}")
        for number, cells in enumerate((cells for cells in table if cells), 1):
            fits = len(cells) == len(header)
            text = json.dumps(dict(zip(header, cells, strict=True)) if fits else cells, ensure_ascii=False)
            problem = None if fits else ("csv_cells", f"the row has {len(cells)} cells, the header {len(header)}")
            if file.wrong:
                problem, file.wrong = ("not_utf8", file.wrong), ""
            yield RawRow(uri, number, text, file.offset, problem)
    except csv.Error as error:
        raise DataError(f"{uri}, line {table.line_num}: not CSV: {error}") from None


def _parquet(file: BinaryIO, uri: str, size: int) -> Iterator[RawRow]:
    """Yield the rows as JSON objects; nulls are left out, since Arrow gives each struct the keys of all rows."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Without pre_buffer a row group is read as it is needed, not all of its columns at once beforehand.
        table = parquet.ParquetFile(file, pre_buffer=False)
        number, total = 0, max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for row, unreadable in _batch_rows(batch):
                number += 1
                text, problem = json_text(row)
                yield RawRow(uri, number, text, size * number // total, unreadable or problem)
    except pyarrow.ArrowException as error:
        raise DataError(f"{uri}: not a Parquet file that can be read: {' '.join(str(error).split())[:200]}") from None


def _batch_rows(batch: "pyarrow.RecordBatch") -> Iterator[tuple[dict[str, Any], tuple[str, str] | None]]:
    """The rows, and rule and message of those that hold a value that Python cannot: these rows without it."""
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except _NO_PYTHON:
        pass  # which value it is, only the cells say
    else:
        yield from ((row, None) for row in rows)
        return
    for at in range(batch.num_rows):
        row: dict[str, Any] = {}
        problem: tuple[str, str] | None = None
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[at].as_py(maps_as_pydicts="strict")
            except _NO_PYTHON as error:
                problem = "not_json", f"{name}: cannot be read: {' '.join(str(error).split())}"
        yield row, problem


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _given(item) for key, item in value.items() if item is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value


def json_text(row: dict[str, Any]) -> tuple[str, tuple[str, str] | None]:
    """A row of a table as JSON without its nulls, and rule and message where it holds what no JSON has."""
    refused: list[str] = []

    def as_text(value: Any) -> str:
        refused.append(type(value).__name__)
        return str(value)

    # A date or a decimal has one spelling that everybody means; bytes have none.
    text = json.dumps(_given(row), ensure_ascii=False, default=as_text)
    if "bytes" not in refused:
        return text, None
    columns = ", ".join(name for name, value in row.items() if _has_bytes(value))
    return text, ("not_json", f"{columns}: holds bytes, which no JSON has; leave the column out, or make text of it")


def _has_bytes(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bytes) or any(map(_has_bytes, inside))
