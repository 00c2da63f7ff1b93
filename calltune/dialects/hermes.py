"""Hermes conversations: calls as `<tool_call>` in the text of `conversations` or `messages`. One row:

    {"conversations": [{"from": "system", "value": "You call functions. <tools>[{\\"name\\": ...}]</tools> ..."},
                       {"from": "human", "value": "Who is Ana?"},
                       {"from": "gpt", "value":
                            "<tool_call>{\\"name\\": \\"find_employee\\", \\"arguments\\": {...}}</tool_call>"},
                       {"from": "tool", "value": "<tool_response>\\n{\\"office\\": \\"B2\\"}\\n</tool_response>"},
                       {"from": "gpt", "value": "Ana sits in B2."}]}

The tools are in a `tools` field, or in the system message, between `<tools>` and `</tools>`. Read by `from_hermes`.
"""

import re
from collections.abc import Iterator
from typing import Any

from calltune import python_calls
from calltune.dialects.reading import (
    CALL,
    CALL_END,
    STRICT,
    Row,
    RowError,
    json_field,
    record,
    require_trained_on,
    shown,
    strict_json,
    tool_call,
    tools_field,
)
from calltune.dialects.sharegpt import ROLES
from calltune.parse import blocks
from calltune.records import Message, Record, Tool

# Where the format's own instructions begin: Nous' wording, Qwen's heading, or else the tools themselves.
_INSTRUCTIONS = re.compile(r"You are a function calling AI model|#+ Tools\b|<tools>")
_SENTENCE_END = re.compile(r"[.!?](?=[\"')\]]*(?:\s|$))[\"')\]]*|[。！？]")
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"
_LITERAL_LETTERS = 100_000


def from_hermes(row: Row, tools: list[Tool]) -> Record:
    """Read one conversation.

    Of a system message with tools in it the format's own instructions are left out, from their beginning to the last
    `</tools>` or `</tool_call>`, with the rest of the sentences that they begin and end in: each chat template writes its own.

    Raises:
        RowError: the row cannot be read.
    """
    field = "messages" if row.get("messages") is not None else "conversations"
    turns = json_field(row, field)
    if not isinstance(turns, list) or not turns:
        raise RowError("missing_field", f"{field}: must be a list of turns, not {shown(turns)}")
    messages: list[Message] = []
    own: list[Any] = []
    for number, turn in enumerate(turns):
        where = f"{field}[{number}]"
        role, text = _turn(turn, where)
        if role == "system":
            text, listed = _without_tools(text, where)
            own += listed
            messages += [{"role": "system", "content": text}] if text else []
        elif role == "assistant":
            messages.append(assistant(text, where))
        elif role == "tool" or (role == "user" and text.lstrip().startswith(_RESULT)):
            messages += [{"role": "tool", "content": result} for result in _results(text, where)]
        else:
            messages.append({"role": role, "content": text})
    brought = {"tools": own} if own and json_field(row, "tools") is None else row
    return record(messages, tools_field(brought, "tools", tools, loose=True))


