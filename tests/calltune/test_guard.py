"""The guard: what it accepts, what it coerces, and what it says when it rejects."""

import json
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.errors import DataError
from calltune.guard import check, check_all, check_message, check_value
from tests.timing import least_cpu_s

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "day": {"type": "string"},
        "minutes": {"type": "integer", "minimum": 5},
        "price": {"type": "number"},
        "quiet": {"type": "boolean"},
        "floor": {"type": "string", "enum": ["ground", "first"]},
        "guests": {"type": "array", "items": {"type": "object", "properties": {"age": {"type": "integer"}}}},
    },
    "required": ["day"],
}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "…", "parameters": parameters}}


TOOLS = [tool("book_room", PARAMETERS), tool("find_employee", {"type": "object", "properties": {}})]


def call(**arguments: Any) -> dict[str, Any]:
    return {"name": "book_room", "arguments": arguments}


def test_a_valid_call_is_accepted_as_it_is() -> None:
    given_call = call(day="today", minutes=30, floor="first", guests=[{"age": 3}])
    guarded = check(given_call, TOOLS)
    assert guarded.accepted
    assert guarded.reason is None
    assert guarded.call == given_call


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "book_room.day: is required and missing"),
        ({"day": 5}, "book_room.day: must be of type string, not the integer 5"),
        ({"day": None}, "book_room.day: must be of type string, not null"),
        ({"day": "x", "minutes": "half an hour"}, 'book_room.minutes: must be of type integer, not the string "half an hour"'),
        ({"day": "x", "minutes": "30"}, 'book_room.minutes: must be of type integer, not the string "30"'),
        ({"day": "x", "minutes": True}, "book_room.minutes: must be of type integer, not the boolean true"),
        ({"day": "x", "minutes": 5.5}, "book_room.minutes: must be of type integer, not the number 5.5"),
        ({"day": "x", "minutes": 4}, "book_room.minutes: 4 is less than the minimum of 5"),
        ({"day": "x", "price": "sqrt of 3342398"}, 'book_room.price: must be of type number, not the string "sqrt of 3342398"'),
        ({"day": "x", "floor": "roof"}, 'book_room.floor: must be one of "ground", "first", not "roof"'),
        ({"day": "x", "minute": 30}, "book_room.minute: no such argument; the nearest is 'minutes'"),
        ({"day": "x", "zzzz": 30}, "book_room.zzzz: no such argument; there is day, minutes, price, quiet, floor, guests"),
        ({"day": "x", "guests": [{}, {"age": "old"}]}, 'book_room.guests[1].age: must be of type integer, not the string "old"'),
        ({"minutes": "x"}, "book_room.day: is required and missing (and 1 more)"),
        ({"day": "x", "price": float("inf")}, "book_room.price: inf is not a JSON number"),
        ({"day": "x", "guests": [{"age": float("nan")}]}, "book_room.guests[0].age: nan is not a JSON number"),
        ({"day": "\ud800"}, "book_room.day: is not valid Unicode text"),
        ({"day": "x", "\ud800": 1}, "book_room: an argument's name is not valid Unicode text"),
    ],
)
def test_a_wrong_argument_is_rejected_with_its_path_and_the_call_stays_untouched(arguments: dict[str, Any], reason: str) -> None:
    guarded = check(call(**arguments), TOOLS)
    assert guarded.reason == reason
    assert not guarded.accepted
    assert guarded.call["arguments"] is not None
    assert guarded.call == call(**arguments) or "nan" in reason


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"name": "book_rooms", "arguments": {}}, "\"book_rooms\": no such tool; the nearest is 'book_room'"),
        ({"name": "fly", "arguments": {}}, '"fly": no such tool; there is book_room, find_employee'),
        ({"name": 5, "arguments": {}}, "a call must be an object with the name of a tool"),
        ({"arguments": {}}, "a call must be an object with the name of a tool"),
        ([], "a call must be an object with the name of a tool"),
        ({"name": "book_room", "arguments": "{}"}, 'book_room: arguments must be an object, not the string "{}"'),
        ({"name": "book_room"}, "book_room: arguments must be an object, not null"),
        ({"name": "find_employee", "arguments": {"name": "Ana"}}, "find_employee.name: no such argument; there is none"),
    ],
)
def test_a_call_that_is_no_call_of_a_tool_is_rejected(wrong: Any, reason: str) -> None:
    assert check(wrong, TOOLS).reason == reason


