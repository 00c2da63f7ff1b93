import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltune.parse import PARSERS, parse_hermes
from tests.timing import least_cpu_s

ANA = '<tool_call>\n{"name": "find_employee", "arguments": {"name": "Ana"}}\n</tool_call>'
ROOM = '<tool_call>\n{"name": "book_room", "arguments": {"people": 4}}\n</tool_call>'


def test_a_call_is_read_with_its_arguments_as_an_object():
    parsed = parse_hermes(ANA)
    assert parsed.calls == ({"name": "find_employee", "arguments": {"name": "Ana"}},)
    assert parsed.content == "" and parsed.malformed is None and parsed.attempted


def test_several_calls_come_in_their_order():
    assert [call["name"] for call in parse_hermes(f"{ROOM}\n{ANA}{ROOM}").calls] == ["book_room", "find_employee", "book_room"]


def test_text_around_calls_is_kept_as_content():
    parsed = parse_hermes(f"Let me look.\n{ANA}\nOne moment.")
    assert len(parsed.calls) == 1
    assert parsed.content.split() == ["Let", "me", "look.", "One", "moment."]


def test_text_without_a_call_attempts_none():
    parsed = parse_hermes("  Which of the two rooms do you mean?\n")
    assert parsed.content == "Which of the two rooms do you mean?"
    assert not parsed.attempted and parsed.malformed is None


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_answer_attempts_nothing(text):
    assert parse_hermes(text) == parse_hermes("")
    assert not parse_hermes(text).attempted


@pytest.mark.parametrize("cut", range(1, len(ANA) - len("</tool_call>") + 1, 7))
def test_a_call_cut_off_anywhere_inside_is_malformed(cut):
    text = ANA[: len("<tool_call>") + cut - 1]
    parsed = parse_hermes(text)
    assert parsed.attempted and parsed.calls == ()
    assert "cut off" in parsed.malformed


def test_a_call_cut_off_after_a_whole_one_is_malformed():
    parsed = parse_hermes(f"{ANA}\n{ROOM[:30]}")
    assert "cut off" in parsed.malformed
    assert [call["name"] for call in parsed.calls] == ["find_employee"]


def test_an_end_without_a_beginning_is_malformed():
    assert "do not pair" in parse_hermes('{"name": "find_employee", "arguments": {}}\n</tool_call>').malformed


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("find_employee(Ana)", "not JSON"),
        ("", "not JSON"),
        ("{'name': 'find_employee', 'arguments': {}}", "not JSON"),
        ('{"name": "f", "arguments": {}} {"name": "g", "arguments": {}}', "not JSON"),
        ('{"name": "f", "arguments": {"x": NaN}}', "NaN is not JSON"),
        ('{"name": "f", "arguments": {"x": -Infinity}}', "-Infinity is not JSON"),
        ('[{"name": "f", "arguments": {}}]', "must be a JSON object"),
        ('"find_employee"', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"arguments": {"name": "Ana"}}', "needs a name"),
        ('{"name": 7, "arguments": {}}', "needs a name"),
        ('{"name": "", "arguments": {}}', "needs a name"),
        ('{"name": " ", "arguments": {}}', "needs a name"),
        ('{"name": "f"}', "object `arguments`"),
        ('{"name": "f", "arguments": null}', "object `arguments`"),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', "object `arguments`"),
        ('{"name": "f", "arguments": [1]}', "object `arguments`"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_not_a_call_is_malformed_with_its_reason(inside, reason):
    parsed = parse_hermes(f"<tool_call>\n{inside}\n</tool_call>")
    assert parsed.calls == ()
    assert reason in parsed.malformed


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1, "x": 2}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}, "x": 1, "x": 1}</tool_call>'),
        ("json", '<calls>{"name": "f", "arguments": {"a": [{"x": 1, "x": 1}]}}</calls>'),
        ("llama3", '{"name": "f", "parameters": {"x": 1, "x": 2}}'),
        ("functiongemma", "<start_function_call>call:f{x:1,x:2}<end_function_call>"),
        ("functiongemma", "<start_function_call>call:f{a:{x:1,x:2}}<end_function_call>"),
        ("python", "<calls>f(x=1, x=2)</calls>"),
        ("python", '<calls>f(a={"x": 1, "x": 2})</calls>'),
        ("pythonic", "[f(x=1, x=2)]"),
        ("yaml", "<calls>\nname: f\narguments:\n  x: 1\n  x: 2\n</calls>"),
    ],
)
def test_of_a_key_that_stands_twice_nobody_can_say_which_one_is_meant(syntax, text):
    parsed = PARSERS[syntax](text)
    assert parsed.calls == () and "the key 'x' stands twice in one object" in parsed.malformed


