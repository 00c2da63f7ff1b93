"""One question, one tool: `user_content`, `tool_name`, `tool_arguments`; the tools come from the config's tools file. One row:

    {"user_content": "What is the meal limit?", "tool_name": "search_knowledge_base",
     "tool_arguments": "{\\"query\\": \\"meal limit\\"}"}

Read by `from_tool_choice`.
"""

from calltune.dialects.reading import Row, record, text_field, tool_call, tools_field
from calltune.records import Message, Record, Tool


def from_tool_choice(row: Row, tools: list[Tool]) -> Record:
    """Read one row: the user's text and the one call that answers it.

    Raises:
        RowError: the row cannot be read.
    """
    question = text_field(row, "user_content")
    call = tool_call({"name": row.get("tool_name"), "arguments": row.get("tool_arguments")}, "tool_name, tool_arguments")
    messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "tool_calls": [call]}]
    return record(messages, tools_field(row, "tools", tools))
