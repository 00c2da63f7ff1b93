"""Alpaca's instructions: `instruction`, `input`, `output`; rows that call nothing. One row:

    {"instruction": "Edit for grammar.", "input": "He go home.", "output": "He goes home."}

Read by `from_alpaca`.
"""

from calltune.dialects.reading import Row, RowError, json_field, optional_text, record, shown, text_field, tools_field
from calltune.records import Message, Record, Tool


def from_alpaca(row: Row, tools: list[Tool]) -> Record:
    """Read one row; `input` follows `instruction` after a blank line, `system` and `history` are kept where they are.

    Raises:
        RowError: the row cannot be read.
    """
    system = optional_text(row, "system")
    messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    history = json_field(row, "history") or []
    if not isinstance(history, list):
        raise RowError("invalid_message", f"history: must be a list of pairs, not {shown(history)}")
    for number, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("invalid_message", f"history[{number}]: must be a pair of strings, question and answer")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    messages += [{"role": "user", "content": instruction(row)}, {"role": "assistant", "content": text_field(row, "output")}]
    return record(messages, tools_field(row, "tools", tools))


def instruction(row: Row) -> str:
    """What a row asks: `instruction`, and after a blank line its `input`.

    Raises:
        RowError: one of them is no text.
    """
    asked, context = text_field(row, "instruction"), optional_text(row, "input")
    return f"{asked}\n\n{context}" if context.strip() else asked
