"""Data formats that users have, one file each, and how to tell them apart.

A dialect is a function ``(row, tools) -> record without id and source``. `tools` are those of the config's tools file,
for rows that bring none of their own. It raises :class:`calltune.dialects.reading.RowError` for a row it cannot read.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from calltune.dialects.alpaca import from_alpaca
from calltune.dialects.bfcl import from_bfcl
from calltune.dialects.hermes import from_hermes
from calltune.dialects.openai import from_openai
from calltune.dialects.prompt_completion import from_prompt_completion
from calltune.dialects.reading import CALL
from calltune.dialects.sharegpt import from_sharegpt
from calltune.dialects.tool_choice import from_tool_choice
from calltune.dialects.xlam import from_xlam
from calltune.errors import DataError
from calltune.records import Record, Tool

Dialect = Callable[[dict[str, Any], list[Tool]], Record]

DIALECTS: dict[str, Dialect] = {
    "openai": from_openai,
    "xlam": from_xlam,
    "sharegpt": from_sharegpt,
    "tool_choice": from_tool_choice,
    "alpaca": from_alpaca,
    "hermes": from_hermes,
    "prompt_completion": from_prompt_completion,
    "bfcl": from_bfcl,
}

# The fields that only this dialect has, in the order in which they are looked for.
_SIGNS: list[tuple[str, tuple[str, ...]]] = [
    ("openai", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("xlam", ("query", "answers")),
    ("tool_choice", ("user_content", "tool_name")),
    ("alpaca", ("instruction", "output")),
    ("prompt_completion", ("prompt", "completion")),
    ("bfcl", ("question", "function")),
]
_IN_TEXT = "hermes"
"""Has the fields of openai or sharegpt, and its calls or tools in their texts."""


def detect(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """Tell the dialect by the fields of some rows; the one that most of them have.

    Returns:
        its name, and why.

    Raises:
        DataError: no row has the fields of a known dialect.
    """
    found = Counter(name for row in rows for name in [_dialect_of(row)] if name is not None)
    if not found:
        seen = ", ".join(sorted({repr(str(key)[:40]) for row in rows[:10] for key in row})[:12]) or "no field at all"
        known = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in _SIGNS)
        raise DataError(f"the rows have the fields of no known dialect: they have {seen}. Known: {known}")
    name, count = found.most_common(1)[0]
    if found[_IN_TEXT] and name in ("openai", "sharegpt") and not any(map(_has_call_fields, rows)):
        name, count = _IN_TEXT, found[_IN_TEXT]  # the other rows call nothing, and read alike in both
    if name == _IN_TEXT:
        return name, f"{count} of the first {len(rows)} rows have {CALL} or <tools> in their text"
    fields = " and ".join(f"`{field}`" for field in dict(_SIGNS)[name])
    return name, f"{count} of the first {len(rows)} rows have {fields}"


def other_than(dialect: str, row: dict[str, Any]) -> str:
    """The dialect of a row that lacks this one's fields; empty where it has them, or no other one's."""
    has_them = (
        "messages" in row or "conversations" in row
        if dialect == _IN_TEXT
        else all(field in row for field in dict(_SIGNS)[dialect])
    )
    return "" if has_them else _dialect_of(row) or ""


def _dialect_of(row: dict[str, Any]) -> str | None:
    name = next((name for name, fields in _SIGNS if all(field in row for field in fields)), None)
    if name in ("openai", "sharegpt") and not _has_call_fields(row) and any(map(_is_hermes, _turns(row))):
        return _IN_TEXT
    return name


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    turns = row.get("messages", row.get("conversations"))
    if isinstance(turns, str):  # a column of CSV or Parquet
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            return []
    return [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []


def _has_call_fields(row: dict[str, Any]) -> bool:
    return any(turn.get("tool_calls") or turn.get("function_call") or turn.get("from") == "function_call" for turn in _turns(row))


def _is_hermes(turn: dict[str, Any]) -> bool:
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    marks = {"gpt": (CALL,), "assistant": (CALL,), "system": ("<tools>",)}.get(str(role), ())
    return isinstance(text, str) and any(mark in text for mark in marks)
