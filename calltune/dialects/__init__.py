"""Data formats that users have, one file each, and how to tell them apart.

A dialect is a function ``(row, tools) -> record without id and source``. `tools` are those of the config's tools file,
for rows that bring none of their own. It raises :class:`calltune.dialects.reading.RowError` for a row it cannot read.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from calltune.dialects.alpaca import from_alpaca
from calltune.dialects.openai import from_openai
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
}

# The fields that only this dialect has, in the order in which they are looked for.
_SIGNS: list[tuple[str, tuple[str, ...]]] = [
    ("openai", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("xlam", ("query", "answers")),
    ("tool_choice", ("user_content", "tool_name")),
    ("alpaca", ("instruction", "output")),
]


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
    fields = " and ".join(f"`{field}`" for field in dict(_SIGNS)[name])
    return name, f"{count} of the first {len(rows)} rows have {fields}"


def _dialect_of(row: dict[str, Any]) -> str | None:
    return next((name for name, fields in _SIGNS if all(field in row for field in fields)), None)
