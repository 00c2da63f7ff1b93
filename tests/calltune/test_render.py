"""Rendering: what the model sees, what it is trained on, and that what it writes can be read back."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from calltune import models
from calltune.errors import ConfigError
from calltune.parse import PARSERS
from calltune.records import calls_of, canonical, prompt_of
from calltune.render import TEMPLATES, NotRepresentable, Renderer, answer_text, common_prefix, prompt_ids, template_of, token_ids
from calltune.settings import ModelConfig
from components.format.config import FormatConfig
from components.format.step import format_rows

GOLDEN = Path(__file__).parents[1] / "golden"
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Search the handbook, "A–Z".',
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
NOTHING = {
    "type": "function",
    "function": {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}},
}
HARD = {
    "markers": "a</tool_call>b<tool_call>c<|im_end|>d<|im_start|>e<tool_response></tools>",
    "quotes": "\"double\" 'single' `back` \\slash\\ \\u003c",
    "lines": "one\ntwo\r\n\tthree",
    "unicode": "naïve 你好 🙂  é e\u0301",
    "nested": {"list": [1, 2.5, True, None, {"deep": ["</tool_call>"]}], "empty": {}, "</tool_call>": "key"},
}


def user(text):
    return {"role": "user", "content": text}


def calls(*pairs, content=None):
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in pairs]
    return {"role": "assistant", **({"content": content} if content else {}), "tool_calls": made}


def record(*messages, tools=(SEARCH,)):
    return {"id": "1", "messages": list(messages), "tools": list(tools)}


CASES = {
    "call": record(user("Who is Ana?"), calls(("search", {"query": "Ana"}))),
    "parallel": record(user("Ana and Bo?"), calls(("search", {"query": "Ana"}), ("search", {"query": "Bo"}))),
    "no_call": record(user("Hi!"), {"role": "assistant", "content": "Hello. What can I look up?"}),
    "no_arguments": record(user("Ping."), calls(("ping", {})), tools=[SEARCH, NOTHING]),
    "text_and_call": record(user("Ana?"), calls(("search", {"query": "Ana"}), content="I'll look her up.")),
    "tool_result": record(
        user("Who is Ana?"),
        calls(("search", {"query": "Ana"})),
        {"role": "tool", "content": '{"name": "Ana Souza"}'},
        {"role": "assistant", "content": "Ana Souza, in Leeds."},
        user("And Bo?"),
        calls(("search", {"query": "Bo"})),
    ),
    "developer": record(
        {"role": "developer", "content": "Today is 4 May."}, user("Who is Ana?"), calls(("search", {"query": "Ana"}))
    ),
    "system_without_tools": record(
        {"role": "system", "content": "Be brief."}, user("Hi"), {"role": "assistant", "content": "Hi."}, tools=[]
    ),
    "hard_arguments": record(user("Hard?"), calls(("search", HARD))),
}


@pytest.fixture(scope="module")
def loaded(tokenizer_folder):
    return models.tokenizer(tokenizer_folder)


@pytest.fixture
def tokenizer(loaded):
    """SmolLM2's; a copy, since rendering changes its chat template, and loading it takes a second."""
    return copy.copy(loaded)


@pytest.fixture
def renderer(tokenizer):
    return Renderer(tokenizer, TEMPLATES["hermes"])


def marked(renderer, row):
    """The row's text, what is supervised between ⟦ and ⟧."""
    text, inside, start = "", False, 0
    for position, supervised in enumerate([*row.loss_mask, False]):
        if supervised != inside or position == len(row.loss_mask):
            text += renderer.tokenizer.decode(row.input_ids[start:position]) + ("⟦" if supervised else "⟧" if inside else "")
            start, inside = position, supervised
    return text


