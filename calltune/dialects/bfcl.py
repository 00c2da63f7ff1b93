"""The Berkeley Function Calling Leaderboard: `question`, `function`, `ground_truth` with its accepted values. One row:

    {"id": "simple_0", "question": [[{"role": "user", "content": "Weather in Oslo?"}]],
     "function": [{"name": "weather", "description": "...", "parameters": {"type": "dict",
                   "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}],
     "ground_truth": [{"weather": {"city": ["Oslo", "Oslo, Norway"], "days": ["", 1]}}]}

The leaderboard keeps the answers in files of their own; they are joined by `id` first. Read by `from_bfcl`.
"""

from typing import Any

from calltune.dialects.reading import Row, RowError, guarded, json_field, record, role_of, shown, text_or_messages, tools_field
from calltune.guard import check_value
from calltune.match import plain_values
from calltune.records import Call, Message, Record, Tool


def from_bfcl(row: Row, tools: list[Tool]) -> Record:
    """Read one row. The assistant makes the calls with the first accepted values; `expected` has all of them.

    Raises:
        RowError: the row cannot be read; also where it has no answer, or one that is code or a text.
    """
    messages = _messages(text_or_messages(row, "question"))
    own = tools_field(row, "function", tools, loose=True)
    truth = json_field(row, "ground_truth")
    if not isinstance(truth, list) or not truth:
        raise RowError("missing_field", f"ground_truth: must be a list of calls with accepted values, not {shown(truth)}")
    expected = [_expected(call, f"ground_truth[{number}]") for number, call in enumerate(truth)]
    expected = [_possible(call, own) for call in expected]
    needed = {tool["function"]["name"]: tool["function"]["parameters"].get("required", []) for tool in own}
    calls = [_first(call, needed.get(call["name"], [])) for call in expected]
    made = [guarded(call, own, coerce=True).call for call in calls]
    answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in made]}
    return record([*messages, answer], own, expected)


def _messages(question: Any) -> list[Message]:
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    if isinstance(question, list) and question and isinstance(question[0], list):
        if len(question) > 1:
            raise RowError("not_representable", f"question: has {len(question)} turns, whose answers only running code can tell")
        question = question[0]
    if not isinstance(question, list) or not question:
        raise RowError("missing_field", f"question: must be a text or a list of messages, not {shown(question)}")
    for number, message in enumerate(question):
        role_of(message, f"question[{number}]")
    return [{key: message[key] for key in ("role", "content") if key in message} for message in question]


def _expected(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, str | list):
        raise RowError("not_representable", f"{where}: is {shown(call)}, a text or code, not a call with its accepted values")
    if not isinstance(call, dict):
        raise RowError("invalid_expected", f"{where}: must be an object with one call, by its name, not {shown(call)}")
    if len(call) != 1:
        raise RowError("invalid_expected", f"{where}: must have one call, by its name, not {len(call)}")
    ((name, arguments),) = call.items()
    if not isinstance(arguments, dict):
        raise RowError("invalid_expected", f"{where}.{name}: must have an object of arguments, not {shown(arguments)}")
    for argument, accepted in arguments.items():
        if not isinstance(accepted, list) or not accepted:
            raise RowError("invalid_expected", f"{where}.{name}.{argument}: must be a list of accepted values, at least one")
    return {"name": name, "arguments": arguments}


def _possible(call: dict[str, Any], tools: list[Tool]) -> dict[str, Any]:
    """An expected call without the values that its tool's schema refuses, such as a null for "": no valid call has them.

    Where an argument has no others they stay, and say why the row is refused.
    """
    tool = next((tool for tool in tools if tool["function"]["name"] == call["name"]), None)
    if tool is None:
        return call
    possible = {
        name: [one for one in accepted if one == "" or _fits(tool, name, one)] for name, accepted in call["arguments"].items()
    }
    return {**call, "arguments": {name: possible[name] or accepted for name, accepted in call["arguments"].items()}}


def _fits(tool: Tool, argument: str, accepted: Any) -> bool:
    try:
        return all(check_value(tool, argument, value) is None for value in plain_values(accepted))
    except Exception as error:  # as of guarded: it is the tool's fault
        raise RowError("invalid_tool", f"tool {tool['function']['name']!r}: its parameters cannot be used: {error}") from None


def _first(call: dict[str, Any], required: Any) -> Call:
    """A call with the first accepted value of each argument; one that may be absent, and need not be given, is absent."""
    arguments = {}
    for name, accepted in call["arguments"].items():
        if "" not in accepted:
            arguments[name] = plain_values(accepted[0])[0]
        elif isinstance(required, list) and name in required:
            arguments[name] = plain_values(next((value for value in accepted if value != ""), ""))[0]
    return {"name": call["name"], "arguments": arguments}
