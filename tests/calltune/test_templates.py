"""The named templates: what they print, what is trained on, that calls read back, and which models they fit.

The only real tokenizer at hand is SmolLM2's: these tests add each template's markers to a copy of it, and give it Llama 3's rule
for splitting text where the template is Llama 3's. Ids and merges are SmolLM2's all the same: no other model's are tested here.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Regex, pre_tokenizers
from torch import ones

from calltune.errors import ConfigError
from calltune.models import tokenizer as load_tokenizer
from calltune.parse import PARSERS
from calltune.records import calls_of, canonical
from calltune.render import NotRepresentable, Renderer, answer_text, prompt_ids
from calltune.template import TEMPLATES, fitted, template_in, template_of, untrained, with_syntax
from calltune.yaml_calls import DEEPEST

GOLDEN = Path(__file__).parents[1] / "golden"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
VARIANTS = {
    "functiongemma": ("functiongemma", "functiongemma"),
    "llama3": ("llama3", "json"),
    "llama3-yaml": ("llama3", "yaml"),
    "llama3-python": ("llama3", "python"),
    "phi3": ("phi3", "json"),
    "phi3-yaml": ("phi3", "yaml"),
    "phi3-python": ("phi3", "python"),
    "xlam": ("xlam", "json"),
    "xlam-yaml": ("xlam", "yaml"),
    "xlam-python": ("xlam", "python"),
    "alpaca": ("alpaca", "json"),
    "alpaca-yaml": ("alpaca", "yaml"),
    "alpaca-python": ("alpaca", "python"),
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Search the handbook, "A–Z". It has every page.',
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "The words."},
                "kind": {"type": ["string", "null"], "enum": ["page", "person"]},
            },
            "required": ["query"],
        },
    },
}
PING = {"type": "function", "function": {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}}


def user(text):
    return {"role": "user", "content": text}


def calls(*pairs, content=None):
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in pairs]
    return {"role": "assistant", **({"content": content} if content else {}), "tool_calls": made}


def record(*messages, tools=(SEARCH, PING)):
    return {"id": "1", "messages": list(messages), "tools": list(tools)}


CONVERSATION = record(
    {"role": "developer", "content": "Today is 4 May."},
    user("Who are Ana and Bo?"),
    calls(("search", {"query": "Ana", "kind": "person"}), ("search", {"query": "Bo"})),
    {"role": "tool", "content": '{"name": "Ana Souza"}'},
    {"role": "tool", "content": "nobody"},
    {"role": "assistant", "content": "Ana Souza.\nNo Bo."},
    user("Ping."),
    calls(("ping", {}), content="At once."),
    user("Thanks!"),
    {"role": "assistant", "content": "You are welcome."},
)
ARGUMENTS = {
    "quotes": "\"double\" 'single' `back` \\slash\\ \\u003c",
    "lines": "one\ntwo\r\n\tthree",
    "unicode": "naïve 你好 🙂  é e\u0301",
    "nested": {"list": [1, 2.5, -3, 1e-7, True, False, None, {"deep": [[], ["a, b: {c}"]]}], "empty": {}},
}
MARKERS = "a</calls>b<calls>c<|eot_id|>d<|start_header_id|><|end|></tools><|python_tag|>[ping()]"
HARD = {
    name: record(user("Hard?"), calls(("search", ARGUMENTS if name == "functiongemma" else {**ARGUMENTS, "markers": MARKERS})))
    for name in VARIANTS
}


@pytest.fixture(scope="module")
def extended(tokenizer_folder):
    """A function from a template's name to a copy of SmolLM2's tokenizer that has the template's markers."""

    def extend(name):
        tokenizer, template = load_tokenizer(tokenizer_folder), TEMPLATES[name]
        markers = [token for token in dict.fromkeys((*template.markers, *template.stops)) if token]
        tokenizer.add_special_tokens({"additional_special_tokens": markers})
        if markers:
            tokenizer.bos_token = next((m for m in markers if m in ("<bos>", "<|begin_of_text|>")), None)
        if name == "llama3":
            split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
        return tokenizer

    return extend


