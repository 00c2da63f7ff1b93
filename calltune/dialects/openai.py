"""OpenAI's chat format: `messages` and `tools`, or the older `functions`; and Calltune's own record. One row:

    {"messages": [{"role": "user", "content": "Who is Ana?"},
                  {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
                   "function": {"name": "find_employee", "arguments": "{\\"name\\": \\"Ana\\"}"}}]}],
     "tools": [{"type": "function", "function": {"name": "find_employee", "parameters": {...}}}]}

Read by `from_openai`.
"""

from itertools import groupby
from typing import Any

from calltune.dialects.reading import (
    Row,
    RowError,
    json_field,
    record,
    require_trained_on,
    role_of,
    shown,
    tool_call,
    tools_field,
)
from calltune.records import Message, Record, Tool, calls_of


def from_openai(row: Row, tools: list[Tool]) -> Record:
    """Read one row of chat messages.

    Raises:
        RowError: the row cannot be read.
    """
    messages = json_field(row, "messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("missing_field", f"messages: must be a list of messages, not {shown(messages)}")
    own = "tools" if row.get("tools") is not None or "functions" not in row else "functions"
    names: dict[str, str] = {}
    read = [_message(message, f"messages[{number}]", names) for number, message in enumerate(messages)]
    return record(_with_results_in_order(read, messages), tools_field(row, own, tools), json_field(row, "expected"))


def _with_results_in_order(read: list[Message], rows: list[Row]) -> list[Message]:
    """The results of parallel calls in the order of these: records have no ids, and a result's place says what it answers.

    Of results without ids the tool's name tells it, where no other call beside has that one.

    Raises:
        RowError: two results are of one call, or one of a call before has none.
    """
    found: list[Message] = []
    calls: dict[str, list[Any]] = {}
    for are_results, run in groupby(zip(read, rows, strict=True), lambda pair: pair[0]["role"] == "tool"):
        some = list(run)
        by = next((field for field in calls if _tells_call(field, calls[field], [row for _, row in some])), "")
        if are_results and by:
            some.sort(key=lambda pair: calls[by].index(pair[1][by]))
            if [row[by] for _, row in some] != calls[by][: len(some)]:
                where = f"messages[{len(found)}].{by}"
                raise RowError(
                    "invalid_message", f"{where}: one of the calls before has two results, or a later one has the first"
                )
        message, row = some[-1]
        calls = {
            "tool_call_id": [call.get("id") for call in row.get("tool_calls") or []],
            "name": [call["name"] for call in calls_of(message)],
        }
        found += [message for message, _ in some]
    return found


def _tells_call(field: str, calls: list[Any], results: list[Row]) -> bool:
    """Whether this field says of each result which call it is of."""
    distinct = all(isinstance(one, str | int) for one in calls) and len(set(calls)) == len(calls)
    return distinct and all(row.get(field) in calls for row in results)


def _message(message: Any, where: str, names: dict[str, str]) -> Message:
    said = role_of(message, where)
    require_trained_on(message, said, where)
    role = {"function": "tool"}.get(said, said)
    read: Message = {"role": role}
    content = content_text(message.get("content"), where)
    calls = _calls(message, where, names)
    if content or (content is not None and not calls):
        read["content"] = content
    if isinstance(message.get("reasoning_content"), str) and message["reasoning_content"].strip():
        read["reasoning_content"] = message["reasoning_content"]
    if calls:
        read["tool_calls"] = calls
    if role == "tool":
        name = message.get("name")
        reference = message.get("tool_call_id")
        if isinstance(reference, str) and names:
            if reference not in names:
                raise RowError("invalid_message", f"{where}.tool_call_id: {reference!r} answers none of the calls before")
            name = names[reference]
        if isinstance(name, str) and name:
            read["name"] = name
    return read


def content_text(content: Any, where: str) -> str | None:
    """A message's text, also where it is a list of parts.

    Raises:
        RowError: it is something else, or a part of it is no text.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("invalid_content", f"{where}.content: must be a string, not {shown(content)}")
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RowError("invalid_content", f"{where}.content[{number}]: only parts of type text can be used")
        texts.append(part["text"])
    return "".join(texts)


def _calls(message: Row, where: str, names: dict[str, str]) -> list[dict[str, Any]]:
    if message.get("function_call") is not None:
        if message.get("tool_calls"):
            raise RowError("invalid_call", f"{where}: has tool_calls and a function_call: one of them would be lost")
        return [tool_call(message["function_call"], f"{where}.function_call")]
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise RowError("invalid_call", f"{where}.tool_calls: must be a list, not {shown(calls)}")
    read = [tool_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
    for call, normal in zip(calls, read, strict=True):
        if isinstance(call.get("id"), str):
            names[call["id"]] = normal["function"]["name"]
    return read
