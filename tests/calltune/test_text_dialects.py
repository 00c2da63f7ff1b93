"""Dialects whose calls stand in a text, or whose answers have several accepted values."""

import contextlib
import json
import time

import pytest

from calltune import validate
from calltune.dialects import DIALECTS, detect
from calltune.dialects.reading import RowError
from calltune.records import calls_of

FIND = {"name": "find", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}
ANA = {"name": "find", "arguments": {"name": "Ana"}}
NOUS = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags.\n"
    f"<tools>\n{json.dumps([FIND])}\n</tools>\nReturn calls as\n<tool_call>\n{{'name': <function-name>}}\n</tool_call>"
)
QWEN = f"Be kind.\n\n# Tools\n\nCall functions.\n<tools>\n{json.dumps(FIND)}\n</tools>\n\nSo:\n<tool_call>\n{{}}\n</tool_call>"


def hermes(*turns, tools=(FIND,)):
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "tools": list(tools)}
    return DIALECTS["hermes"](row, [])


def call(value=ANA):
    return f"<tool_call>\n{value if isinstance(value, str) else json.dumps(value)}\n</tool_call>"


def test_hermes_reads_parallel_calls_their_results_and_the_text_beside_them():
    read = hermes(
        ("user", "Who is Ana?"),
        ("assistant", f"Let me see. {call()}\n{call()}"),
        ("tool", '<tool_response>\n{"office": 1}\n</tool_response>\n<tool_response>none</tool_response>'),
        ("assistant", "She is in 1."),
    )
    assert [m["role"] for m in read["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]
    assert read["messages"][1]["content"] == "Let me see."
    assert calls_of(read["messages"][1]) == [ANA, ANA]
    assert [m["content"] for m in read["messages"][2:4]] == ['{"office": 1}', "none"]
    assert validate.problem(read) is None


@pytest.mark.parametrize(("system", "kept"), [(NOUS, []), (QWEN, ["Be kind."]), ("Be kind.", ["Be kind."])])
def test_hermes_leaves_the_formats_own_instructions_out_of_the_system_message(system, kept):
    row = {
        "conversations": [{"from": "system", "value": system}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    }
    read = DIALECTS["hermes"](row, [])
    assert [m["content"] for m in read["messages"] if m["role"] == "system"] == kept
    assert [tool["function"]["name"] for tool in read["tools"]] == (["find"] if "<tools>" in system else [])


TAGS = f"<tools>{json.dumps([FIND])}</tools>"


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        (f"{TAGS} For each function call return a JSON object within <tool_call> </tool_call> tags.", []),
        (f"Tools:\n{TAGS}\nReply with <tool_call>{{}}</tool_call> to call one.", []),
        (
            f"Be kind.\n\nTools:\n\n{TAGS}\nReply with <tool_call>{{}}</tool_call> to call one. Be brief.",
            ["Be kind.\n\nBe brief."],
        ),
        (f"Be kind. You have {TAGS} to use.\nBe brief.", ["Be kind.\n\nBe brief."]),
        (f"Say 'Hi.' {TAGS}. Be brief", ["Say 'Hi.'\n\nBe brief"]),
        (f"Be kind\n{TAGS}\nbe brief", ["Be kind\n\nbe brief"]),
        (f"{TAGS} Call as <tool_call>{{}}</tool_call> Be brief, e.g. so.", ["Be brief, e.g. so."]),
        (f"{TAGS}\n1. Be brief.", ["1. Be brief."]),
        (f"友好。工具：{TAGS}用<tool_call></tool_call>标签。简短。", ["友好。\n\n简短。"]),
        (f"友好。用{TAGS}回答。简短。", ["友好。\n\n简短。"]),
        (f"友好。{TAGS}请用中文。简短。", ["友好。\n\n请用中文。简短。"]),
    ],
)
def test_hermes_leaves_no_part_of_a_sentence_of_the_formats_instructions(system, kept):
    read = hermes(("system", system), ("user", "Hi"), ("assistant", "Ho"))
    assert [m["content"] for m in read["messages"] if m["role"] == "system"] == kept


@pytest.mark.parametrize("value", ["</tool_call> in a text", 'quotes " and \\ and é'])
def test_hermes_takes_a_value_for_what_it_is(value):
    read = hermes(("user", "?"), ("assistant", call({"name": "find", "arguments": {"name": value}})))
    assert calls_of(read["messages"][1])[0]["arguments"] == {"name": value}


def test_hermes_reads_a_python_dict():
    read = hermes(("user", "?"), ("assistant", call("{'arguments': {'name': 'Ana', 'old': None}, 'name': 'find'}")))
    assert calls_of(read["messages"][1]) == [ANA]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<tool_call>{", r"messages\[1\], call 1: is cut off: there is no </tool_call>"),
        (f"{call()}<tool_call>find(Ana)</tool_call>", r"messages\[1\], call 2: is neither JSON nor a Python dict"),
        (f"{call()}</tool_call>", r"messages\[1\]: </tool_call> without <tool_call> before it"),
        (call('{"name": "find", "arguments": "Ana"}'), r"messages\[1\], call 1.arguments: the string is not JSON"),
        (call('{"name": "find", "arguments": {"name": NaN}}'), r"call 1: is neither JSON nor a Python dict"),
        *[
            (
                call(f"{{'name': 'find', 'arguments': {{'name': {value}}}}}"),
                r"nor a Python dict: a value must be text, a number, True",
            )
            for value in ("{'Ana'}", "b'Ana'", "1j", "...", "('Ana',)")
        ],
        (call('{"name": "find", "arguments": {"name": "Ana", "name": "Bo"}}'), "Python dict: the key 'name' stands twice"),
        (call("{'name': 'find', 'arguments': {'name': 'Ana', 'name': 'Bo'}}"), "Python dict: the key 'name' stands twice"),
        (call({"name": "find", "parameters": {"name": "Ana"}}), "call 1: has `parameters` where `arguments` would be right"),
        (call({"name": "find", "arguments": None, "input": '{"name": "Ana"}'}), "call 1: has `input` where `arguments` would be"),
    ],
)
def test_a_hermes_call_that_cannot_be_read_is_refused_with_its_place(text, message):
    with pytest.raises(RowError, match=message) as refused:
        hermes(("user", "?"), ("assistant", text))
    assert refused.value.rule == "invalid_call"


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("beside", ["And who is Bo?", "<tool_response>cut off"])
def test_hermes_loses_nothing_that_stands_beside_a_result(role, beside):
    turns = [("user", "Who is Ana?"), ("assistant", call()), (role, f"<tool_response>B2</tool_response> {beside}")]
    with pytest.raises(RowError, match=r"messages\[2\]: has a text beside its <tool_response>, which would be lost: ") as refused:
        hermes(*turns, ("assistant", "In B2."))
    assert refused.value.rule == "invalid_message"
    assert beside in str(refused.value)