@pytest.fixture(scope="module")
def renderers(extended):
    def make(variant):
        name, syntax = VARIANTS[variant]
        tokenizer = extended(name)
        template = TEMPLATES[name] if syntax == "functiongemma" else with_syntax(TEMPLATES[name], syntax)
        return Renderer(tokenizer, fitted(template, tokenizer))

    return {variant: make(variant) for variant in VARIANTS}


def spans(row):
    """Where what is supervised begins and ends."""
    edges = [0, *row.loss_mask, 0]
    turns = [at for at in range(len(edges) - 1) if edges[at] != edges[at + 1]]
    return list(zip(turns[::2], turns[1::2], strict=True))


def marked(renderer, row):
    text, last = "", 0
    for start, end in spans(row):
        decode = renderer.tokenizer.decode
        text += f"{decode(row.input_ids[last:start])}⟦{decode(row.input_ids[start:end])}⟧"
        last = end
    return text + renderer.tokenizer.decode(row.input_ids[last:])


@pytest.mark.parametrize("case", ["conversation", "hard_arguments"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_template_renders_as_its_golden_file_says(renderers, variant, case):
    renderer = renderers[variant]
    (row,) = renderer.rows(CONVERSATION if case == "conversation" else HARD[variant])
    text, path = marked(renderer, row), GOLDEN / variant / f"{case}.txt"
    if os.environ.get("REGENERATE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    assert text == path.read_bytes().decode()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_answer_is_supervised_to_its_own_stop_token_after_the_prompt_of_evaluation(renderers, variant):
    renderer = renderers[variant]
    (row,) = renderer.rows(CONVERSATION)
    messages, template = CONVERSATION["messages"], renderer.template
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(spans(row)) == len(turns)
    for turn, (start, end) in zip(turns, spans(row), strict=True):
        assert row.input_ids[:start] == prompt_ids(renderer.tokenizer, messages[:turn], CONVERSATION["tools"])
        stop = template.call_stop if messages[turn].get("tool_calls") else template.text_stop
        assert renderer.tokenizer.decode([row.input_ids[end - 1]]) == stop
        parsed = PARSERS[template.syntax](answer_text(renderer.tokenizer, row.input_ids[start:end], renderer.stop_ids))
        assert parsed.malformed is None and list(parsed.calls) == calls_of(messages[turn])
        assert parsed.content == messages[turn].get("content", "")


TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF))
MARKED = st.lists(
    st.sampled_from(
        [
            "<calls>",
            "</calls>",
            "<|end|>",
            "<|eot_id|>",
            "<tools>",
            "<|im_end|>",
            "<escape>",
            "<end_of_turn>",
            "[f()]",
            "<end_function_call>",
            "<start_function_response>",
            '{"name": ',
            "; ",
            "\n",
            "<",
            "|",
            "\\",
            '"',
            "'",
            "{",
            "}",
            ",",
        ]
    )
).map("".join)
# What YAML 1.1 or 1.2 takes for something else than text, for the end of a line, or for its own signs.
YAML_SIGNS = [
    *("yes", "No", "on", "y", "true", "null", "~", "", " ", "  x", "1e3", "0x1F", "0o17", "010", "1_000", "12:30:45", ".5"),
    *("2026-11-21", "2026-11-21T10:00:00Z", ".inf", ".NaN", "- ", ": ", "a: b", " #", "# x", "? ", "&a", "*a", "!!str"),
    *("|", "|\n", ">-", "%YAML 1.1\n", "---", "\n---\n", "\n...\n", "`", "'", '"', "\\", "\\N", "\\x41", "[", "]", "{", "}", ","),
    *("<<", "=", "! x", "@", "\t", "\n", "\r\n", "\r", "\n\n", "\0", "\x07", "\x1b", "\x7f", "\x80", "\x85", "\x9f"),
    *("\xa0", "\u2028", "\u2029", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\U0001fffe", "🙂", "日本"),
    *("<calls>", "</calls>", "<|eot_id|>"),
]  # fmt: skip
YAML_TEXT = st.lists(st.sampled_from(YAML_SIGNS), max_size=4).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT | MARKED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | MARKED, inner, max_size=3),
    max_leaves=8,
)
NAME = st.from_regex(r"[a-z][a-z0-9_]{2,8}x", fullmatch=True)