def assistant(text: str, where: str) -> Message:
    """An assistant's turn with the calls taken out of its text.

    Raises:
        RowError: a call is not JSON, or is cut off.
    """
    said: list[str] = []
    calls: list[dict[str, Any]] = []
    position = 0
    while (start := text.find(CALL, position)) >= 0:
        said.append(text[position:start])
        value, position = _call(text, start + len(CALL), f"{where}, call {len(calls) + 1}")
        calls.append(tool_call(value, f"{where}, call {len(calls) + 1}"))
    said.append(text[position:])
    content = "\n".join(part.strip() for part in said if part.strip()) if calls else text
    if CALL_END in content:
        raise RowError("invalid_call", f"{where}: {CALL_END} without {CALL} before it")
    return {
        "role": "assistant",
        **({"content": content} if content or not calls else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _turn(turn: Any, where: str) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise RowError("invalid_message", f"{where}: a turn must be an object, not {shown(turn)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise RowError("invalid_call", f"{where}: its calls stand in a field and not in its text; `openai` reads such rows")
    said = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    if not isinstance(said, str) or not isinstance(text, str):
        raise RowError("invalid_message", f"{where}: a turn needs `from` and `value`, or `role` and `content`, all strings")
    role = {**ROLES, "developer": "developer"}.get(said)
    if role is None or role == "function_call":
        raise RowError("unknown_role", f"{where}: {said!r} is not one of system, human, gpt, tool")
    require_trained_on(turn, role, where)
    return role, text


def _call(text: str, start: int, where: str) -> tuple[Any, int]:
    """The value of a call that begins at `start`, and where its end mark ends; a Python dict is read, too."""
    begin = len(text) - len(text[start:].lstrip())
    try:
        value, end = STRICT.raw_decode(text, begin)
        after = re.compile(r"\s*" + CALL_END).match(text, end)
        if after:
            return value, after.end()
    except (ValueError, RecursionError):
        pass
    end = text.find(CALL_END, begin)
    if end < 0:
        raise RowError("invalid_call", f"{where}: is cut off: there is no {CALL_END}")
    if end - begin > _LITERAL_LETTERS:
        raise RowError("invalid_call", f"{where}: is not JSON")
    try:
        return python_calls.read_value(text[begin:end]), end + len(CALL_END)
    except ValueError as error:
        raise RowError("invalid_call", f"{where}: is neither JSON nor a Python dict: {error}") from None


def _without_tools(text: str, where: str) -> tuple[str, list[Any]]:
    """What a system message says beside the format's instructions, and the tools in it."""
    found: list[Any] = []
    end = 0
    for block, behind in _between(text, "<tools>", "</tools>"):
        inside = block.strip()
        if not inside:
            continue  # "within <tools> </tools> tags": only named
        try:
            found += _listed(inside)
        except ValueError as error:
            raise RowError("invalid_tool", f"{where}: the text between <tools> and </tools> is not JSON: {error}") from None
        end = behind
    if not end:
        return text, []
    last = text.rfind(CALL_END)
    inside_one = last >= end
    end = max(end, last + len(CALL_END) if last >= 0 else 0)
    first = _INSTRUCTIONS.search(text)
    before = text[: first.start()] if first else ""
    if first and first[0] == "<tools>":
        whole, before = before.rstrip(), _without_last_sentence(before)
        inside_one = inside_one or before != whole
    after = _without_first_sentence(text[end:], inside_one)
    return "\n\n".join(part.strip() for part in (before, after) if part.strip()), found


def _without_last_sentence(text: str) -> str:
    """A text without the sentence in which it breaks off: one of its last line without an end, or with a colon for one."""
    line_breaks_off = text.rstrip(" \t")[-1:] != "\n"
    text = text.rstrip()
    if not line_breaks_off and not text.endswith((":", "：")):
        return text
    line = text.rfind("\n") + 1
    ends = [found.end() for found in _SENTENCE_END.finditer(text, line)]
    return text[: ends[-1] if ends else line]


def _without_first_sentence(text: str, inside_one: bool) -> str:
    """A text without the end of a sentence that it begins with, on the same line; one that begins a sentence stays as it is.

    Where letters have no case, as in Chinese, that is told by whether what stands before it broke off: is `inside_one`.
    """
    line, _, rest = text.partition("\n")
    begin = line.strip()[:1]
    goes_on = begin.islower() or (inside_one and begin.isalpha() and not begin.isupper())
    if not goes_on and begin not in tuple(",.;:!?)\"'`。！？，；：）"):
        return text
    end = _SENTENCE_END.search(line)
    return f"{line[end.end() :] if end else ''}\n{rest}"


def _listed(inside: str) -> list[Any]:
    """A JSON list of tools, or one tool a line."""
    try:
        value = strict_json(inside)
    except ValueError:
        return [strict_json(line) for line in inside.splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


def _results(text: str, where: str) -> list[str]:
    beside, results = blocks(text, (_RESULT, _RESULT_END))
    if not results:
        return [text]
    if beside.strip():
        said = shown(beside.strip())
        raise RowError("invalid_message", f"{where}: has a text beside its {_RESULT}, which would be lost: {said}")
    return [result.strip() for result in results]


def _between(text: str, begin: str, end: str) -> Iterator[tuple[str, int]]:
    """Yield what stands between two marks, and where the second one ends.

    An expression would look for an end that is not there once for each beginning: minutes, of a megabyte of them.
    """
    behind = 0
    while (start := text.find(begin, behind)) >= 0 and (stop := text.find(end, start)) >= 0:
        behind = stop + len(end)
        yield text[start + len(begin) : stop], behind
