"""The file of instructions with their reference answers."""

import json
from pathlib import Path
from typing import Any

from calltune import validate
from calltune.dialects import DIALECTS, detect
from calltune.dialects.reading import RowError, strict_json
from calltune.errors import DataError
from calltune.input_files import text_of
from calltune.records import Record, content_sha256

LOOKED_AT = 100
"""Rows whose fields tell the dialect."""


def questions(file: Path, limit: int = 0) -> list[Record]:
    """The file's rows as records, each with its place in the file as id, no tools, and the reference answer as last turn.

    Strict, since every row is to be a question: one that cannot be used is an error, and of equal ones the first is taken.

    Args:
        file: JSON lines or a JSON array, in any dialect that Calltune knows.
        limit: the first so many; 0: all.

    Raises:
        DataError: the file has another form or no row, or a row has no text for an answer.
    """
    rows = _rows(file)
    try:
        dialect, _ = detect(rows[:LOOKED_AT])
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    found: dict[str, Record] = {}
    for number, row in enumerate(rows, 1):
        record = _record(row, dialect, f"{file}, row {number}")
        found.setdefault(content_sha256(record), {"id": str(number), **record})
    return list(found.values())[: limit or None]


def _rows(file: Path) -> list[dict[str, Any]]:
    text = text_of(file)
    if text.lstrip().startswith("["):
        rows = [(f"row {number}", row) for number, row in enumerate(_json(text, str(file)), 1)]
    else:
        # Not splitlines, for which some letters inside of a JSON string end a line, too.
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [(f"line {number}", _json(line, f"{file}, line {number}")) for number, line in lines]
    if not rows:
        raise DataError(f"{file}: no row in it")
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{file}, {where}: a row must be a JSON object")
    return [row for _, row in rows]


def _json(text: str, where: str) -> Any:
    try:
        return strict_json(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}; JSON lines or a JSON array would be right") from None


def _record(row: dict[str, Any], dialect: str, where: str) -> Record:
    try:
        record = DIALECTS[dialect](row, [])
    except RowError as error:
        raise DataError(f"{where}: {error}") from None
    problem = validate.problem(record)
    if problem is not None:
        raise DataError(f"{where}: {problem[1]}")
    if record["messages"][-1].get("tool_calls"):
        raise DataError(f"{where}: the reference answer must be a text, and calls a tool")
    found = {"messages": record["messages"], "tools": []}
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair (an escape such as \\ud83d alone) is no text") from None
    return found