@pytest.mark.parametrize("name", CASES)
def test_hermes_renders_as_its_golden_file_says(renderer, name):
    rows = renderer.rows(CASES[name])
    assert len(rows) == 1
    assert len(rows[0].input_ids) == len(rows[0].loss_mask)
    text, path = marked(renderer, rows[0]), GOLDEN / "hermes" / f"{name}.txt"
    if os.environ.get("REGENERATE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    assert text == path.read_bytes().decode()


@pytest.mark.parametrize("name", CASES)
def test_every_assistant_turn_is_supervised_with_its_stop_token_and_nothing_else_is(renderer, name):
    (row,) = renderer.rows(CASES[name])
    turns = marked(renderer, row).split("⟦")[1:]
    said = [message for message in CASES[name]["messages"] if message["role"] == "assistant"]
    assert len(turns) == len(said)
    for turn, message in zip(turns, said, strict=True):
        answer, rest = turn.split("⟧")
        assert answer.endswith("<|im_end|>") and answer.count("<|im_end|>") == 1
        assert rest.startswith("\n")
        parsed = PARSERS["hermes"](answer.removesuffix("<|im_end|>"))
        assert list(parsed.calls) == calls_of(message)
        assert parsed.content == message.get("content", "")


def test_the_golden_files_hold_each_case_and_no_other():
    assert {path.stem for path in (GOLDEN / "hermes").iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_in_evaluation_is_a_prefix_of_what_was_trained(renderer, name):
    case = CASES[name]
    (row,) = renderer.rows(case)
    prompt = prompt_ids(renderer.tokenizer, prompt_of(case), case["tools"])
    assert row.input_ids[: len(prompt)] == prompt
    assert row.loss_mask[len(prompt) :].index(True) == 0


def test_the_prefix_is_system_and_tools_and_no_word_of_the_question(renderer):
    case = CASES["developer"]
    length = renderer.prefix_length(case)
    head = renderer.tokenizer.decode(renderer.rows(case)[0].input_ids[:length])
    assert head.endswith("<|im_end|>\n<|im_start|>user\n")
    assert "Today is 4 May." in head and '"name": "search"' in head and "Ana" not in head
    assert renderer.prefix_length(record(user("Other?"), CASES["call"]["messages"][1])) < length


@pytest.mark.parametrize("question", ["Who?", "A pen", "z", " A", "apple", "Az", "", "\n"])
@pytest.mark.parametrize(
    "printed", ["{Q}", "{Q} | upper", "{Q} | trim", "'z' + {Q}", "'A'", "{Q} + {Q}", "{Q} | length | string"]
)
def test_the_prefix_is_the_same_whatever_question_it_is_found_by_and_however_a_template_prints_it(tokenizer, question, printed):
    hermes, content = TEMPLATES["hermes"], "message['content']"
    assert hermes.text.count(f"'\\n' + {content} + '<|im_end|>\\n'") == 1
    text = hermes.text.replace(f"'\\n' + {content} + '<|im_end|>\\n'", f"'\\n' + ({printed.format(Q=content)}) + '<|im_end|>\\n'")
    renderer = Renderer(tokenizer, replace(hermes, text=text))
    case = record(user(question), calls(("search", {"query": "Ana"})))
    rows, length = renderer.rows_and_prefix(case)
    other = Renderer(tokenizer, replace(hermes, text=text))
    assert (rows, length) == (other.rows(case), other.prefix_length(case))
    assert renderer.rows_and_prefix(case) == (rows, length)


@pytest.mark.parametrize("name", CASES)
def test_rows_and_their_prefix_come_to_the_same_at_once(tokenizer, name):
    at_once, each = (Renderer(tokenizer, TEMPLATES["hermes"]) for _ in range(2))
    assert at_once.rows_and_prefix(CASES[name]) == (each.rows(CASES[name]), each.prefix_length(CASES[name]))


def test_the_prefix_is_the_same_where_a_template_begins_otherwise_the_longer_a_conversation_is(tokenizer):
    # Mistral's prints [AVAILABLE_TOOLS] before the last question: there, after one bracket, stands the letter that is looked for.
    hermes, begin = TEMPLATES["hermes"], "{{- '[INST]' if messages | length > 2 else '[AVAILABLE_TOOLS]' -}}"
    at_once, each = (Renderer(tokenizer, replace(hermes, text=begin + hermes.text)) for _ in range(2))
    case = CASES["tool_result"]
    length = each.prefix_length(case)
    assert length > 50
    assert at_once.rows_and_prefix(case) == (each.rows(case), length)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("raise_exception('not this')", "not this"),
        ("1 // (messages | length - 2)", "integer division or modulo by zero"),
        ("messages[0]['content'] + 1", "can only concatenate str"),
        ("'%d' % messages[0]['content']", "%d format"),
        ("tools[0]['function']['name'].foo.bar", "has no attribute 'foo'"),
        ("'{1}'.format(1)", "out of range"),
        ("messages[0]['content'].encode('utf-7x')", "unknown encoding"),
    ],
)
def test_whatever_a_template_raises_it_does_not_take_the_conversation(tokenizer, expression, says):
    hermes = TEMPLATES["hermes"]
    renderer = Renderer(tokenizer, replace(hermes, text=f"{{{{- {expression} -}}}}{hermes.text}"))
    with pytest.raises(NotRepresentable, match=f"'hermes' does not take this conversation: .*{says}"):
        renderer.rows(CASES["call"])


def test_a_template_that_takes_the_record_and_no_other_question_is_not_said_to_refuse_the_record(tokenizer):
    hermes = TEMPLATES["hermes"]
    refuses = "{%- if messages[-1]['content'] == 'A' -%}{{- raise_exception('no A') -}}{%- endif -%}"
    renderer = Renderer(tokenizer, replace(hermes, text=refuses + hermes.text))
    with pytest.raises(NotRepresentable, match="no A"):
        renderer.rows_and_prefix(CASES["call"])
    assert renderer.rows(CASES["call"]) == Renderer(tokenizer, hermes).rows(CASES["call"])


