"""What the user says in a row of any dialect, and nothing else of it: a benchmark's questions often come without answers.

Read by `asked`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from calltune.dialects.alpaca import instruction
from calltune.dialects.openai import content_text
from calltune.dialects.reading import Row, RowError, json_field, role_of, shown, text_field
from calltune.dialects.sharegpt import ROLES


def asked(row: Row) -> list[str]:
    """The user's turns, in order; none of them empty.

    Raises:
        RowError: the row has the fields of no dialect, or not in its form.
    """
    for field, read in _READ.items():
        if field in row:
            return [text for text in read(row, field) if text.strip()]
    raise RowError("missing_field", f"it asks nothing: it has none of {', '.join(_READ)}")


def _turns(row: Row, field: str) -> list[str]:
    return list(_said(json_field(row, field), field))


def _text_or_turns(row: Row, field: str) -> list[str]:
    value = row[field]
    return [value] if isinstance(value, str) else list(_said(value, field))


def _said(turns: Any, where: str) -> Iterator[str]:
    """The user's among messages; the Berkeley leaderboard's are in lists of lists, one for each turn."""
    if not isinstance(turns, list):
        raise RowError("missing_field", f"{where}: must be a list of messages, not {shown(turns)}")
    for number, turn in enumerate(turns):
        place = f"{where}[{number}]"
        if isinstance(turn, list):
            yield from _said(turn, place)
            continue
        field = "from" if isinstance(turn, dict) and "from" in turn else "role"
        if ROLES.get(role_of(turn, place, field)) == "user":
            yield content_text(turn.get("content", turn.get("value")), place) or ""


_READ: dict[str, Callable[[Row, str], list[str]]] = {
    "messages": _turns,
    "conversations": _turns,
    "query": lambda row, field: [text_field(row, field)],
    "user_content": lambda row, field: [text_field(row, field)],
    "instruction": lambda row, _: [instruction(row)],
    "prompt": _text_or_turns,
    "question": _text_or_turns,
}
"""How to read the field that has the question, for each dialect, in the order in which `detect` tells them apart."""
