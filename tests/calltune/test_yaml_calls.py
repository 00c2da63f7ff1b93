"""YAML calls: what each value means, what is refused, and that no text makes the reader raise, hang or grow."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltune.parse import parse_yaml
from calltune.yaml_calls import DEEPEST, LONGEST_NUMBER
from tests.timing import least_cpu_s

BOTH = """<calls>
- name: find_employee
  arguments:
    name: "Ana"
    limit: 3
- name: ping
  arguments: {}
</calls>"""


def one(value):
    """The argument `x` of one call, as written, and why it was not read."""
    parsed = parse_yaml(f"<calls>\n- name: f\n  arguments:\n    x: {value}\n</calls>")
    return (parsed.calls[0]["arguments"]["x"] if parsed.calls else None), parsed.malformed


def test_several_calls_come_in_their_order_and_text_around_them_is_content():
    parsed = parse_yaml(f"Let me look.\n{BOTH}\nOne moment.")
    assert parsed.calls == (
        {"name": "find_employee", "arguments": {"name": "Ana", "limit": 3}},
        {"name": "ping", "arguments": {}},
    )
    assert parsed.content.split() == ["Let", "me", "look.", "One", "moment."] and parsed.malformed is None


@pytest.mark.parametrize(
    "text",
    [
        "<calls>{name: f, arguments: {x: [1, 'a']}}</calls>",
        "<calls>[{name: f, arguments: {x: [1, a]}}]</calls>",
        "<calls>\n  - arguments:\n      x:\n      - 1\n      - a\n    name: f\n    type: function</calls>",
        '<calls>- {"name":"f","arguments":{"x":[1,"a"]}}</calls>',
    ],
)
def test_other_yaml_of_the_same_calls_is_read_too(text):
    assert parse_yaml(text).calls == ({"name": "f", "arguments": {"x": [1, "a"]}},)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(
            (text, text)
            for text in ("yes", "No", "on", "off", "y", "tRUE", "2026-11-21", "12:30:45", "1_000", "<<", "=", "0b1", "1e")
        ),
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False", "FALSE")),
        *(("7", 7), ("-7", -7), ("+7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31)),
        *(("1e3", 1000.0), ("-.5", -0.5), ("1.", 1.0), ("1e-07", 1e-07), ("-0.0", -0.0)),
        *((f'"{text}"', text) for text in ("7", "null", "true", "1e3", ".inf", "", " a ", "- a: b # c", "*a", "&a", "!!str")),
        *(
            ("'it''s'", "it's"),
            ('"\\u003c\\n\\x41"', "<\nA"),
            ("|\n      a\n       b", "a\n b\n"),
            (">-\n      a\n      b", "a b"),
        ),
        *(("a # b", "a"), ("a\n      b", "a b"), ("[1, [], {}, {a: b}]", [1, [], {}, {"a": "b"}]), ("[٣]", ["٣"])),
    ],
)
def test_a_value_is_what_yaml_1_2_says(written, value):
    found, malformed = one(written)
    assert malformed is None
    assert json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        *(
            (value, "no anchors, aliases or tags")
            for value in ("&a 1", "*a", "!!str 1", "! 1", "!x {}", "[&a [], *a]", "{*a : 1}")
        ),
        ("!!python/object/apply:os.system ['true']", "no anchors, aliases or tags"),
        *((value, "is not JSON") for value in (".inf", "-.INF", "+.Inf", ".nan", "[.NaN]")),
        *(
            (value, "is out of range")
            for value in ("1e999", "-1e999", "9" * 5000, "0x" + "f" * 5000, "1." + "0" * LONGEST_NUMBER)
        ),
        *((value, "keys of an object must be strings") for value in ("{1: a}", "{null: a}", "{[a]: b}", "{~ : a}", "{? {} : a}")),
        ("{a: 1, 'a': 2}", "the key 'a' stands twice"),
        *(
            (value, "the call is not YAML: nested too deeply")
            for value in ("[" * 9999, "{a: " * 9999, "\n      " + "? " * 9999, "[" * 102 + "]" * 102)
        ),
        *((f'"a{end}b"', r"must be escaped") for end in "\x85\u2028\u2029"),
        *(
            (value, "the call is not YAML: ")
            for value in ("[1", "{a: 1", '"a', "'a", '"\\q"', '"\\x4"', "a: b", "@a", "`a`", "%a", "\x07")
        ),
        *(
            (value, "the call is not YAML: ")
            for value in ('"\\UFFFFFFFF"', "\ud800", "\ufffe", '"\x7f"', "\ta: 1", "[a]]", "{a}}", "- a")
        ),
        *(('"\\ud800"', "surrogates not allowed"), ('"\\U00110000"', "not in range")),
        *((value, "another document follows") for value in ("1\n---\n- name: g\n  arguments: {}", "1\n...\n---\n- a")),
    ],
)
def test_a_value_that_yaml_or_json_cannot_hold_is_malformed_with_its_reason(written, reason):
    found, malformed = one(written)
    assert found is None and reason in malformed
    malformed.encode()


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        *((inside, "no call stands between") for inside in ("", "\n", "# nothing", "[]")),
        *((inside, "without `---`") for inside in ("---\n- name: f\n  arguments: {}", "%YAML 1.1\n---\n- a")),
        *((inside, "must be a JSON object") for inside in ("f", "- f", "- - name: f", "-", "- null")),
        *(
            (inside, "needs a name")
            for inside in ("- {}", "- {arguments: {}}", "- {name: 7, arguments: {}}", '- {name: "", arguments: {}}')
        ),
        *((inside, "object `arguments`") for inside in ("- name: f", "- name: f\n  arguments:", "- {name: f, arguments: [1]}")),
        ("- name: f\n  arguments: {}\n  name: g", "the key 'name' stands twice"),
        ("- name: f\n arguments: {}", "the call is not YAML"),
        ("name: f\narguments: {}\n- name: g", "the call is not YAML"),
        ('{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}', "the call is not YAML"),
    ],
)
def test_what_is_not_a_list_of_calls_is_malformed_with_its_reason(inside, reason):
    parsed = parse_yaml(f"<calls>{inside}</calls>")
    assert parsed.calls == () and reason in parsed.malformed


@pytest.mark.parametrize("end", range(len("<calls>"), len(BOTH) - len("</calls>") + 1))
def test_a_call_cut_off_anywhere_inside_is_malformed(end):
    parsed = parse_yaml(BOTH[:end])
    assert parsed.attempted and parsed.calls == () and "cut off" in parsed.malformed


def test_a_bad_call_beside_a_good_one_makes_the_answer_malformed():
    assert parse_yaml(f"{BOTH}<calls>- oops</calls>").malformed is not None


def test_as_deep_as_is_allowed_is_read():
    found, malformed = one("[" * (DEEPEST - 3) + "]" * (DEEPEST - 3))
    assert malformed is None and json.dumps(found).count("[") == DEEPEST - 3


def test_a_billion_laughs_are_refused_at_the_first():
    lines = ["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    found, malformed = one("\n      " + "\n      ".join(lines))  # read in full, it would never end
    assert found is None and "no anchors, aliases or tags" in malformed


@pytest.mark.parametrize(
    "piece", ["[", "{", "{a: ", "- ", "? ", "[[],", "a: [", '"a" ', "&a ", "!a ", "x,", "|\n", "\n\n", "#\n", "{a: 1, "]
)
def test_a_text_four_times_as_long_takes_no_sixteen_times_as_long(piece):
    def least_s(characters):
        return least_cpu_s(parse_yaml, f"<calls>{piece * (characters // len(piece))}</calls>")

    assert least_s(60_000) < 10 * max(least_s(15_000), 0.05)


SIGNS = st.sampled_from([
    *("- ", "name: f", "arguments:", "\n", "\n  ", "\n    ", "x: ", "? ", ": ", "[", "]", "{", "}", ", ", '"', "'", "\\", "\\u"),
    *("|", ">", "+", "2", "&a", "*a", "!", "!!int ", "%YAML ", "1.2", "%TAG ! !", "---", "...", "#", "\t", "\r", "\x85"),
    *("~", ".inf", "0x", "0o8", "1e999", "<<", "@", "`", "\ud800", "é", "\0", "\\x", "\ufeff"),
])  # fmt: skip


@given(st.lists(SIGNS, max_size=40) | st.lists(st.text(max_size=5), max_size=10))
def test_no_text_whatever_raises_and_what_is_read_is_json(parts):
    parsed = parse_yaml(f"<calls>{''.join(parts)}</calls>")
    assert parsed.attempted and (parsed.malformed is None) == bool(parsed.calls)
    json.dumps(parsed.calls, ensure_ascii=False, allow_nan=False).encode()


TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, VALUE, max_size=3), st.sampled_from([None, 0, 2]))
def test_json_is_read_as_it_is(arguments, indent):
    calls = [{"name": "f", "arguments": arguments}]
    text = json.dumps(calls, indent=indent).replace("<", "\\u003c")
    assert json.dumps(list(parse_yaml(f"<calls>{text}</calls>").calls)) == json.dumps(calls)
