"""The Berkeley Function Calling Leaderboard: `question`, `function`, `ground_truth` with its accepted values. One row:

    {"id": "simple_0", "question": [[{"role": "user", "content": "Weather in Oslo?"}]],
     "function": [{"name": "weather", "description": "...", "parameters": {"type": "dict",
                   "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}],
     "ground_truth": [{"weather": {"city": ["Oslo", "Oslo, Norway"], "days": ["", 1]}}]}

The leaderboard keeps the answers in files of their own; they are joined by `id` first. Read by `from_bfcl`.
"""

from typing import Any

from calltune.dialects.reading import Row, RowError, guarded, json_field, record, shown, tools_field
from calltune.records import Call, Message, Record, Tool


def from_bfcl(row: Row, tools: list[Tool]) -> Record:
    """Read one row. The assistant makes the calls with the first accepted values; `expected` has all of them.

    Raises:
        RowError: the row cannot be read; also where it has no answer, or one that is code or a text.
    """
    messages = _messages(json_field(row, "question"))
    own = tools_field(row, "function", tools, loose=True)
    truth = json_field(row, "ground_truth")
    if not isinstance(truth, list) or not truth:
        raise RowError("missing_field", f"ground_truth: must be a list of calls with accepted values, not {shown(truth)}")
    expected = [_expected(call, f"ground_truth[{number}]") for number, call in enumerate(truth)]
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
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowError("invalid_message", f"question[{number}]: must be an object with a role, not {shown(message)}")
    return [{key: message[key] for key in ("role", "content") if key in message} for message in question]


def _expected(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, str | list):
        raise RowError("not_representable", f"{where}: is {shown(call)}, a text or code, not a call with its accepted values")
    if not isinstance(call, dict) or len(call) != 1:
        raise RowError("invalid_expected", f"{where}: must be an object with one call, by its name, not {shown(call)}")
    ((name, arguments),) = call.items()
    if not isinstance(arguments, dict):
        raise RowError("invalid_expected", f"{where}.{name}: must have an object of arguments, not {shown(arguments)}")
    for argument, accepted in arguments.items():
        if not isinstance(accepted, list) or not accepted:
            raise RowError("invalid_expected", f"{where}.{name}.{argument}: must be a list of accepted values, at least one")
    return {"name": name, "arguments": arguments}


def _first(call: dict[str, Any], required: Any) -> Call:
    """A call with the first accepted value of each argument; one that may be absent, and need not be given, is absent."""
    arguments = {}
    for name, accepted in call["arguments"].items():
        if "" not in accepted:
            arguments[name] = _plain(accepted[0])
        elif isinstance(required, list) and name in required:
            arguments[name] = _plain(next((value for value in accepted if value != ""), ""))
    return {"name": call["name"], "arguments": arguments}


def _plain(value: Any) -> Any:
    """A value out of its accepted form, in which each value of an object is a list of accepted ones; one level deep."""
    if isinstance(value, dict):
        options = {key: item if isinstance(item, list) else [item] for key, item in value.items()}
        chosen = {key: [one for one in accepted if one != ""] for key, accepted in options.items()}
        return {key: some[0] for key, some in chosen.items() if some}
    return [_plain(item) for item in value] if isinstance(value, list) else value