def test_without_any_tool_every_call_is_rejected() -> None:
    assert check(call(day="x"), []).reason == '"book_room": no such tool; there is none'


@pytest.mark.parametrize(("more", "accepted"), [({"additionalProperties": True}, True), ({"additionalProperties": False}, False)])
def test_unlisted_arguments_pass_only_if_the_schema_says_so(more: dict[str, Any], accepted: bool) -> None:
    tools = [tool("book_room", {**PARAMETERS, **more})]
    assert check(call(day="x", snack="tea"), tools).accepted is accepted


def test_unlisted_arguments_must_fit_the_schema_given_for_them() -> None:
    tools = [tool("book_room", {**PARAMETERS, "additionalProperties": {"type": "integer"}})]
    assert check(call(day="x", extra=1), tools).accepted
    assert check(call(day="x", extra="one"), tools).reason == 'book_room.extra: must be of type integer, not the string "one"'


def test_a_composed_schema_lists_its_arguments_too() -> None:
    tools = [tool("book_room", {"$defs": {"d": {"properties": {"day": {"type": "string"}}}}, "allOf": [{"$ref": "#/$defs/d"}]})]
    assert check(call(day="x"), tools).accepted
    assert not check(call(day=5), tools).accepted
    assert not check(call(day="x", week=1), tools).accepted


def test_a_tool_without_parameters_takes_no_arguments() -> None:
    tools = [{"type": "function", "function": {"name": "book_room"}}]
    assert check(call(), tools).accepted
    assert not check(call(day="x"), tools).accepted


@pytest.mark.parametrize(
    ("name", "value", "coerced"),
    [
        ("minutes", "30", 30),
        ("minutes", 30.0, 30),
        ("price", "0.1", 0.1),
        ("price", "-2e3", -2000.0),
        ("price", "7", 7),
        ("quiet", "true", True),
        ("quiet", "false", False),
        ("guests", [{"age": "8"}], [{"age": 8}]),
        ("day", "30", "30"),
    ],
)
def test_lossless_coercion(name: str, value: Any, coerced: Any) -> None:
    given_call = call(**{"day": "x", name: value})
    before = json.dumps(given_call)
    guarded = check(given_call, TOOLS, coerce=True)
    assert guarded.reason is None
    assert guarded.call["arguments"][name] == coerced
    assert type(guarded.call["arguments"][name]) is type(coerced)
    assert json.dumps(given_call) == before, "the call that came in must not change"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("minutes", "30.5"),
        ("minutes", 30.5),
        ("minutes", "030"),
        ("minutes", " 30"),
        ("minutes", "thirty"),
        ("minutes", "٣٠"),
        ("minutes", "5" * 5000),
        ("price", "1e999"),
        ("price", "0.10000000000000000001"),
        ("price", "nan"),
        ("price", True),
        ("quiet", "True"),
        ("quiet", "yes"),
        ("quiet", 1),
        ("day", 5),
        ("floor", "First"),
    ],
)
def test_what_would_lose_something_is_not_coerced(name: str, value: Any) -> None:
    given_call = call(**{"day": "x", name: value})
    guarded = check(given_call, TOOLS, coerce=True)
    assert not guarded.accepted
    assert guarded.call == given_call


def test_a_string_stays_where_a_string_is_allowed() -> None:
    tools = [tool("book_room", {"type": "object", "properties": {"day": {"type": ["integer", "string"]}}})]
    assert check(call(day="5"), tools, coerce=True).call["arguments"] == {"day": "5"}


def test_a_float_stays_where_a_number_is_allowed() -> None:
    coerced = check(call(day="x", price=5.0), TOOLS, coerce=True).call["arguments"]["price"]
    assert isinstance(coerced, float)


def test_deep_nesting_and_huge_numbers_are_rejected_without_an_exception() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert "nested too deeply" in str(check(call(day=deep), TOOLS, coerce=True).reason)
    assert "too large" in str(check(call(day=10**5000), TOOLS).reason)
    for arguments in (deep, 10**5000):  # where an object belongs
        assert "nested too deeply" in str(check({"name": "book_room", "arguments": arguments}, TOOLS).reason)


