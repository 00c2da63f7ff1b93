"""xLAM's columns: `query`, `tools`, `answers`, the last two lists or their JSON, with loosely written types. One row:

    {"id": 1, "query": "Weather in Oslo for 3 days?",
     "tools": "[{\\"name\\": \\"weather\\", \\"parameters\\":
            {\\"city\\": {\\"type\\": \\"str\\"}, \\"days\\": {\\"type\\": \\"int, optional\\"}}}]",
     "answers": "[{\\"name\\": \\"weather\\", \\"arguments\\": {\\"city\\": \\"Oslo\\", \\"days\\": 3}}]"}

Read by `from_xlam`.
"""

from calltune.dialects.reading import Row, RowError, guarded, json_field, record, shown, text_field, tool_call, tools_field
from calltune.records import Record, Tool


def from_xlam(row: Row, tools: list[Tool]) -> Record:
    """Read one row: a question and its calls.

    A number or truth value that is written as text where the tool wants the real one ("63" for an int) is read as what
    it says: in this format values are as loose as types.

    Raises:
        RowError: the row cannot be read.
    """
    query, own = text_field(row, "query"), tools_field(row, "tools", tools, loose=True)
    answers = json_field(row, "answers")
    if not isinstance(answers, list):
        raise RowError("missing_field", f"answers: must be a list of calls, not {shown(answers)}")
    calls = [tool_call(answer, f"answers[{number}]") for number, answer in enumerate(answers)]
    for call in calls:
        call["function"] = guarded(call["function"], own, coerce=True).call
    answer = {"role": "assistant", **({"tool_calls": calls} if calls else {})}
    return record([{"role": "user", "content": query}, answer], own)
