"""What the dialects share: reading JSON strictly, tools, calls, and putting the record together."""

import json
import re
from functools import lru_cache
from typing import Any

from calltune import guard
from calltune import tools as tool_schemas
from calltune.errors import DataError
from calltune.loose_types import from_loose_types
from calltune.records import Call, Message, Record, Tool, once

Row = dict[str, Any]
"""One row of a data file, as its JSON has it."""
CALL, CALL_END = "<tool_call>", "</tool_call>"
"""Around a call in a text, where a dialect has it there."""
_NOT_ARGUMENTS = ("parameters", "args", "input", "params", "kwargs")
"""What others call the arguments of a call."""


# Also as Python prints them, which is no JSON: taken for a text it would become the question.
_MESSAGES = re.compile(r"\s*(?:\[\s*){1,2}\{\s*[\"'](?:role|content)[\"']\s*:")


class RowError(DataError):
    """A row that cannot be used; `rule` names the reason in one word, for counting."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def strict_json(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity, and no key twice, of which Python would keep the last alone.

    Raises:
        ValueError: it is not JSON, a number is out of range, or it is nested deeper than Python can follow.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_field(row: Row, name: str) -> Any:
    """A field that is JSON, or JSON inside a string; None when it is absent, null or blank.

    Raises:
        RowError: the string is not JSON.
    """
    value = row.get(name)
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return strict_json(value)
    except ValueError as error:
        raise RowError("not_json", f"{name}: the string is not JSON: {error}") from None


def text_field(row: Row, name: str) -> str:
    """A field that must be a string.

    Raises:
        RowError: it is something else, or absent.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError("missing_field", f"{name}: must be a string, not {shown(value)}")
    return value


def text_or_messages(row: Row, name: str) -> Any:
    """A field that is a text, or a list of messages; a column of CSV holds that as JSON in a string.

    Raises:
        RowError: it begins as such a list does, and is not JSON.
    """
    value = row.get(name)
    return json_field(row, name) if isinstance(value, str) and _MESSAGES.match(value) else value


def optional_text(row: Row, name: str) -> str:
    """A field that is a string, or absent: then empty."""
    return "" if row.get(name) is None else text_field(row, name)


def role_of(message: Any, where: str, field: str = "role") -> str:
    """The role of a message, which stands in this field.

    Raises:
        RowError: it is no message, or has none.
    """
    if not isinstance(message, dict):
        raise RowError("invalid_message", f"{where}: must be an object with a role, not {shown(message)}")
    role = message.get(field)
    if not isinstance(role, str):
        raise RowError("invalid_message", f"{where}.{field}: must be a string, not {shown(role)}")
    return role


def require_trained_on(message: Row, role: str, where: str) -> None:
    """Refuse an assistant's turn that its author excluded from training: Calltune trains on every one, and on no other.

    Raises:
        RowError: it has the weight 0.
    """
    if role in ("assistant", "function_call") and message.get("weight") == 0:
        raise RowError("unsupported_weight", f"{where}.weight: 0 excludes a turn from training, which is not supported")


def tools_field(row: Row, name: str, given: list[Tool], loose: bool = False) -> list[Tool]:
    """The row's own tools; where the field is absent, null or blank, those `given` beside. An empty list means no tools.

    Args:
        row: one row.
        name: the field, a list or the JSON of one.
        given: the tools of the config's tools file.
        loose: whether the parameters have xLAM's types.

    Raises:
        RowError: not a list of tools, a tool is not valid, or two tools have one name.
    """
    tools = json_field(row, name)
    if tools is None:
        return given
    if not isinstance(tools, list):
        raise RowError("invalid_tool", f"{name}: must be a list of tools, not {shown(tools)}")
    found: dict[str, Tool] = {}
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise RowError("invalid_tool", f"{name}[{number}]: must be an object, not {shown(tool)}")
        try:
            normal = _tool(json.dumps(tool), loose)
        except DataError as error:
            raise RowError("invalid_tool", f"{name}[{number}]: {error}") from None
        key = normal["function"]["name"]
        if found.setdefault(key, normal) != normal:
            raise RowError("invalid_tool", f"{name}[{number}]: the tool {key!r} is defined twice, differently")
    return list(found.values())


def tool_call(value: Any, where: str) -> dict[str, Any]:
    """A call in the record's form, from ``{"name", "arguments"}``, bare or wrapped, arguments an object or its JSON.

    Raises:
        RowError: it has no name, or its arguments are no object.
    """
    function = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(function, dict):
        raise RowError("invalid_call", f"{where}: a call needs a name and arguments, not {shown(function)}")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_call", f"{where}: a call needs a name, not {shown(function.get('name'))}")
    arguments = function.get("arguments")
    other = next((name for name in _NOT_ARGUMENTS if function.get(name)), None) if arguments is None else None
    if other is not None:
        raise RowError("invalid_call", f"{where}: has `{other}` where `arguments` would be right, and would lose it")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = strict_json(arguments)
        except ValueError as error:
            raise RowError("invalid_call", f"{where}.arguments: the string is not JSON: {error}") from None
    arguments = {} if arguments is None or arguments == "" else arguments
    if not isinstance(arguments, dict):
        raise RowError("invalid_call", f"{where}.arguments: must be an object, not {shown(arguments)}")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def guarded(call: Call, tools: list[Tool], coerce: bool = False) -> guard.Guarded:
    """What the guard says of a call.

    Raises:
        RowError: the tool's own schema is at fault.
    """
    try:
        return guard.check(call, tools, coerce)
    except Exception as error:  # a `$ref` may reach where check_schema has not looked: anything can come out of that
        raise RowError("invalid_tool", f"tool {call['name']!r}: its parameters cannot be used: {error}") from None


def record(messages: list[Message], tools: list[Tool], expected: Any = None) -> Record:
    """The record, without `id` and `source`. An argument that is null and not required is left out: it was not given.

    Raises:
        RowError: a call stands in the assistant's text, where it would be taken for an answer that calls nothing.
    """
    required = {tool["function"]["name"]: tool["function"]["parameters"].get("required", []) for tool in tools}
    calls = bool(tools) or any(message["role"] == "system" and "<tools>" in str(message.get("content")) for message in messages)
    for number, message in enumerate(messages):
        said = message.get("content") if calls and message["role"] == "assistant" else None
        if isinstance(said, str) and CALL in said and CALL_END in said:
            where = f"messages[{number}]: a call stands in its text ({CALL})"
            raise RowError("invalid_call", f"{where}; `hermes` reads such rows, and `prompt_completion` such completions")
        for call in message.get("tool_calls", []):
            function = call["function"]
            needed = required.get(function["name"], [])
            function["arguments"] = {k: v for k, v in function["arguments"].items() if v is not None or k in needed}
    return {"messages": messages, "tools": tools, **({} if expected is None else {"expected": expected})}


def shown(value: Any) -> str:
    """A value in an error message: itself where that is short, else its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float | str) and len(repr(value)) <= 60:
        return repr(value)
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "an object" if isinstance(value, dict) else "a long value"


@lru_cache(maxsize=8192)
def _tool(text: str, loose: bool) -> Tool:
    # Rows of one data set share their tools, and checking a schema costs more than all else that is done to a row.
    tool = json.loads(text)
    where = "the tool"
    return tool_schemas.normalise(from_loose_types(tool, where) if loose else tool, where)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=once)
"""Reads as :func:`strict_json` does, for a value that something follows."""