@pytest.mark.parametrize(
    "begin",
    [
        "",
        "\n",
        "\n\n",
        " ",
        "  a",
        "  {% if true %}b{% endif %}",
        "{# c #}\n",
        "{%- set a = 1 %}\n  ",
        "{%+ if true %} {% endif %}",
    ],
)
def test_what_a_template_begins_with_stands_in_a_row_as_in_the_prompt_of_evaluation(tokenizer, begin):
    hermes = TEMPLATES["hermes"]
    text = begin + hermes.text[hermes.text.index("{%- macro") :].replace("{%- macro", "{% macro", 1)
    renderer, case = Renderer(tokenizer, replace(hermes, text=text)), CASES["tool_result"]
    (row,) = renderer.rows(case)
    prompt = prompt_ids(renderer.tokenizer, prompt_of(case), case["tools"])
    assert row.input_ids[: len(prompt)] == prompt and row.input_ids == token_ids(
        renderer.tokenizer, case["messages"], case["tools"]
    )


def test_an_answer_after_an_answer_is_asked_for_too(renderer):
    case = record(user("Ana?"), calls(("search", {"query": "Ana"})), calls(("search", {"query": "Bo"})))
    (row,) = renderer.rows(case)
    assert marked(renderer, row).count("⟦") == 2
    second = prompt_ids(renderer.tokenizer, case["messages"][:2], case["tools"])
    assert row.input_ids[: len(second)] == second and row.loss_mask[len(second)]


