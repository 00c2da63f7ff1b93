"""Calls in a text that no dialect reads."""

import json

import pytest

from calltune.written_calls import written_call

FIND = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def answered(text, tools=(FIND,)):
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}], "tools": list(tools)}


@pytest.mark.parametrize(
    "text",
    [
        "[track_parcel(tracking_number='A1')]",
        " [Get Weather(city='Oslo', days=3), geo.place()]\n",
        "find(name='Ana')",
        "find()",
        '{"name": "find", "arguments": {"name": "Ana"}}',
        '{"name": "find", "arguments": "{}"}',
        '[{"name": "find", "parameters": {}}, {"type": "function", "function": {"name": "find", "arguments": {}}}]',
    ],
)
def test_a_text_that_is_a_call_as_a_whole_looks_like_one(text):
    assert written_call(answered(text)) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "find(name='Ana') finds her.",
        "print(end='')",
        "[a link](https://example.com)",
        "[see page (3)]",
        "f(x)",
        "[]",
        "{}",
        "[1, 2]",
        '{"name": "Ana", "office": 1}',
        '{"arguments": {}}',
        '{"name": "find", "arguments": {}} is what I would call.',
        '{"name": "find", "arguments": {}',
        "[" * 100_000 + "]",
    ],
)
def test_other_answers_do_not(text):
    assert written_call(answered(text)) == ""


def test_what_is_called_in_a_field_does_not_stand_in_the_text():
    row = answered(json.dumps({"name": "find", "arguments": {}}))
    row["messages"][1]["tool_calls"] = [{"type": "function", "function": {"name": "find", "arguments": {}}}]
    assert written_call(row) == ""


def test_a_bare_call_is_one_of_the_rows_own_tools_alone():
    assert written_call(answered("find(name='Ana')", tools=())) == ""