def test_a_broken_schema_is_the_tools_fault_and_says_so() -> None:
    with pytest.raises(DataError, match=r"tool 'book_room': its parameters are not a JSON Schema: 'float' is not"):
        check(call(day="x"), [tool("book_room", {"type": "object", "properties": {"day": {"type": "float"}}})])
    for reference in ("#/$defs/none", "http://127.0.0.1:9/schema.json"):
        with pytest.raises(DataError, match="refers to what is not in it"):
            check(call(day="x"), [tool("book_room", {"properties": {"day": {"$ref": reference}}})])


@pytest.mark.parametrize("reference", ["#/required", "#/properties", "#/title"])
def test_a_reference_to_what_is_no_schema_is_the_tools_fault_too(reference: str) -> None:
    schema = {"title": "t", "properties": {"day": {"$ref": reference}, "type": {"title": "a kind"}}, "required": ["day"]}
    with pytest.raises(DataError, match=r"tool 'book_room': its schema refers to what is not in it, or is no schema"):
        check(call(day="x"), [tool("book_room", schema)])


@pytest.mark.parametrize(
    ("schema", "value", "accepted"),
    [
        ({"uniqueItems": True}, [1, True, "1", None, 0, False, [1], [True], {"a": 1}, {"a": True}], True),
        ({"uniqueItems": True}, [[1], [True], [1]], False),
        ({"uniqueItems": True}, [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ({"uniqueItems": False}, [1, 1], True),
        ({"uniqueItems": True}, "aa", True),
        ({"multipleOf": 0.01}, 19.99, True),
        ({"multipleOf": 0.01}, 19.995, False),
        ({"multipleOf": 0.1}, 10**30, True),
        ({"multipleOf": 2}, 3, False),
        ({"multipleOf": 2}, True, True),
        ({"multipleOf": 2}, "3", True),
        ({"pattern": "^a"}, "ab", True),
        ({"pattern": "^a"}, "ba", False),
        ({"pattern": "^a"}, 5, True),
    ],
)
def test_keywords_that_are_not_left_to_the_library(schema: dict[str, Any], value: Any, accepted: bool) -> None:
    assert check(call(x=value), [tool("book_room", {"properties": {"x": schema}})]).accepted == accepted


def test_a_pattern_that_takes_for_ever_rejects_the_call() -> None:
    text = "a" * 60 + "!"
    slow = [tool("book_room", {"properties": {"x": {"type": "array", "items": {"pattern": "^(a|aa)+$"}}}})]
    begun = time.process_time()
    reason = "book_room: a text takes too long to be held against the schema's pattern"
    assert check(call(x=[text] * 100), slow).reason == reason
    assert str(check_value(slow[0], "x", [text])).startswith("book_room.x: a text takes too long")
    assert time.process_time() - begun < 10


def test_objects_that_must_differ_are_not_compared_pair_by_pair() -> None:
    unique = [tool("book_room", {"properties": {"x": {"uniqueItems": True}}})]
    items = [{"a": number} for number in range(4_000)]
    assert least_cpu_s(lambda _: check(call(x=items), unique), "") < 1


def test_invented_arguments_are_looked_through_in_one_go() -> None:
    def check_many(text: str) -> None:
        assert not check(call(day="x", **{f"k{number}": 1 for number in range(len(text))}), TOOLS).accepted

    assert least_cpu_s(check_many, "k" * 40_000) < 12 * max(least_cpu_s(check_many, "k" * 10_000), 0.05)


def test_a_long_name_is_not_written_out_for_each_value_below_it() -> None:
    arguments = {"k" * 50_000: [1] * 5_000}
    tracemalloc.start()
    try:
        check({"name": "book_room", "arguments": arguments}, TOOLS)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_same_name_with_another_schema_is_checked_by_its_own() -> None:
    assert check({"name": "find_employee", "arguments": {}}, TOOLS).accepted
    other = [tool("find_employee", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})]
    assert not check({"name": "find_employee", "arguments": {}}, other).accepted


def test_check_all_keeps_the_order() -> None:
    results = check_all([call(day="x"), call()], TOOLS)
    assert [one.accepted for one in results] == [True, False]
    assert check_all([call(day="x", minutes="7")], TOOLS, coerce=True)[0].call["arguments"]["minutes"] == 7


@pytest.mark.parametrize(
    ("schema", "value", "coerced"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"enum": ["5"]}]}, "5", "5"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, {"a": "true"}, {"a": True}),
        ({"type": "object", "additionalProperties": True}, {"a": "true"}, {"a": "true"}),
    ],
)
def test_coercion_sees_choices_and_open_objects(schema: dict[str, Any], value: Any, coerced: Any) -> None:
    tools = [tool("book_room", {"type": "object", "properties": {"x": schema}})]
    guarded = check(call(x=value), tools, coerce=True)
    assert guarded.reason is None
    assert guarded.call["arguments"] == {"x": coerced}


