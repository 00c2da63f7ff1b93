import json

import pytest

from calltune.dialects import DIALECTS, detect
from calltune.dialects.reading import RowError, strict_json
from calltune.errors import DataError
from calltune.loose_types import from_loose_types
from calltune.records import calls_of
from tests.timing import least_cpu_s

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a colleague.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["name"],
        },
    },
}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"name": "Ana"}}}
ASKED = {"role": "user", "content": "Who is Ana?"}
LOOSE_FIND = {
    "name": "find",
    "description": "Find a colleague.",
    "parameters": {"name": {"type": "str"}, "limit": {"type": "int, optional"}},
}

ROWS = {
    "openai": {"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}], "tools": [FIND]},
    "xlam": {
        "query": "Who is Ana?",
        "tools": json.dumps([LOOSE_FIND]),
        "answers": json.dumps([{"name": "find", "arguments": {"name": "Ana"}}]),
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Who is Ana?"},
            {"from": "function_call", "value": json.dumps({"name": "find", "arguments": {"name": "Ana"}})},
        ],
        "tools": json.dumps([FIND["function"]]),
    },
    "hermes": {
        "conversations": [
            {"from": "system", "value": f"You are a function calling AI model. <tools>{json.dumps([FIND])}</tools>"},
            {"from": "human", "value": "Who is Ana?"},
            {"from": "gpt", "value": '<tool_call>\n{"name": "find", "arguments": {"name": "Ana"}}\n</tool_call>'},
        ]
    },
    "prompt_completion": {
        "prompt": "Who is Ana?",
        "completion": '<tool_call>{"name": "find", "arguments": {"name": "Ana"}}</tool_call>',
        "tools": [FIND],
    },
    "tool_choice": {"user_content": "Who is Ana?", "tool_name": "find", "tool_arguments": '{"name": "Ana"}', "tools": [FIND]},
}


@pytest.mark.parametrize("dialect", ROWS)
def test_one_question_in_every_dialect_is_one_record(dialect):
    assert DIALECTS[dialect](ROWS[dialect], []) == {
        "messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}],
        "tools": [FIND],
    }


@pytest.mark.parametrize("dialect", [*ROWS, "alpaca"])
def test_auto_finds_every_dialect_and_says_why(dialect):
    row = ROWS.get(dialect, {"instruction": "Say hi.", "input": "", "output": "Hi."})
    name, why = detect([row, {"stray": 1}])
    assert name == dialect
    assert why.startswith("1 of the first 2 rows have ")


def test_auto_takes_the_dialect_of_most_rows():
    assert detect([ROWS["xlam"], ROWS["openai"], ROWS["xlam"]])[0] == "xlam"


def test_auto_names_the_fields_it_cannot_place():
    with pytest.raises(DataError, match=r"no known dialect: they have 'prompt', 'reply'. Known: openai: messages; "):
        detect([{"prompt": "Hi", "reply": "Hi"}])


@pytest.mark.parametrize("dialect", ["openai", "xlam", "sharegpt", "tool_choice"])
def test_tools_given_beside_serve_rows_that_bring_none(dialect):
    row = {key: value for key, value in ROWS[dialect].items() if key != "tools"}
    assert DIALECTS[dialect](row, [FIND])["tools"] == [FIND]


def test_an_empty_tool_list_of_its_own_stays_empty():
    assert DIALECTS["openai"]({**ROWS["openai"], "tools": []}, [FIND])["tools"] == []


def test_openai_reads_what_openai_writes():
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Who is "}, {"type": "text", "text": "Ana?"}]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "reasoning_content": "Staff question.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"name": "Ana", "limit": null}'}},
                    {"id": "c2", "type": "function", "function": {"name": "find", "arguments": {"name": "Bo"}}},
                ],
            },
            {"role": "tool", "tool_call_id": "c2", "content": "B1"},
            {"role": "tool", "tool_call_id": "c1", "content": "B2"},
            {"role": "assistant", "content": "Ana sits in B2."},
        ],
        "tools": [FIND],
    }
    record = DIALECTS["openai"](row, [])
    assert record["messages"] == [
        {"role": "system", "content": "Be brief."},
        ASKED,
        {
            "role": "assistant",
            "reasoning_content": "Staff question.",
            "tool_calls": [CALL, {"type": "function", "function": {"name": "find", "arguments": {"name": "Bo"}}}],
        },
        # As the calls are: what a result answers, a record says by its place alone.
        {"role": "tool", "content": "B2", "name": "find"},
        {"role": "tool", "content": "B1", "name": "find"},
        {"role": "assistant", "content": "Ana sits in B2."},
    ]


