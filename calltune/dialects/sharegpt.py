"""ShareGPT conversations with tools: `conversations` of `from` and `value`, `tools` a list or its JSON. One row:

    {"conversations": [{"from": "human", "value": "Who is Ana?"},
                       {"from": "function_call",
                            "value": "{\\"name\\": \\"find_employee\\", \\"arguments\\": {\\"name\\": \\"Ana\\"}}"},
                       {"from": "observation", "value": "{\\"office\\": \\"B2\\"}"},
                       {"from": "gpt", "value": "Ana sits in B2."}],
     "tools": "[{\\"name\\": \\"find_employee\\", \\"parameters\\": {...}}]"}

Read by `from_sharegpt`.
"""

from typing import Any

from calltune.dialects.reading import (
    Row,
    RowError,
    json_field,
    optional_text,
    record,
    require_trained_on,
    shown,
    tool_call,
    tools_field,
)
from calltune.records import Message, Record, Tool

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant"), "assistant"),
    **dict.fromkeys(("observation", "tool"), "tool"),
    "system": "system",
    "function_call": "function_call",
}


def from_sharegpt(row: Row, tools: list[Tool]) -> Record:
    """Read one conversation. An answer and the calls right after it, or several calls in a row, are one turn.

    Raises:
        RowError: the row cannot be read.
    """
    turns = json_field(row, "conversations")
    if not isinstance(turns, list) or not turns:
        raise RowError("missing_field", f"conversations: must be a list of turns, not {shown(turns)}")
    system = optional_text(row, "system")
    messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for number, turn in enumerate(turns):
        _add(messages, turn, f"conversations[{number}]")
    return record(messages, tools_field(row, "tools", tools))


def _add(messages: list[Message], turn: Any, where: str) -> None:
    if not isinstance(turn, dict):
        raise RowError("invalid_message", f"{where}: a turn needs `from` and `value`, both strings, not {shown(turn)}")
    for field in ("from", "value"):
        if not isinstance(turn.get(field), str):
            raise RowError("invalid_message", f"{where}.{field}: must be a string, not {shown(turn.get(field))}")
    role = ROLES.get(turn["from"])
    if role is None:
        raise RowError("unknown_role", f"{where}.from: {turn['from']!r} is not one of {', '.join(ROLES)}")
    require_trained_on(turn, role, where)
    if role != "function_call":
        messages.append({"role": role, "content": turn["value"]})
        return
    calls = json_field(turn, "value")
    calls = [
        tool_call(call, f"{where}.value[{index}]") for index, call in enumerate(calls if isinstance(calls, list) else [calls])
    ]
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).extend(calls)
    else:
        messages.append({"role": "assistant", "tool_calls": calls})