def test_hermes_loses_no_call_that_stands_in_a_field():
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"function": ANA}]}
    with pytest.raises(RowError, match=r"messages\[1\]: its calls stand in a field and not in its text"):
        DIALECTS["hermes"]({"messages": [{"role": "user", "content": "?"}, turn], "tools": [FIND]}, [])


@pytest.mark.parametrize(("role", "mark"), [("system", "<tools>"), ("tool", "<tool_response>"), ("assistant", "<tool_call>")])
def test_marks_without_an_end_take_no_longer_than_their_number(role, mark):
    def least_s(marks):
        """CPU time, so that what else runs on the machine does not count."""
        taken = []
        for _ in range(3):
            begun = time.process_time()
            with contextlib.suppress(RowError):
                hermes(("system", mark * marks if role == "system" else "Be kind."), ("user", "?"), (role, mark * marks))
            taken.append(time.process_time() - begun)
        return min(taken)

    assert least_s(16_000) < 10 * max(least_s(4_000), 0.02)


def test_auto_tells_hermes_by_the_text_also_where_most_rows_call_nothing():
    plain = {"messages": [{"role": "user", "content": "What is <tool_call>?"}, {"role": "assistant", "content": "A mark."}]}
    calling = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": call()}]}
    assert detect([plain, plain, calling])[0] == "hermes"
    assert detect([plain, plain])[0] == "openai"
    as_fields = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"function": ANA}]}]}
    assert detect([plain, as_fields, calling, as_fields])[0] == "openai"


def test_prompt_and_completion_may_be_messages():
    row = {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who is Ana?"}],
        "completion": [{"role": "assistant", "tool_calls": [{"function": ANA}]}],
        "tools": [FIND],
    }
    read = DIALECTS["prompt_completion"](row, [])
    assert [m["role"] for m in read["messages"]] == ["system", "user", "assistant"]
    assert calls_of(read["messages"][-1]) == [ANA]
    assert detect([row])[0] == "prompt_completion"


@pytest.mark.parametrize("written", [json.dumps, lambda turns: turns], ids=["a column of CSV", "lists"])
def test_a_call_in_the_text_of_a_completions_message_is_one_also_where_messages_are_json_in_a_string(written):
    row = {
        "prompt": written([{"role": "user", "content": "Who is Ana?"}]),
        "completion": written([{"content": f"Let me see. {call()}", "role": "assistant"}]),
        "tools": [FIND],
    }
    asked, answered = DIALECTS["prompt_completion"](row, [])["messages"]
    assert asked == {"role": "user", "content": "Who is Ana?"}
    assert (answered["content"], calls_of(answered)) == ("Let me see.", [ANA])


@pytest.mark.parametrize(("dialect", "field"), [("prompt_completion", "prompt"), ("bfcl", "question")])
def test_messages_that_are_no_json_are_not_taken_for_the_question(dialect, field):
    with pytest.raises(RowError, match=f"{field}: the string is not JSON") as refused:
        DIALECTS[dialect]({field: "[{'role': 'user', 'content': 'Hi'}]", "completion": "Ho", "function": []}, [])
    assert refused.value.rule == "not_json"