@pytest.mark.parametrize("ids", [("c2",), ("c1", "c1"), ("c2", "c2")])
def test_results_that_do_not_answer_the_calls_one_by_one_are_refused(ids):
    made = [{"id": name, "function": CALL["function"]} for name in ("c1", "c2")]
    results = [{"role": "tool", "tool_call_id": name, "content": "B1"} for name in ids]
    row = {"messages": [ASKED, {"role": "assistant", "tool_calls": made}, *results], "tools": [FIND]}
    with pytest.raises(RowError, match=r"messages\[2\].tool_call_id: one of the calls before has two results") as caught:
        DIALECTS["openai"](row, [])
    assert caught.value.rule == "invalid_message"


def test_a_key_that_stands_twice_behind_many_is_told_in_the_time_that_they_take():
    def read(text):
        with pytest.raises(ValueError, match="the key 'last' stands twice"):
            strict_json(text)

    def least_s(keys):
        many = "".join(f'"{key}": 1, ' for key in range(keys))
        return least_cpu_s(read, f'{{{many}"last": 1, "last": 2}}')

    assert least_s(20_000) < 10 * max(least_s(5_000), 0.01)


@pytest.mark.parametrize(
    "fields", [({"tool_call_id": 1}, {"tool_call_id": 0}), ({"name": "mail"}, {"name": "find"})], ids=["numbers", "names"]
)
def test_results_are_put_in_order_by_numbers_and_by_the_names_of_tools_too(fields):
    made = [{"id": number, "function": {"name": name, "arguments": {}}} for number, name in enumerate(("find", "mail"))]
    results = [{"role": "tool", "content": text, **field} for text, field in zip("BA", fields, strict=True)]
    row = {"messages": [ASKED, {"role": "assistant", "tool_calls": made}, *results], "tools": [FIND]}
    assert [message["content"] for message in DIALECTS["openai"](row, [])["messages"][2:]] == ["A", "B"]


def test_results_whose_calls_have_no_ids_or_one_for_all_stay_as_they_are():
    for names in ((None, None), ("c", "c")):
        made = [{"id": name, "function": CALL["function"]} for name in names]
        results = [{"role": "tool", "tool_call_id": name, "content": text} for name, text in zip(names, "AB", strict=True)]
        row = {"messages": [ASKED, {"role": "assistant", "tool_calls": made}, *results], "tools": [FIND]}
        assert [message["content"] for message in DIALECTS["openai"](row, [])["messages"][2:]] == ["A", "B"]


def test_openai_reads_the_older_functions():
    row = {
        "messages": [
            ASKED,
            {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": '{"name": "Ana"}'}},
            {"role": "function", "name": "find", "content": "B2"},
            {"role": "assistant", "content": "In B2."},
        ],
        "functions": [FIND["function"]],
    }
    record = DIALECTS["openai"](row, [])
    assert record["tools"] == [FIND]
    assert [message["role"] for message in record["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert calls_of(record["messages"][1]) == [CALL["function"]]


def test_a_record_reads_back_as_itself_with_its_expected_answers():
    expected = [{"name": "find", "arguments": {"name": ["Ana", "ana"], "limit": ["", 1]}}]
    record = {**DIALECTS["openai"](ROWS["openai"], []), "expected": expected}
    assert DIALECTS["openai"]({"id": "7", "source": {"uri": "x"}, **record}, []) == record


def test_sharegpt_joins_an_answer_and_the_calls_after_it_into_one_turn():
    call = {"from": "function_call", "value": json.dumps([{"name": "find", "arguments": {"name": "Ana"}}])}
    turns = [{"from": "human", "value": "Who is Ana?"}, {"from": "gpt", "value": "Let me look."}, call, call]
    record = DIALECTS["sharegpt"]({"system": "Be brief.", "conversations": turns, "tools": [FIND]}, [])
    assert record["messages"] == [
        {"role": "system", "content": "Be brief."},
        ASKED,
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL, CALL]},
    ]


@pytest.mark.parametrize("history", [[["Hi", "Hello"]], '[["Hi", "Hello"]]'])
def test_alpaca_keeps_system_history_and_input(history):
    row = {"system": "Be kind.", "history": history, "instruction": "Fix it.", "input": "He go.", "output": "He goes."}
    assert [(m["role"], m["content"]) for m in DIALECTS["alpaca"](row, [])["messages"]] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Fix it.\n\nHe go."),
        ("assistant", "He goes."),
    ]


def test_xlam_reads_a_number_written_as_text_and_leaves_what_is_none():
    answers = [
        {"name": "find", "arguments": {"name": "63", "limit": "63"}},
        {"name": "find", "arguments": {"name": "A", "limit": "many"}},
    ]
    record = DIALECTS["xlam"]({**ROWS["xlam"], "answers": answers}, [])
    assert [call["arguments"] for call in calls_of(record["messages"][1])] == [
        {"name": "63", "limit": 63},
        {"name": "A", "limit": "many"},
    ]