def read_back(renderer, pairs):
    (row,) = renderer.rows(record(user("?"), calls(*pairs), tools=[]))
    ((start, end),) = spans(row)
    parsed = PARSERS[renderer.template.syntax](answer_text(renderer.tokenizer, row.input_ids[start:end], renderer.stop_ids))
    return canonical(list(parsed.calls)), canonical([{"name": name, "arguments": arguments} for name, arguments in pairs])


@pytest.mark.parametrize("variant", ["llama3", "xlam", "alpaca", "phi3", "llama3-yaml", "xlam-yaml", "alpaca-yaml", "phi3-yaml"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples((TEXT | MARKED).filter(str.strip), st.dictionaries(TEXT | MARKED, JSON, max_size=3)), min_size=1, max_size=3
    )
)
def test_json_and_yaml_calls_read_back_from_their_tokens_whatever_is_in_them(renderers, variant, pairs):
    found, expected = read_back(renderers[variant], pairs)
    assert found == expected


@pytest.mark.parametrize("variant", ["llama3-yaml", "xlam-yaml", "alpaca-yaml", "phi3-yaml"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(YAML_TEXT.filter(str.strip), st.dictionaries(YAML_TEXT, JSON | YAML_TEXT | st.lists(YAML_TEXT), max_size=3)),
        min_size=1,
        max_size=3,
    )
)
def test_yaml_calls_read_back_whatever_yaml_makes_of_such_text_elsewhere(renderers, variant, pairs):
    found, expected = read_back(renderers[variant], pairs)
    assert found == expected


@pytest.mark.parametrize("variant", ["llama3-yaml", "xlam-yaml"])
@pytest.mark.parametrize(
    "arguments", [{"k" * 1100: 1}, {"q": {"é" * 1100: 1}}, {"q": 10**1000}], ids=["long name", "long key", "long number"]
)
def test_what_yaml_cannot_write_is_refused(renderers, variant, arguments):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderers[variant].rows(record(user("?"), calls(("search", arguments))))


def test_what_is_too_deep_for_yaml_is_refused(renderers):
    deep = []
    for _ in range(DEEPEST):
        deep = [deep]
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderers["xlam-yaml"].rows(record(user("?"), calls(("search", {"q": deep}))))


@pytest.mark.parametrize("variant", ["llama3-python", "xlam-python"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(NAME, st.dictionaries(NAME, JSON, max_size=3)), min_size=1, max_size=3))
def test_python_calls_with_pythons_names_read_back_whatever_their_values(renderers, variant, pairs):
    found, expected = read_back(renderers[variant], pairs)
    assert found == expected


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(TEXT | MARKED | NAME, st.dictionaries(TEXT | MARKED | NAME, JSON, max_size=3)), min_size=1, max_size=2
    )
)
def test_a_call_reads_back_or_is_refused_and_never_comes_back_as_another(renderers, variant, pairs):
    try:
        found, expected = read_back(renderers[variant], pairs)
    except NotRepresentable:
        return
    assert found == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"q": "a<escape>b"},
        {"q": "<end_function_call>"},
        {"q": "<end_of_turn>"},
        {"a:b": 1},
        {"a,b": 1},
        {"": 1},
        {"q": {" x": 1}},
    ],
)
def test_what_functiongemma_cannot_write_is_refused(renderers, arguments):
    with pytest.raises(
        NotRepresentable,
        match=r"'functiongemma' (cannot express this answer|does not take this conversation: a text holds the marker <?\w+>$)",
    ):
        renderers["functiongemma"].rows(record(user("?"), calls(("search", arguments))))


@pytest.mark.parametrize(
    ("name", "arguments"), [("a-b", {}), ("search", {"from": 1}), ("search", {"ﬁ": 1}), ("a\n", {}), ("f()", {})]
)
def test_what_python_cannot_name_is_refused(renderers, name, arguments):
    for variant in ("llama3-python", "xlam-python"):
        with pytest.raises(NotRepresentable, match="cannot express this answer"):
            renderers[variant].rows(record(user("?"), calls((name, arguments))))


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ("llama3", '{"name": "Ana"}'),
        ("llama3", 'Write:\n{"name": "search", "parameters": {}}'),
        ("llama3-python", "[search()]"),
        ("xlam", "Write <calls>"),
        ("llama3-yaml", "Write </calls>"),
        ("phi3-yaml", "<calls>- name: ping\n  arguments: {}</calls>"),
        ("functiongemma", "Write <start_function_call>"),
    ],
)
def test_text_that_would_read_as_a_call_is_refused(renderers, variant, text):
    with pytest.raises(NotRepresentable, match="cannot express this answer"):
        renderers[variant].rows(record(user("?"), {"role": "assistant", "content": text}))


