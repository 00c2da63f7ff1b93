"""A prompt and its completion, both texts or lists of messages. One row:

    {"prompt": "Who is Ana?", "completion": "<tool_call>{\\"name\\": \\"find_employee\\", \\"arguments\\": {...}}</tool_call>",
     "tools": [{"name": "find_employee", "parameters": {...}}]}

or ``{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}``.

Read by `from_prompt_completion`.
"""

from typing import Any

from calltune.dialects.hermes import assistant
from calltune.dialects.openai import from_openai
from calltune.dialects.reading import Row, RowError, json_field, record, shown, text_field, tools_field
from calltune.records import Record, Tool


def from_prompt_completion(row: Row, tools: list[Tool]) -> Record:
    """Read one row; a `<tool_call>` in a completion's text is a call.

    Raises:
        RowError: the row cannot be read.
    """
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        messages = [*_messages(row, "prompt"), *_messages(row, "completion")]
        return from_openai({**row, "messages": messages}, tools)
    asked, answered = text_field(row, "prompt"), text_field(row, "completion")
    messages = [{"role": "user", "content": asked}, assistant(answered, "completion")]
    return record(messages, tools_field(row, "tools", tools), json_field(row, "expected"))


def _messages(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        return [{"role": "user" if name == "prompt" else "assistant", "content": value}]
    if not isinstance(value, list):
        raise RowError("missing_field", f"{name}: must be a text or a list of messages, not {shown(value)}")
    return value