@pytest.mark.parametrize("dialect", ["openai", "sharegpt"])
def test_a_call_in_the_text_of_a_row_of_another_dialect_is_not_taken_for_an_answer_without_one(dialect):
    turns = [{"role": "user", "content": "Who is Ana?"}, {"role": "assistant", "content": call()}]
    if dialect == "sharegpt":
        turns = [{"from": "human", "value": "Who is Ana?"}, {"from": "gpt", "value": call()}]
    row = {"messages": turns, "conversations": turns, "tools": [FIND]}
    with pytest.raises(RowError, match=r"messages\[1\]: a call stands in its text \(<tool_call>\); `hermes` reads such rows"):
        DIALECTS[dialect](row, [])
    named = {"role": "system", "content": TAGS, "from": "system", "value": TAGS}
    with pytest.raises(RowError, match=r"messages\[2\]: a call stands in its text"):
        DIALECTS[dialect]({"messages": [named, *turns], "conversations": [named, *turns]}, [])
    assert DIALECTS[dialect]({**row, "tools": []}, [])["messages"][1]["content"] == call(), "without tools it is about calls"


def bfcl(truth, question=None):
    weather = {
        "name": "geo.weather",
        "parameters": {
            "type": "dict",
            "properties": {
                "city": {"type": "String"},
                "days": {"type": "float"},
                "how": {"type": "dict", "properties": {"unit": {"type": "string"}, "wind": {"type": "Boolean"}}},
            },
            "required": ["city"],
        },
    }
    row = {"question": question or [[{"role": "user", "content": "Weather?"}]], "function": [weather], "ground_truth": truth}
    return DIALECTS["bfcl"](row, [])


def test_bfcl_answers_with_the_first_accepted_values_and_expects_them_all():
    truth = {"city": ["Oslo", "Oslo, Norway"], "days": [2, ""], "how": [{"unit": ["", "C"], "wind": [""]}]}
    read = bfcl([{"geo.weather": truth}, {"geo.weather": {"city": ["Rome"]}}])
    assert calls_of(read["messages"][-1]) == [
        {"name": "geo.weather", "arguments": {"city": "Oslo", "how": {"unit": "C"}}},
        {"name": "geo.weather", "arguments": {"city": "Rome"}},
    ]
    assert read["expected"][0] == {"name": "geo.weather", "arguments": truth}
    assert read["tools"][0]["function"]["parameters"]["properties"]["how"]["properties"]["wind"] == {"type": "boolean"}
    assert validate.problem(read) is None


@pytest.mark.parametrize(
    ("truth", "question", "rule", "message"),
    [
        (None, None, "missing_field", "ground_truth: must be a list of calls with accepted values, not nothing"),
        (["geo.weather('Oslo')"], None, "not_representable", r"ground_truth\[0\]: is .*a text or code"),
        ([{"geo.weather": {"city": []}}], None, "invalid_expected", r"ground_truth\[0\].geo.weather.city: must be a list of"),
        ([{"a": {}, "b": {}}], None, "invalid_expected", r"ground_truth\[0\]: must have one call, by its name, not 2"),
        ([{"geo.weather": {}}], [[], []], "not_representable", "question: has 2 turns"),
    ],
)
def test_bfcl_rows_that_do_not_fit_the_record_say_why(truth, question, rule, message):
    with pytest.raises(RowError, match=message) as refused:
        bfcl(truth, question)
    assert refused.value.rule == rule


@pytest.mark.parametrize("dialect", ["openai", "sharegpt", "hermes"])
def test_a_column_of_csv_may_hold_the_turns_as_json(dialect):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    field = "messages"
    if dialect == "sharegpt":
        field, turns = "conversations", [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    read = DIALECTS[dialect]({field: json.dumps(turns), "tools": ""}, [])
    assert [m["content"] for m in read["messages"]] == ["Hi", "Ho"]


def test_a_question_of_the_leaderboard_may_be_a_text():
    read = bfcl([{"geo.weather": {"city": ["Oslo"]}}], "[Urgent] Weather in Oslo?")
    assert read["messages"][0] == {"role": "user", "content": "[Urgent] Weather in Oslo?"}


@pytest.mark.parametrize(("dialect", "field"), [("openai", "messages"), ("hermes", "messages"), ("sharegpt", "conversations")])
def test_a_turn_that_its_author_excluded_from_training_is_refused_in_every_dialect_of_turns(dialect, field):
    turns = [{"role": "user", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "Ho", "weight": 0}]
    if dialect == "sharegpt":
        turns = [{"from": "human", "value": "Hi", "weight": 0}, {"from": "gpt", "value": "Ho", "weight": 0}]
    with pytest.raises(RowError, match=rf"{field}\[1\].weight: 0 excludes a turn from training") as refused:
        DIALECTS[dialect]({field: turns}, [])
    assert refused.value.rule == "unsupported_weight"
    turns[1]["weight"] = 1
    assert len(DIALECTS[dialect]({field: turns}, [])["messages"]) == 2, "no turn of a user is trained on"
