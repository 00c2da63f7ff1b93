"""What the user says in a row of each dialect, without its answer."""

import json

import pytest

from calltune.dialects import DIALECTS
from calltune.dialects.asked import asked
from calltune.dialects.reading import RowError
from calltune.records import user_turns

TOOL = {"name": "find", "description": "", "parameters": {"type": "object", "properties": {}}}
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Who is Ana?"},
    {"role": "assistant", "content": "Which Ana?"},
    {"role": "user", "content": [{"type": "text", "text": "Ana "}, {"type": "text", "text": "Souza."}]},
]
TURNS = [
    {"from": "human", "value": "Who is Ana?"},
    {"from": "gpt", "value": "Which Ana?"},
    {"from": "human", "value": "Ana Souza."},
]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": MESSAGES}, ["Who is Ana?", "Ana Souza."]),
        ({"messages": json.dumps(MESSAGES)}, ["Who is Ana?", "Ana Souza."]),
        ({"conversations": TURNS}, ["Who is Ana?", "Ana Souza."]),
        ({"query": "Who is Ana?", "tools": "[]"}, ["Who is Ana?"]),
        ({"user_content": "Who is Ana?"}, ["Who is Ana?"]),
        ({"instruction": "Edit for grammar.", "input": "He go."}, ["Edit for grammar.\n\nHe go."]),
        ({"instruction": "Sing.", "input": ""}, ["Sing."]),
        ({"prompt": "Who is Ana?"}, ["Who is Ana?"]),
        ({"prompt": MESSAGES}, ["Who is Ana?", "Ana Souza."]),
        ({"question": "Who is Ana?", "answer": 4}, ["Who is Ana?"]),
        ({"question": [{"role": "user", "content": "Who is Ana?"}]}, ["Who is Ana?"]),
        ({"question": [[MESSAGES[0], MESSAGES[1]], [], [MESSAGES[3]]]}, ["Who is Ana?", "Ana Souza."]),
        ({"question": [[{"role": "user", "content": " "}]]}, []),
    ],
)
def test_the_users_turns_are_read_whatever_the_dialect_and_without_an_answer(row, said):
    assert asked(row) == said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("openai", {"messages": [*MESSAGES, {"role": "assistant", "content": "She is here."}]}),
        ("sharegpt", {"conversations": [*TURNS, {"from": "gpt", "value": "She is here."}]}),
        ("alpaca", {"instruction": "Edit for grammar.", "input": "He go.", "output": "He goes."}),
        ("xlam", {"query": "Who is Ana?", "tools": [], "answers": []}),
        ("prompt_completion", {"prompt": "Who is Ana?", "completion": "She is here."}),
        ("tool_choice", {"user_content": "Who is Ana?", "tool_name": "find", "tool_arguments": "{}"}),
        (
            "bfcl",
            {"question": [[{"role": "user", "content": "Who is Ana?"}]], "function": [TOOL], "ground_truth": [{"find": {}}]},
        ),
    ],
)
def test_it_is_what_the_records_users_say(name, answer):
    tool = {"type": "function", "function": TOOL}
    assert asked(answer) == user_turns(DIALECTS[name](answer, [tool]))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "a_0", "ground_truth": []}, "it asks nothing: it has none of messages, conversations, query"),
        ({"question": 4}, "question: must be a list of messages, not 4"),
        ({"question": [["Who?"]]}, r"question\[0\]\[0\]: must be an object with a role, not 'Who\?'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of type text can be used"),
        ({"conversations": [{"value": "Who?"}]}, r"conversations\[0\].role: must be a string, not nothing"),
        ({"conversations": [{"from": 5}]}, r"conversations\[0\].from: must be a string, not 5"),
        ({"query": None}, "query: must be a string, not nothing"),
    ],
)
def test_a_row_that_asks_nothing_is_refused(row, says):
    with pytest.raises(RowError, match=says):
        asked(row)