def test_the_model_sees_its_begin_token_once_and_two_are_refused(renderers):
    renderer = renderers["llama3"]
    (row,) = renderer.rows(CONVERSATION)
    assert row.input_ids.count(renderer.tokenizer.bos_token_id) == 1
    source = renderer.tokenizer.chat_template
    renderer.tokenizer.chat_template = "{{- bos_token -}}" + source
    with pytest.raises(NotRepresentable, match=r"begins with two '<\|begin_of_text\|>'"):
        renderer.rows(CONVERSATION)
    renderer.tokenizer.chat_template = source


def test_a_plain_template_prints_the_begin_token_of_a_model_that_begins_with_one(extended):
    from tokenizers.processors import TemplateProcessing

    tokenizer = extended("xlam")
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    (row,) = Renderer(tokenizer, fitted(TEMPLATES["xlam"], tokenizer)).rows(CONVERSATION)
    assert row.input_ids[0] == tokenizer.bos_token_id and row.input_ids[1] != tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("name", "absent"), [("llama3", "begin_of_text"), ("functiongemma", "<bos>, <start_of_turn>"), ("phi3", "system")]
)
def test_a_template_whose_markers_the_model_has_not_is_refused(tokenizer, name, absent):
    with pytest.raises(
        ConfigError, match=f"format.template: '{name}' needs .*{absent}.* as special tokens .*; xlam and alpaca need none"
    ):
        fitted(TEMPLATES[name], tokenizer)


def untrained_model(tokenizer, tmp_path, *tokens):
    embedding = ones(len(tokenizer), 4)
    embedding[tokenizer.convert_tokens_to_ids(list(tokens))] = 0
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_stop_token_that_was_never_trained_is_replaced_by_the_models_eos(extended, tmp_path):
    tokenizer = extended("llama3")
    template = fitted(TEMPLATES["llama3"], tokenizer, untrained_model(tokenizer, tmp_path, "<|eot_id|>"))
    assert template.stops == (tokenizer.eos_token,) and "<|eot_id|>" not in template.text
    (row,) = Renderer(tokenizer, template).rows(CONVERSATION)
    assert [row.input_ids[end - 1] for _, end in spans(row)] == [tokenizer.eos_token_id] * 4
    assert fitted(TEMPLATES["llama3"], tokenizer) == TEMPLATES["llama3"]


def test_a_marker_that_was_never_trained_and_ends_nothing_refuses_the_template(extended, tmp_path):
    tokenizer = extended("llama3")
    with pytest.raises(ConfigError, match=r"'llama3' needs <\|start_header_id\|> as special tokens that it was trained on"):
        fitted(TEMPLATES["llama3"], tokenizer, untrained_model(tokenizer, tmp_path, "<|start_header_id|>"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_an_untrained_token_is_found_without_torch_which_the_image_of_format_has_not(tokenizer, tmp_path, monkeypatch, dtype):
    embedding = ones(len(tokenizer), 4, dtype=getattr(torch, dtype)) * -0.5
    embedding[7] = 0
    save_file({"a": ones(3), "model.embed_tokens.weight": embedding, "z": ones(5)}, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    names = tokenizer.convert_ids_to_tokens([6, 7, 8])
    assert untrained(tmp_path, tokenizer, names) == {names[1]}


def test_a_plain_template_needs_an_eos(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"'xlam' ends answers in the eos, and .* has none"):
        fitted(TEMPLATES["xlam"], tokenizer)


@pytest.mark.parametrize(("name", "syntax"), [("hermes", "python"), ("hermes", "yaml"), ("functiongemma", "json")])
def test_a_syntax_that_a_template_has_not_is_refused(name, syntax):
    with pytest.raises(ConfigError, match=f"format.call_syntax: '{name}' cannot write calls as {syntax}; llama3, phi3"):
        with_syntax(template_of(name), syntax)


def test_a_template_survives_stats_json(renderers):
    assert all(template_in({"chat_template": one.template.as_json()}) == one.template for one in renderers.values())
