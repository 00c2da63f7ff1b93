"""A prompt and its completion, both texts or lists of messages. One row:

    {"prompt": "Who is Ana?", "completion": "<tool_call>{\\"name\\": \\"find_employee\\", \\"arguments\\": {...}}</tool_call>",
     "tools": [{"name": "find_employee", "parameters": {...}}]}

or ``{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}``.

Read by `from_prompt_completion`.
"""

from typing import Any

from calltune.dialects.hermes import assistant
from calltune.dialects.openai import from_openai
from calltune.dialects.reading import CALL, Row, RowError, json_field, record, shown, text_field, text_or_messages, tools_field
from calltune.records import Record, Tool


def from_prompt_completion(row: Row, tools: list[Tool]) -> Record:
    """Read one row; a `<tool_call>` in a completion's text is a call.

    Raises:
        RowError: the row cannot be read.
    """
    row = {**row, **{name: text_or_messages(row, name) for name in ("prompt", "completion")}}
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        messages = [_with_calls(*one) for one in (*_messages(row, "prompt"), *_messages(row, "completion"))]
        return from_openai({**row, "messages": messages}, tools)
    asked, answered = text_field(row, "prompt"), text_field(row, "completion")
    messages = [{"role": "user", "content": asked}, assistant(answered, "completion")]
    return record(messages, tools_field(row, "tools", tools), json_field(row, "expected"))


def _messages(row: Row, name: str) -> list[tuple[Any, str]]:
    """The messages, and where each stands."""
    value = row.get(name)
    if isinstance(value, str):
        return [({"role": "user" if name == "prompt" else "assistant", "content": value}, name)]
    if not isinstance(value, list):
        raise RowError("missing_field", f"{name}: must be a text or a list of messages, not {shown(value)}")
    return [(message, f"{name}[{number}]") for number, message in enumerate(value)]


def _with_calls(message: Any, where: str) -> Any:
    """A message of the assistant with the calls taken out of its text, unless it has calls in a field; any other as it is."""
    text = message.get("content") if isinstance(message, dict) and message.get("role") == "assistant" else None
    if not isinstance(text, str) or CALL not in text or message.get("tool_calls") or message.get("function_call"):
        return message
    return {**message, "content": None, **assistant(text, where)}