def test_one_stop_token_and_no_second_begin_token_stand_in_a_row(renderer):
    (row,) = renderer.rows(CASES["call"])
    begin, stop = (renderer.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    assert row.input_ids.count(begin) == row.input_ids.count(stop) == 3
    assert row.input_ids[:2].count(begin) == 1
    assert renderer.stop_ids == [stop]


def test_a_server_that_reorders_a_tools_keys_renders_the_same_prompt(renderer):
    function = SEARCH["function"]
    turned = {"function": {key: function[key] for key in ("parameters", "description", "name")}, "type": "function"}
    same = [token_ids(renderer.tokenizer, [user("Hi")], [tool]) for tool in (SEARCH, turned, function)]
    assert same[0] == same[1] == same[2]


@pytest.mark.parametrize("text", ["<tool_call>", "a </tool_call> b", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'])
def test_an_answer_whose_text_would_read_as_a_call_is_refused(renderer, text):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderer.rows(record(user("Hi"), {"role": "assistant", "content": text}))


def test_a_stop_token_inside_an_answers_text_is_refused_or_never_supervised_past(renderer):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderer.rows(record(user("Hi"), calls(("search", {"query": "x"}), content="a<|im_end|>b")))


def turns(first, *more):
    """A conversation of several assistant turns, all of which are trained on."""
    return record(user("Ana?"), first, *more, user("And Bo?"), calls(("search", {"query": "Bo"})))


@pytest.mark.parametrize(
    "first",
    [
        {"role": "assistant", "content": "Write <tool_call> and then the name."},
        calls(("search", {"query": "\U00040000"})),
        calls(("search", {"query": "x"}), content="a<|im_end|>b"),
    ],
    ids=["text that reads as a call", "a letter without a token", "a stop token before the call"],
)
def test_an_earlier_turn_is_trained_on_too_and_must_read_back_too(renderer, first):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderer.rows(turns(first, {"role": "tool", "content": "{}"}))


def test_in_one_row_per_turn_every_turn_must_read_back(renderer):
    # Such a template writes a turn otherwise once another follows.
    written = "{{- '<|im_start|>assistant\\n' -}}\n{%- if message"
    assert written in renderer.tokenizer.chat_template
    renderer.tokenizer.chat_template = renderer.tokenizer.chat_template.replace(
        written, "{{- '<|im_start|>assistant' + ('' if loop.last else ' before') + '\\n' -}}\n{%- if message"
    )
    text = {"role": "assistant", "content": "Ana Souza."}
    rows = renderer.rows(turns(text))
    assert [marked(renderer, row).split("⟦")[1] for row in rows] == [
        "Ana Souza.<|im_end|>⟧\n",
        '<tool_call>\n{"name": "search", "arguments": {"query": "Bo"}}\n</tool_call><|im_end|>⟧\n',
    ]
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderer.rows(turns({**text, "content": "Write <tool_call>."}))


def test_a_model_that_does_not_know_the_markers_is_refused(tokenizer_folder, tmp_path):
    files = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    files["added_tokens"] = [token for token in files["added_tokens"] if token["content"] != "<|im_end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(files))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"'hermes' needs <\|im_end\|> as special tokens"):
        Renderer(models.tokenizer(tmp_path), TEMPLATES["hermes"])


def test_an_unknown_template_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'herms' is not one of auto, hermes"):
        template_of("herms")


# SmolLM2's vocabulary has no token for the bytes that planes 4 to 11 of Unicode, which hold no character, begin with.
TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MARKED = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<filename>", "<", "|", "\\", '"']
    )
).map("".join)

CALLED = (TEXT | MARKED).filter(str.strip)
"""A tool's name: a blank one is none."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CALLED, st.dictionaries(TEXT | MARKED, JSON | MARKED, max_size=4)), min_size=1, max_size=3))
def test_what_was_rendered_reads_back_from_its_tokens(renderer, pairs):
    row_of = record(user("?"), calls(*pairs))
    (row,) = renderer.rows(row_of)
    answer = [token for token, supervised in zip(row.input_ids, row.loss_mask, strict=True) if supervised]
    parsed = PARSERS["hermes"](answer_text(renderer.tokenizer, answer, renderer.stop_ids))
    assert parsed.malformed is None
    # Canonical JSON too, because True == 1 == 1.0 in Python.
    assert canonical(list(parsed.calls)) == canonical([{"name": name, "arguments": arguments} for name, arguments in pairs])


def test_what_the_tokenizer_has_no_token_for_is_refused_not_lost(renderer):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderer.rows(record(user("?"), calls(("search", {"query": "\U00040000"}))))


@pytest.mark.parametrize(
    ("one", "two", "shared"), [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 9, 3], [1, 2, 3], 1)]
)
def test_common_prefix(one, two, shared):
    assert common_prefix(one, two) == shared


def as_json(value):
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture(scope="module")
def helpdesk_rows(helpdesk, cache, tmp_path_factory):
    """What format makes of the whole bundled data set with the real tokenizer: id → (token ids, mask)."""
    out = tmp_path_factory.mktemp("formatted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_EVENTS", str(out / "events.jsonl"))
        format_rows(helpdesk, ModelConfig(base="bundled:smollm2-135m"), FormatConfig(max_tokens=1024), out)
    rows = pq.read_table(out / "train.parquet").to_pylist() + pq.read_table(out / "validation.parquet").to_pylist()
    return {row["id"]: row for row in rows}


def test_every_helpdesk_row_shows_every_tool_and_supervises_its_answer_alone(helpdesk_rows, helpdesk_records, tokenizer):
    by_id = {r["id"]: r for r in helpdesk_records}
    assert len(helpdesk_rows) > 400
    tool_texts = [
        f'{{"name": "{tool["name"]}", "description": {as_json(tool["description"])}, "parameters": {{"type": "object"'
        for tool in (tool["function"] for tool in helpdesk_records[0]["tools"])
    ]
    assert len(tool_texts) == 5
    for id_, row in helpdesk_rows.items():
        text = tokenizer.decode(row["input_ids"])
        assert all(tool in text for tool in tool_texts)
        (turn,) = [message for message in by_id[id_]["messages"] if message["role"] == "assistant"]
        blocks = [
            f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {as_json(call["arguments"])}}}\n</tool_call>'
            for call in calls_of(turn)
        ]
        answer = "\n".join(([turn["content"]] if turn.get("content") else []) + blocks) + "<|im_end|>"
        first, count = row["loss_mask"].index(True), sum(row["loss_mask"])
        assert all(row["loss_mask"][first : first + count])
        assert tokenizer.decode(row["input_ids"][first : first + count]) == answer
        assert tokenizer.decode(row["input_ids"][:first]).endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert tokenizer.decode(row["input_ids"][first + count :]) == "\n"


def test_the_bundled_data_set_is_what_its_description_promises(helpdesk_records):
    counts = [len(calls_of(r["messages"][-1])) for r in helpdesk_records]
    assert len(helpdesk_records) >= 600 and len(helpdesk_records[0]["tools"]) >= 4
    assert 0.05 < counts.count(0) / len(counts) < 0.25
    assert any(count > 1 for count in counts)


def test_spaces_and_html_are_no_control_tokens_and_what_a_template_writes_is(tokenizer_folder):
    tokenizer = models.tokenizer(tokenizer_folder)
    plain, written = ("   ", "<b>"), ("<tool_call>", "<think>")
    tokenizer.add_tokens([AddedToken(token, special=False) for token in (*plain, *written)])
    tokenizer.add_tokens([AddedToken("<tick>", special=True)], special_tokens=True)
    tokenizer.chat_template = "{{ '<think>' }}"
    found = Renderer(tokenizer, TEMPLATES["hermes"]).special_tokens
    assert not {*plain} & {*found} and {*written, "<tick>", "<|im_end|>"} <= {*found}
