import copy

import pytest

from calltune import validate
from calltune.validate import problem


def tool(name, /, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


BOOK = tool("book_room", day={"type": "string"}, minutes={"type": "integer"}, kind={"enum": ["desk", "room"]})
FIND = tool("find_employee", name={"type": "string"})


def user(text="Book a room for Monday."):
    return {"role": "user", "content": text}


def says(text="Done."):
    return {"role": "assistant", "content": text}


def calls(name="book_room", /, **arguments):
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


def result(text="ok"):
    return {"role": "tool", "content": text}


def record(*messages, tools=(BOOK, FIND), **more):
    return {"messages": list(messages), "tools": list(tools), **more}


@pytest.mark.parametrize(
    "good",
    [
        record(user(), says()),
        record(user(), says(), tools=()),
        record({"role": "system", "content": ""}, user(), calls(day="Monday", minutes=30, kind="room")),
        record({"role": "developer", "content": "Be brief."}, user(), calls(day="Monday"), result(), says()),
        record(user(), calls(day="Monday"), result(), calls(day="Tuesday"), result(), says(), user("Thanks"), says("Bye")),
        record(user(), calls(day="Monday"), expected=[{"name": "book_room", "arguments": {"day": ["Monday", ""]}}]),
        record(user(), says("Which day?"), expected=[]),
        record(
            user(), calls(day="Monday"), expected=[{"name": "book_room", "arguments": {"day": ["M"], "minutes": ["", 30, 45]}}]
        ),
        record(user(), calls(day="Monday"), expected=[{"name": "book_room", "arguments": {"day": ["M"], "kind": ["desk", ""]}}]),
    ],
)
def test_a_good_record_has_no_problem(good):
    assert problem(good) is None


def test_parallel_calls_may_each_have_a_result():
    both = calls(day="Monday")
    both["tool_calls"] *= 2
    assert problem(record(user(), both, result(), result(), says())) is None


BAD = [
    ("invalid_message", "messages: must be a list of messages, at least one", record()),
    (
        "unknown_role",
        "messages[0].role: 'bot' is not one of system, developer, user",
        record({"role": "bot", "content": "Hi"}, says()),
    ),
    ("role_order", "messages[0]: assistant cannot come first", record(says())),
    ("role_order", "messages[1]: user cannot follow user", record(user(), user(), says())),
    ("role_order", "messages[2]: assistant cannot follow assistant", record(user(), says(), says())),
    ("role_order", "messages[1]: system cannot follow user", record(user(), {"role": "system", "content": ""}, says())),
    ("role_order", "messages[1]: tool cannot follow user", record(user(), result(), says())),
    ("role_order", "messages[2]: a tool's result without a call before it", record(user(), says(), result(), says())),
    ("role_order", "messages[3]: a tool's result without", record(user(), calls(day="Monday"), result(), result(), says())),
    ("role_order", "messages: the last turn must be the assistant's, it is the user's", record(user())),
    ("role_order", "the last turn must be the assistant's, it is the tool's", record(user(), calls(day="Monday"), result())),
    ("role_order", "messages[0].tool_calls: only the assistant", record({**user(), "tool_calls": [{}]}, says())),
    ("invalid_content", "messages[0].content: must be a string", record({"role": "user", "content": None}, says())),
    ("invalid_content", "messages[0].content: is missing", record({"role": "user"}, says())),
    ("no_question", "messages: no user turn says anything", record(user(" \n"), says())),
    ("empty_answer", "messages[1]: the assistant neither says nor calls", record(user(), {"role": "assistant"})),
    ("empty_answer", "messages[1]: the assistant neither says nor calls", record(user(), says("  "))),
    (
        "invalid_call",
        "messages[1].tool_calls: must be a list of calls",
        record(user(), {"role": "assistant", "tool_calls": [{}]}),
    ),
    (
        "no_tools",
        "messages[1].tool_calls[0]: calls 'book_room', but the row has no tools",
        record(user(), calls(day="M"), tools=()),
    ),
    (
        "unknown_tool",
        "there is no tool 'book_rooms'; did you mean 'book_room'?",
        record(user(), calls("book_rooms", day="Monday")),
    ),
    ("unknown_tool", "there is no tool 'xyz'; there is book_room, find_employee", record(user(), calls("xyz"))),
    ("invalid_arguments", "messages[1].tool_calls[0]: book_room.day: is required and missing", record(user(), calls(minutes=30))),
    ("invalid_arguments", "book_room.minutes: must be of type integer", record(user(), calls(day="Monday", minutes="30"))),
    ("invalid_arguments", "book_room.kind: must be one of", record(user(), calls(day="Monday", kind="hall"))),
    (
        "invalid_arguments",
        "book_room.minute: no such argument; the nearest is 'minutes'",
        record(user(), calls(day="M", minute=30)),
    ),
    ("invalid_expected", "expected: must be a list", record(user(), says(), expected={})),
    ("invalid_expected", "expected[0]: must have a name", record(user(), says(), expected=[{"name": "book_room"}])),
    (
        "invalid_expected",
        "expected[0]: there is no tool 'find_employe'; did you mean 'find_employee'?",
        record(user(), says(), expected=[{"name": "find_employe", "arguments": {}}]),
    ),
    (
        "invalid_expected",
        "expected[0].arguments.day: must be a list of accepted values",
        record(user(), says(), expected=[{"name": "book_room", "arguments": {"day": "Monday"}}]),
    ),
    (
        "invalid_expected",
        "expected[0]: book_room.dya: no such argument; the nearest is 'day'",
        record(user(), calls(day="Monday"), expected=[{"name": "book_room", "arguments": {"dya": ["Monday"]}}]),
    ),
    (
        "invalid_expected",
        'expected[0]: book_room.minutes: must be of type integer, not the string "thirty"',
        record(
            user(), calls(day="M"), expected=[{"name": "book_room", "arguments": {"day": ["M"], "minutes": ["", 30, "thirty"]}}]
        ),
    ),
    (
        "invalid_expected",
        "expected[0]: book_room.kind: must be one of",
        record(user(), calls(day="M"), expected=[{"name": "book_room", "arguments": {"day": ["M"], "kind": ["", "hall"]}}]),
    ),
    (
        "invalid_expected",
        "the row's own last answer: called book_room where no call was expected",
        record(user(), calls(day="Monday"), expected=[]),
    ),
    (
        "invalid_expected",
        "expected: does not accept the row's own last answer: called book_room instead of find_employee",
        record(user(), calls(day="Monday"), expected=[{"name": "find_employee", "arguments": {"name": ["Ana"]}}]),
    ),
    (
        "invalid_expected",
        "own last answer: book_room.minutes: 30 is not among the accepted [45]",
        record(
            user(), calls(day="M", minutes=30), expected=[{"name": "book_room", "arguments": {"day": ["M"], "minutes": [45]}}]
        ),
    ),
    (
        "invalid_expected",
        "own last answer: book_room.kind: 'desk' is not among the accepted ['room']",
        record(
            user(), calls(day="M", kind="desk"), expected=[{"name": "book_room", "arguments": {"day": ["M"], "kind": ["room"]}}]
        ),
    ),
    (
        "invalid_expected",
        "own last answer: book_room.day: '' is not among the accepted ['Monday']",
        record(user(), calls(day=""), expected=[{"name": "book_room", "arguments": {"day": ["Monday"]}}]),
    ),
    (
        "invalid_expected",
        "own last answer: book_room.minutes: 30 is not among the accepted [45]",
        record(
            user(),
            {"role": "assistant", "tool_calls": 2 * calls(day="M", minutes=30)["tool_calls"]},
            expected=[{"name": "book_room", "arguments": {"day": ["M"], "minutes": [minutes]}} for minutes in (30, 45)],
        ),
    ),
]


@pytest.mark.parametrize(("rule", "message", "bad"), BAD, ids=[f"{n}-{rule}" for n, (rule, _, _) in enumerate(BAD)])
def test_a_bad_record_names_its_rule_and_place(rule, message, bad):
    before = copy.deepcopy(bad)
    found = problem(bad)
    assert found is not None
    assert found[0] == rule
    assert message in found[1]
    assert bad == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(*[user(), says()] * (validate.MAX_MESSAGES // 2 + 1)), "messages: 1002, at most 1000"),
        (record(user("x" * (validate.MAX_CHARACTERS + 1)), says()), "characters: 1000006, at most 1000000"),
        (record(user(), calls(day="x" * validate.MAX_CHARACTERS)), "characters: 1000106, at most 1000000"),
        (record(user(), {**says(), "reasoning_content": "x" * validate.MAX_CHARACTERS}), "characters: 1000028, at most 1000000"),
        (record(user(), says(), tools=[FIND] * (validate.MAX_TOOLS + 1)), "tools: 1001, at most 1000"),
        (record(user(), {"role": "assistant", "tool_calls": calls(day="M")["tool_calls"] * 101}), "tool_calls: 101, at most 100"),
    ],
)
def test_a_row_beyond_the_limits_is_too_large(bad, message):
    found = problem(bad)
    assert found is not None
    assert found[0] == "too_large"
    assert message in found[1]


def test_a_schema_may_allow_arguments_that_it_does_not_list():
    free = tool("free", x={"type": "string"})
    free["function"]["parameters"]["additionalProperties"] = {"type": "integer"}
    assert problem(record(user(), calls("free", x="a", y=1), tools=[free])) is None
    assert problem(record(user(), calls("free", x="a", y="b"), tools=[free]))[0] == "invalid_arguments"


def test_a_schema_that_breaks_the_checker_is_the_tools_fault():
    broken = tool("broken", x={"$ref": "#/elsewhere"})
    broken["function"]["parameters"]["elsewhere"] = {"minimum": "low"}
    assert problem(record(user(), calls("broken", x=3), tools=[broken]))[0] == "invalid_tool"


def test_accepted_values_of_an_object_are_each_held_against_its_schema():
    area = {
        "type": "object",
        "properties": {"km": {"type": "integer"}, "unit": {"enum": ["a", "b"]}},
        "additionalProperties": False,
    }
    find = tool("find", area=area, areas={"type": "array", "items": area})

    def found(**accepted):
        own = calls("find", area={"km": 1})
        return problem(record(user(), own, tools=[find], expected=[{"name": "find", "arguments": {"area": [accepted]}}]))

    assert found(km=[1, 2], unit=["", "b"]) is None
    assert found(km=1) is None
    assert found(km=[1], unit=["", "c"])[1].startswith("expected[0]: find.area.unit: must be one of")
    assert "find.area.kms: no such argument" in found(km=[1], kms=["", 1])[1]
    several = [{"name": "find", "arguments": {"area": [{"km": [1]}], "areas": ["", [{"km": [1]}, {"km": [2, "x"]}]]}}]
    assert (
        "find.areas[1].km: must be of type integer"
        in problem(record(user(), calls("find", area={"km": 1}), tools=[find], expected=several))[1]
    )


def test_accepted_values_of_a_composed_or_open_schema_are_accepted():
    composed = tool("composed")
    composed["function"]["parameters"] = {
        "anyOf": [{"properties": {"city": {"type": "string"}}, "required": ["city"]}, {"$ref": "#/$defs/zip"}],
        "$defs": {"zip": {"properties": {"zip": {"type": "string"}, "land": {}}, "required": ["zip"]}},
    }
    expected = [{"name": "composed", "arguments": {"city": ["Rome"], "land": ["", "IT"], "zip": ["", "00100"]}}]
    assert problem(record(user(), calls("composed", city="Rome"), tools=[composed], expected=expected)) is None
    free = tool("free", x={"type": "string"})
    free["function"]["parameters"]["additionalProperties"] = {"type": "integer"}
    expected = [{"name": "free", "arguments": {"x": ["a"], "y": ["", 1]}}]
    assert problem(record(user(), calls("free", x="a"), tools=[free], expected=expected)) is None
    expected[0]["arguments"]["y"] = ["", "b"]
    assert "free.y: must be of type integer" in problem(record(user(), calls("free", x="a"), tools=[free], expected=expected))[1]


def test_what_only_another_argument_forbids_is_accepted():
    chosen = tool("chosen", zip={"type": "string"}, land={"type": "string"})
    inner = {"if": {"required": ["a"]}, "then": {"properties": {"b": {"type": "integer"}}}}
    digits = {"properties": {"zip": {"pattern": "^[0-9]{5}$"}}, "additionalProperties": False}
    parameters = chosen["function"]["parameters"]
    parameters["properties"]["place"] = inner
    parameters["allOf"] = [{"if": {"properties": {"land": {"const": "US"}}}, "then": digits}]
    own = calls("chosen", zip="SW1A 1AA", land="UK", place={"a": 1, "b": 2})
    expected = [{"name": "chosen", "arguments": {"zip": ["SW1A 1AA"], "land": ["UK"], "place": [{"a": [1], "b": [2]}]}}]
    assert problem(record(user(), own, tools=[chosen], expected=expected)) is None
    expected[0]["arguments"]["place"] = [{"a": [1], "b": [2, "x"]}]
    assert "chosen.place.b: must be of type integer" in problem(record(user(), own, tools=[chosen], expected=expected))[1]


def test_accepted_values_that_nobody_can_follow_are_refused():
    deep = 1
    for _ in range(3000):
        deep = [deep]
    expected = [{"name": "book_room", "arguments": {"day": ["M"], "minutes": [deep]}}]
    assert "nested too deeply" in problem(record(user(), calls(day="M"), expected=expected))[1]
