"""Calls that stand in the assistant's text in a form that no dialect reads: they are told of, since they are kept as answers.

[track_parcel(tracking_number='A1')]
{"name": "track_parcel", "arguments": {"tracking_number": "A1"}}
"""

import re
from typing import Any

from calltune.dialects.reading import strict_json
from calltune.records import Record

SHOWN_LETTERS = 60
_PYTHON = re.compile(r"(\[\s*)?([^\W\d][\w .-]*)\(\s*(?:\w+\s*=|\))")
"""How a call begins as Python has it; ToolACE's names have spaces: ``[Get Weather(city='Oslo')]``."""


def written_call(record: Record) -> str:
    """The first answer that looks like a call as a whole; empty where none does."""
    for message in record["messages"]:
        if message["role"] != "assistant" or message.get("tool_calls"):
            continue
        text = message["content"].strip()
        # Most answers are told by these two letters.
        if (text[:1] in "[{" and text[-1:] in "]}" and _is_json_call(text)) or (text[-1:] in ")]" and _is_python(text, record)):
            return text
    return ""


def written_calls_note(rows: int, of: str, place: str, text: str) -> str:
    """What is said of such rows.

    Args:
        rows: how many.
        of: all rows that were looked at: "70 rows".
        place: of the first one.
        text: its answer, with no key in it: what is shown of it may end in the middle of one.
    """
    shown = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
    return (
        f"an answer of {rows} of {of} looks like a call in a text that no dialect reads, and is kept as an answer "
        f"(docs/dialects.md, What is not read); first, {place}: {' '.join(shown.split())}"
    )


def _is_json_call(text: str) -> bool:
    try:
        value = strict_json(text)
    except ValueError:
        return False
    return all(map(_has_call, value)) if isinstance(value, list) and value else _has_call(value)


def _has_call(value: Any) -> bool:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    return isinstance(function.get("arguments", function.get("parameters")), dict | str)


def _is_python(text: str, record: Record) -> bool:
    begun = _PYTHON.match(text)
    if begun is None:
        return False
    if begun[1]:
        return text.endswith("]") and text[:-1].rstrip().endswith(")")
    return text.endswith(")") and any(tool["function"]["name"] == begun[2] for tool in record["tools"])