@pytest.mark.parametrize(
    ("loose", "schema"),
    [
        ("str", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("dict", {"type": "object"}),
        ("Any", {}),
        ("List[str]", {"type": "array", "items": {"type": "string"}}),
        ("List[List[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("List[Union[int, float]]", {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}]}}),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[str, int]", {"type": "array"}),
        ("Dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}),
        ("int or float", {"anyOf": [{"type": "integer"}, {"type": "number"}]}),
        ("Literal['a', 2]", {"enum": ["a", 2]}),
        ("Callable[[float], float]", {"type": "string"}),
    ],
)
def test_a_loose_type_becomes_json_schema_and_is_required(loose, schema):
    tool = from_loose_types({"name": "f", "parameters": {"x": {"type": loose}}}, "row")
    assert tool["parameters"] == {"type": "object", "properties": {"x": schema}, "required": ["x"]}


@pytest.mark.parametrize(
    ("loose", "schema"),
    [
        ({"type": "str, optional"}, {"type": "string"}),
        ({"type": "List[int], optional"}, {"type": "array", "items": {"type": "integer"}}),
        ({"type": "Optional[int]"}, {"type": "integer"}),
        ({"type": "str | None"}, {"type": "string"}),
        ({"type": "int, default 5"}, {"type": "integer"}),
        ({"type": "int", "default": "10"}, {"type": "integer", "default": 10}),
        ({"type": "str", "default": "'US'"}, {"type": "string", "default": "US"}),
        ({"type": "bool", "default": "False"}, {"type": "boolean", "default": False}),
        ({"type": "float", "default": ""}, {"type": "number"}),
        ({"type": "str", "required": False}, {"type": "string"}),
    ],
)
def test_a_loose_type_that_may_be_absent_is_not_required(loose, schema):
    tool = from_loose_types({"name": "f", "parameters": {"x": loose}}, "row")
    assert tool["parameters"] == {"type": "object", "properties": {"x": schema}}


def test_required_inside_a_property_moves_to_the_list():
    nested = {"type": "dict", "properties": {"deep": {"type": "int", "required": True}, "other": {"type": "str"}}}
    tool = {"name": "f", "parameters": {"type": "dict", "properties": {"a": nested, "b": {"type": "str", "required": True}}}}
    assert from_loose_types(tool, "row")["parameters"] == {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"deep": {"type": "integer"}, "other": {"type": "string"}},
                "required": ["deep"],
            },
            "b": {"type": "string"},
        },
        "required": ["b"],
    }


def test_parameters_called_type_and_properties_are_parameters():
    flat = {"type": {"type": "str"}, "properties": {"type": "List[str]", "description": "Which."}}
    schema = from_loose_types({"name": "f", "parameters": flat}, "row")["parameters"]
    assert schema["required"] == ["type", "properties"]
    assert schema["properties"]["type"] == {"type": "string"}


def test_a_type_without_counterpart_is_named():
    with pytest.raises(DataError, match=r"row: tool 'f', parameter 'x': the type 'Quaternion' has no counterpart"):
        from_loose_types({"name": "f", "parameters": {"x": {"type": "Quaternion"}}}, "row")