@pytest.mark.parametrize("digits", [3_400, 5_000])
def test_an_integer_that_cannot_be_written_down_is_malformed(digits):
    parsed = PARSERS["python"](f"<calls>f(x=0x{'f' * digits})</calls>")
    if parsed.malformed is None:
        json.dumps(parsed.calls)
    assert (parsed.malformed is None) == (digits == 3_400)


def test_a_bad_call_beside_a_good_one_makes_the_answer_malformed():
    assert parse_hermes(f"{ANA}<tool_call>oops</tool_call>").malformed is not None


@pytest.mark.parametrize("value", ["1e999", "-1e999", '"\\ud800"'])
def test_a_value_that_no_json_file_can_hold_is_malformed(value):
    parsed = parse_hermes(f'<tool_call>{{"name": "f", "arguments": {{"x": {value}}}}}</tool_call>')
    assert parsed.calls == () and "not JSON" in parsed.malformed


@pytest.mark.parametrize("written", ['x:"\\ud800"', 'x:["\\ud800"]', "x:<escape>\ud800<escape>"])
def test_half_of_a_surrogate_pair_is_malformed_in_functiongemmas_calls_too(written):
    parsed = PARSERS["functiongemma"](f"<start_function_call>call:f{{{written}}}<end_function_call>")
    assert parsed.calls == () and "surrogates not allowed" in parsed.malformed


@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "{", "}", '"name"', ":", '"arguments"', "[", "1e999", "NaN", "\\u", "x"])
    )
)
def test_no_text_whatever_raises(parts):
    parsed = parse_hermes("".join(parts))
    assert parsed.attempted == (parsed.malformed is not None or bool(parsed.calls))


@given(st.text())
def test_text_without_markers_is_content(text):
    assert parse_hermes(text.replace("<", "")).content == text.replace("<", "").strip()


def test_of_arguments_and_parameters_those_count_that_vllm_takes():
    both = '{"name": "f", "parameters": {"x": 1}, "arguments": {"x": 2}}'
    assert PARSERS["llama3"](both).calls == ({"name": "f", "arguments": {"x": 2}},)
    assert PARSERS["llama3"]('{"name": "f", "parameters": {"x": 1}}').calls == ({"name": "f", "arguments": {"x": 1}},)


@pytest.mark.parametrize(
    ("syntax", "mark"),
    [
        ("hermes", "<tool_call>"),
        ("json", "<calls>"),
        ("python", "<calls>"),
        ("yaml", "<calls>"),
        ("functiongemma", "<start_function_call>"),
    ],
)
def test_marks_without_an_end_are_read_in_one_go(syntax, mark):
    def least_s(characters):
        return least_cpu_s(PARSERS[syntax], mark * (characters // len(mark)))

    assert least_s(400_000) < 10 * max(least_s(100_000), 0.05)


def test_a_key_that_stands_twice_is_found_in_one_go():
    def least_s(keys):
        arguments = ", ".join(f'"k{number}": 1' for number in [*range(keys), keys - 1])
        return least_cpu_s(parse_hermes, f'<tool_call>{{"name": "f", "arguments": {{{arguments}}}}}</tool_call>')

    assert least_s(40_000) < 10 * max(least_s(10_000), 0.05)


CALL = '{"name": "f", "arguments": {}}'
PIECES = st.sampled_from(["<tool_call>", "</tool_call>", "<tool_", "call>", CALL, "a", "\n"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_the_blocks_of_hermes_are_those_of_vllms_expression(text):
    block = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
    parsed, insides = parse_hermes(text), block.findall(text)
    assert parsed.content == block.sub("", text).strip()
    if all(inside.strip() == CALL for inside in insides):
        assert len(parsed.calls) == len(insides)
    else:
        assert parsed.calls == () and parsed.malformed
