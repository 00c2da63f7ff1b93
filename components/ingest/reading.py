"""From a raw row to a record, and the first rows of a source: ingest reads all rows so, `calltune check` the first ones."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from typing import Any

from calltune import validate
from calltune.dialects import DIALECTS, detect, other_than
from calltune.dialects.reading import RowError, strict_json
from calltune.errors import DataError
from calltune.records import Record, Tool
from components.ingest import jsontext
from components.ingest.config import SourceConfig
from components.ingest.jsontext import RawRow

MOST_LEVELS = 100
"""Of lists and objects in each other that a record may have. Python itself follows some hundreds, fewer the more it is in the
middle of: which rows can be used must depend neither on that nor on the process."""
LOOKED_AT = 100
"""Rows whose fields tell the dialect, from the first readable one on."""
MOST_UNREADABLE = 10_000
"""Rows before the first readable one that wait for it in memory: a file may have nothing else."""
Parsed = dict[str, Any] | RowError
"""A row's JSON object, or why there is none."""


def parsed(rows: Iterable[RawRow]) -> Iterator[tuple[RawRow, Parsed]]:
    """Each row with its JSON object, or with the reason why it is none."""
    for raw in rows:
        if raw.problem is not None:
            yield raw, RowError(*raw.problem)
            continue
        try:
            row = strict_json(raw.text)
        except ValueError as error:
            yield raw, RowError("not_json", f"not JSON: {_why(error)}{jsontext.hint(raw.text, error)}")
        else:
            yield raw, row if isinstance(row, dict) else RowError("not_an_object", "a row must be a JSON object")


def _why(error: ValueError) -> str:
    # A row is one line of its own, and JSON's "line 1" reads like that of the file.
    return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}" if isinstance(error, JSONDecodeError) else str(error)


def taken(rows: Iterable[RawRow], weight: float) -> Iterator[RawRow]:
    """This share of the rows: of the same rows always the same ones, wherever they stand."""
    for raw in rows:
        if weight == 1 or int.from_bytes(hashlib.sha256(raw.text.encode("utf-8", "replace")).digest()[:6]) < weight * 2**48:
            yield raw


def first_rows(rows: Iterator[tuple[RawRow, Parsed]]) -> list[tuple[RawRow, Parsed]]:
    """The rows up to the first readable one, and as many more as the dialect is told by; few where none is readable."""
    sample: list[tuple[RawRow, Parsed]] = []
    unreadable = 0
    for raw, row in rows:
        sample.append((raw, row))
        if unreadable == len(sample) - 1 and not isinstance(row, dict):
            unreadable += 1
            if unreadable == MOST_UNREADABLE:
                break
        elif len(sample) >= unreadable + LOOKED_AT:
            break
    return sample


def dialect_of(config: SourceConfig, sample: list[tuple[RawRow, Parsed]]) -> tuple[str, str]:
    """The dialect of the first rows, and why it is that one.

    Raises:
        DataError: `auto` finds none that fits, or no row to look at among many.
    """
    rows = [row for _, row in sample if isinstance(row, dict)]
    if config.dialect != "auto":
        return config.dialect, "the config says so"
    if len(sample) == MOST_UNREADABLE and not rows:
        raw, error = sample[0]
        raise DataError(
            f"{config.source}: none of the first {len(sample)} rows is a JSON object; first, {raw.place(config.source)}: {error}"
        )
    if not rows:
        return "unknown", "there is no row to look at"
    try:
        return detect(rows)
    except DataError as error:
        raise DataError(f"{config.source}: {_rows_inside(rows[0])}{error}") from None


def _rows_inside(row: dict[str, Any]) -> str:
    """Says where in an object that is the whole file its rows are, such as ``{"data": [{…}, …]}``; else nothing."""
    for name, value in row.items():
        inside = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
        try:
            detect(inside)
        except DataError:
            continue
        return f"the rows seem to be in the list {name!r}: that list by itself, in a .json file, would be right; "
    return ""


def record_of(row: dict[str, Any], dialect: str, given: list[Tool]) -> tuple[Record, str]:
    """A row as a record, and that as one line of JSON.

    Raises:
        RowError: it cannot be used.
    """
    try:
        record = _in_dialect(row, dialect, given)
        problem = validate.problem(record)
        if problem is not None:
            raise RowError(*problem)
        line = line_of(record)
    except RecursionError:
        raise RowError("too_deep", "nested too deeply") from None
    # Most records have fewer brackets than that altogether.
    if line.count("[") + line.count("{") > MOST_LEVELS and _levels(record) > MOST_LEVELS:
        raise RowError("too_deep", f"nested too deeply: at most {MOST_LEVELS} levels are taken")
    return record, line


def _in_dialect(row: dict[str, Any], dialect: str, given: list[Tool]) -> Record:
    try:
        return DIALECTS[dialect](row, given)
    except RowError as error:
        other = other_than(dialect, row)
        if not other:
            raise
        right = "rows of another layout belong into a place of their own, which ingest.more names"
        raise RowError(error.rule, f"{error}; it is read as {dialect}, and has the fields of {other}: {right}") from None


def _levels(value: Any) -> int:
    """How many lists and objects are in each other, at the deepest place."""
    levels, there = 0, [value]
    while there:
        levels += 1
        inside = (item for one in there for item in (one.values() if isinstance(one, dict) else one))
        there = [item for item in inside if isinstance(item, dict | list)]
    return levels


def line_of(record: Record) -> str:
    """A record as one line of JSON.

    Raises:
        RowError: it holds what no JSON file can.
    """
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        line.encode()
    except UnicodeEncodeError:
        raise RowError("not_unicode", "half of a surrogate pair (an escape such as \\ud83d alone) is no text") from None
    except ValueError:
        raise RowError("not_finite", "a number is too large: it reads as infinite") from None
    return line