def message(arguments: Any, name: Any = "book_room") -> dict[str, Any]:
    wrapped = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [wrapped]}


def test_a_servers_message_is_checked_with_its_arguments_as_text() -> None:
    (one,) = check_message(message('{"day": "x", "minutes": 30}'), TOOLS)
    assert one.accepted
    assert one.call == call(day="x", minutes=30)
    (one,) = check_message(message('{"day": "x", "minutes": "30"}'), TOOLS)
    assert one.reason == 'book_room.minutes: must be of type integer, not the string "30"'
    (one,) = check_message(message('{"day": "x", "minutes": "30"}'), TOOLS, coerce=True)
    assert one.call == call(day="x", minutes=30)
    assert check_message(message({"day": "x"}), TOOLS)[0].accepted, "some servers send an object"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"day": ', '"book_room": the arguments are not JSON: Expecting value'),
        ("", '"book_room": the arguments are not JSON: Expecting value'),
        ('{"day": "x", "day": "y"}', "\"book_room\": the arguments are not JSON: the key 'day' stands twice in one object"),
        ('{"day": "x", "price": NaN}', "book_room.price: nan is not a JSON number"),
        ('{"day": "x", "price": 1e999}', "book_room.price: inf is not a JSON number"),
        ("[1]", "book_room: arguments must be an object, not the array [1]"),
        ("[" * 100_000, '"book_room": the arguments are not JSON: '),
        ('{"day": ' + "9" * 5000 + "}", '"book_room": the arguments are not JSON: '),
        (None, "book_room: arguments must be an object, not null"),
    ],
)
def test_a_servers_arguments_that_cannot_be_read_are_rejected_with_a_reason(arguments: Any, reason: str) -> None:
    (one,) = check_message(message(arguments), TOOLS)
    assert str(one.reason).startswith(reason)
    assert one.call["arguments"] == arguments


@pytest.mark.parametrize("odd", [{}, {"tool_calls": None}, {"tool_calls": []}, {"tool_calls": "x"}, None, "x", []])
def test_a_message_without_calls_has_none_to_check(odd: Any) -> None:
    assert check_message(odd, TOOLS) == []


@pytest.mark.parametrize("odd", [None, 5, {}, {"function": None}, {"function": {"arguments": "{}"}}])
def test_what_is_no_call_in_a_message_is_rejected(odd: Any) -> None:
    (one,) = check_message({"tool_calls": [odd]}, TOOLS)
    assert one.reason == "a call must be an object with the name of a tool"


def test_importing_the_guard_imports_no_torch() -> None:
    code = "import calltune.guard, calltune.parse, sys; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["30", "true", "1e9", "first"])
)
_value = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3))
_names = st.sampled_from([*PARAMETERS["properties"], "minute", "age"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_names, _value, max_size=4), st.booleans())
def test_whatever_is_accepted_fits_the_schema_and_is_json(arguments: dict[str, Any], coerce: bool) -> None:
    guarded = check({"name": "book_room", "arguments": arguments}, TOOLS, coerce)
    if guarded.accepted:
        accepted = json.loads(json.dumps(guarded.call["arguments"], allow_nan=False))
        jsonschema.validate(accepted, {**PARAMETERS, "additionalProperties": False})
        assert check(guarded.call, TOOLS).accepted, "a coerced call needs no second coercion"
    else:
        assert guarded.reason
        guarded.reason.encode()


@pytest.mark.parametrize(
    "composed",
    [
        {"anyOf": [{"properties": {"p": {"type": "integer"}}}, {"properties": {"q": {"type": "integer"}}}]},
        {"allOf": [{"properties": {"p": {"type": "integer"}}}]},
        {"$ref": "#/$defs/P", "$defs": {"P": {"properties": {"p": {"type": "integer"}}}}},
    ],
)
def test_of_a_composed_schema_the_argument_that_is_not_in_it_is_named(composed: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **composed}}}
    assert check({"name": "f", "arguments": {"p": 1}}, [tool]).accepted
    assert check({"name": "f", "arguments": {"p": 1, "z": 1}}, [tool]).reason == "f.z: no such argument"