BAD_ROWS = [
    ("openai", {"messages": []}, "missing_field", "messages: must be a list of messages, not an empty list"),
    ("openai", {"messages": [{"content": "Hi"}]}, "invalid_message", r"messages\[0\].role: must be a string, not nothing"),
    ("openai", {"messages": [{"from": "user"}]}, "invalid_message", r"messages\[0\].role: must be a string, not nothing"),
    ("openai", {"messages": [5]}, "invalid_message", r"messages\[0\]: must be an object with a role, not 5"),
    (
        "openai",
        {"messages": [{"role": "user", "content": 5}]},
        "invalid_content",
        r"messages\[0\].content: must be a string, not 5",
    ),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "invalid_content",
        r"messages\[0\].content\[0\]: only parts of type text",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "tool_calls": {}}]},
        "invalid_call",
        r"messages\[0\].tool_calls: must be a list, not an object",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "invalid_call",
        r"messages\[0\].tool_calls\[0\].arguments: the string is not JSON",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        "invalid_call",
        r"arguments: must be an object, not a list",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "function_call": {}}]},
        "invalid_call",
        "a call needs a name, not nothing",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "function_call": CALL["function"], "tool_calls": [CALL]}]},
        "invalid_call",
        r"messages\[0\]: has tool_calls and a function_call: one of them would be lost",
    ),
    (
        "openai",
        {"messages": [{"role": "assistant", "content": "Hi", "weight": 0}]},
        "unsupported_weight",
        r"messages\[0\].weight: 0 excludes a turn",
    ),
    (
        "openai",
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
                {"role": "tool", "tool_call_id": "b", "content": ""},
            ]
        },
        "invalid_message",
        r"messages\[1\].tool_call_id: 'b' answers none",
    ),
    ("openai", {"messages": [ASKED], "tools": {}}, "invalid_tool", "tools: must be a list of tools, not an object"),
    ("openai", {"messages": [ASKED], "tools": [5]}, "invalid_tool", r"tools\[0\]: must be an object, not 5"),
    ("openai", {"messages": [ASKED], "tools": [{}]}, "invalid_tool", r"tools\[0\]: the tool: a tool needs a name"),
    (
        "openai",
        {"messages": [ASKED], "tools": [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "strin"}}}}]},
        "invalid_tool",
        r"tools\[0\].*parameters are not a JSON Schema: 'strin'",
    ),
    (
        "openai",
        {"messages": [ASKED], "tools": [{"name": "f"}, {"name": "f", "description": "Other."}]},
        "invalid_tool",
        r"tools\[1\]: the tool 'f' is defined twice, differently",
    ),
    ("xlam", {"query": 5}, "missing_field", "query: must be a string, not 5"),
    ("xlam", {"query": "Q", "tools": "[{"}, "not_json", "tools: the string is not JSON"),
    ("xlam", {"query": "Q", "answers": "call f"}, "not_json", "answers: the string is not JSON"),
    (
        "xlam",
        {"query": "Q", "answers": '[{"name": "f", "arguments": {"a": 1, "a": 2}}]'},
        "not_json",
        "answers: the string is not JSON: the key 'a' stands twice in one object",
    ),
    ("xlam", {"query": "Q"}, "missing_field", "answers: must be a list of calls, not nothing"),
    ("xlam", {"query": "Q", "answers": ["f"]}, "invalid_call", r"answers\[0\]: a call needs a name and arguments, not 'f'"),
    ("sharegpt", {"conversations": {}}, "missing_field", "conversations: must be a list of turns, not an object"),
    (
        "sharegpt",
        {"conversations": [{"role": "user"}]},
        "invalid_message",
        r"conversations\[0\].from: must be a string, not nothing",
    ),
    ("sharegpt", {"conversations": [5]}, "invalid_message", r"conversations\[0\]: a turn needs `from` and `value`, .*, not 5"),
    ("sharegpt", {"conversations": [{"from": "bard", "value": ""}]}, "unknown_role", "'bard' is not one of human, user"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "f()"}]}, "not_json", "value: the string is not JSON"),
    ("tool_choice", {"user_content": None}, "missing_field", "user_content: must be a string, not nothing"),
    (
        "tool_choice",
        {"user_content": "Q", "tool_name": ""},
        "invalid_call",
        "tool_arguments: a call needs a name, not ''",
    ),
    ("alpaca", {"instruction": "I"}, "missing_field", "output: must be a string, not nothing"),
    ("alpaca", {"instruction": "I", "output": "O", "history": [["Q"]]}, "invalid_message", r"history\[0\]: must be a pair"),
]


@pytest.mark.parametrize(("dialect", "row", "rule", "message"), BAD_ROWS)
def test_a_row_that_cannot_be_read_says_where_and_why(dialect, row, rule, message):
    with pytest.raises(RowError, match=message) as caught:
        DIALECTS[dialect](row, [])
    assert caught.value.rule == rule


def test_a_schema_that_refers_elsewhere_is_refused_and_not_fetched():
    tool = {"name": "find", "parameters": {"type": "object", "properties": {"name": {"$ref": "http://127.0.0.1:9/secret"}}}}
    with pytest.raises(RowError, match=r"reference 'http://127\.0\.0\.1:9/secret' leads nowhere") as caught:
        DIALECTS["xlam"]({**ROWS["xlam"], "tools": [tool]}, [])
    assert caught.value.rule == "invalid_tool"


def test_bfcl_leaves_out_accepted_values_that_the_schema_refuses():
    truth = [{"find_employee": {"name": ["Ana", None, ""]}}]
    row = {"question": [[{"role": "user", "content": "Who is Ana?"}]], "ground_truth": truth}
    row["function"] = [{"name": "find_employee", "parameters": {"type": "dict", "properties": {"name": {"type": "string"}}}}]
    assert DIALECTS["bfcl"](row, [])["expected"] == [{"name": "find_employee", "arguments": {"name": ["Ana", ""]}}]
    truth[0]["find_employee"]["name"] = [None]
    assert DIALECTS["bfcl"](row, [])["expected"] == [{"name": "find_employee", "arguments": {"name": [None]}}]
