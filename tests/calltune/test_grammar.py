"""What the grammars of answers let through: text and valid calls, and nothing that parser or guard would refuse."""

import llguidance
import llguidance.hf
import pytest
from transformers import AddedToken

from calltune import grammar as grammars
from calltune.errors import ConfigError
from calltune.grammar import grammar, require_readable
from calltune.guard import check_all
from calltune.parse import PARSERS

STOP = 0
"""A byte that stands in no text, as the stop token."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "book_room",
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {
                    "day": {"type": "string"},
                    "seats": {"type": "integer", "minimum": 1},
                    "floor": {"enum": ["ground", "1", "über <2>"]},
                    "guests": {"type": "array", "items": {"type": "object", "properties": {"age": {"type": "integer"}}}},
                },
                "required": ["day"],
            },
        },
    },
    {"type": "function", "function": {"name": 'ping "all"', "description": ""}},
]
CALL = (
    '{"name": "book_room", "arguments": '
    '{"day": "Montag, früh <9 \\" 🙂", "seats": 4, "floor": "über <2>", "guests": [{"age": 3}]}}'
)
PING = '{"name": "ping \\"all\\"", "arguments": {}}'
HERMES, JSON = "<tool_call>\n{}\n</tool_call>".replace("{}", "%s"), "<calls>%s</calls>"


@pytest.fixture(scope="module")
def letters():
    """A tokenizer whose tokens are bytes: a grammar knows of no other."""
    return llguidance.LLTokenizer("byte")


def takes(letters, text, syntax, tools=TOOLS):
    matcher = llguidance.LLMatcher(letters, llguidance.grammar_from("grammar", grammar(syntax, tools, [STOP])), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens([*text.encode(), STOP]) and matcher.is_stopped()


TAKEN = {
    "text": ("hermes", 'Ask a colleague: 1 < 2, <tools>, {"name"}.\nBye'),
    "nothing": ("hermes", ""),
    "a call": ("hermes", HERMES % CALL),
    "two": ("hermes", f"{HERMES % CALL}\n{HERMES % PING}"),
    "text around them": ("hermes", f"Well …\n{HERMES % PING} and <tool\n{HERMES % CALL}\n\nDone <calls>."),
    "in a block": ("json", JSON % CALL),
    "wide": ("json", JSON % CALL.replace('"seats": ', '"seats" :\t')),
    "on several lines": ("hermes", HERMES % CALL.replace(', "seats"', ',\n  "seats"')),
    "two in a block": ("json", JSON % f"{CALL}\n{PING}"),
    "two blocks": ("json", f"One: {JSON % PING} and {JSON % CALL}."),
}
REFUSED = {
    "another tool": ("hermes", HERMES % PING.replace("ping", "pong")),
    "no such argument": ("hermes", HERMES % '{"name": "book_room", "arguments": {"day": "x", "hour": 3}}'),
    "a missing one": ("hermes", HERMES % '{"name": "book_room", "arguments": {"seats": 3}}'),
    "another type": ("hermes", HERMES % CALL.replace("4", '"4"')),
    "out of range": ("hermes", HERMES % CALL.replace("4", "0")),
    "not in the enum": ("hermes", HERMES % CALL.replace("über", "ueber")),
    "an argument where there is none": ("hermes", HERMES % PING.replace("{}", '{"day": "x"}')),
    "another order": ("hermes", HERMES % '{"name": "book_room", "arguments": {"seats": 3, "day": "x"}}'),
    "cut off": ("hermes", (HERMES % CALL)[:-4]),
    "only an end": ("hermes", "so </tool_call>"),
    "an escape that no JSON writer needs": ("hermes", HERMES % CALL.replace("<9", "\\u003c9")),
    "an end before a call": ("hermes", f"so </tool_call> {HERMES % PING}"),
    "only a beginning": ("hermes", "so <tool_call> what"),
    "an end after a call": ("hermes", f"{HERMES % PING}</tool_call>"),
    "a beginning in the text before a call": ("hermes", f"<tool_call>\n{HERMES % PING}"),
    "a beginning without its end of line before a call": ("hermes", f"so <tool_call> {HERMES % PING}"),
    "a beginning between two calls": ("hermes", f"{HERMES % PING}<tool_call>{HERMES % PING}"),
    "a call on two lines": ("json", JSON % CALL.replace(', "seats"', ',\n"seats"')),
    "nothing in a block": ("json", "<calls></calls>"),
    "no line between": ("json", JSON % f"{PING}{PING}"),
    "only an end of a block": ("json", "so </calls>"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_reads_back_and_passes_the_guard(letters, name):
    syntax, text = TAKEN[name]
    assert takes(letters, text, syntax)
    parsed = PARSERS[syntax](text)
    assert parsed.malformed is None and all(one.accepted for one in check_all(parsed.calls, TOOLS))
    assert len(parsed.calls) == text.count('"name": ')


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(letters, name):
    syntax, text = REFUSED[name]
    assert not takes(letters, text, syntax)


@pytest.mark.parametrize("special", [("<tool_call>", "</tool_call>"), ("<tool_call>",), ("</tool_call>",)])
def test_a_mark_that_is_a_special_token_is_written_as_that_token(tokenizer, special):
    """As with Qwen's tokenizers, which have both marks as added tokens."""
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in special])
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in special}
    vocabulary = llguidance.hf.from_tokenizer(tokenizer)

    def takes_it(text, known, tools=TOOLS):
        matcher = llguidance.LLMatcher(vocabulary, llguidance.grammar_from("grammar", grammar("hermes", tools, [2], known)))
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        return matcher.consume_tokens([*tokens, 2]) and matcher.is_stopped()

    for name, (syntax, text) in TAKEN.items():
        assert syntax != "hermes" or takes_it(text, ids), name
    assert not takes_it(TAKEN["a call"][1], None), "else nothing need be said of the tokens"
    for name in ("another tool", "a missing one", "cut off", "only an end", "only a beginning", "an end after a call"):
        assert not takes_it(REFUSED[name][1], ids), name
    assert takes_it("Hello", ids, []) and not takes_it(TAKEN["a call"][1], ids, [])


def test_the_name_of_a_tool_stands_as_the_template_writes_it(letters):
    tools = [{"type": "function", "function": {"name": "größe", "parameters": {}}}]
    assert takes(letters, HERMES % '{"name": "größe", "arguments": {}}', "hermes", tools)


@pytest.mark.parametrize("syntax", ["hermes", "json"])
def test_without_tools_an_answer_is_text(letters, syntax):
    assert takes(letters, "Hello", syntax, [])
    assert not takes(letters, (HERMES if syntax == "hermes" else JSON) % PING, syntax, [])


def test_a_composed_schema_and_an_open_one_are_as_they_are(letters):
    def of(**schema):
        return [{"type": "function", "function": {"name": "f", "parameters": schema}}]

    call = HERMES % '{"name": "f", "arguments": {"a": 1, "b": 2}}'
    assert takes(letters, call, "hermes", of(additionalProperties={"type": "integer"}))
    assert not takes(letters, call, "hermes", of(properties={"a": {"type": "integer"}}))
    either = {"anyOf": [{"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}]}
    assert takes(letters, call, "hermes", of(**either))


def test_every_stop_token_ends_an_answer_and_no_other_one(letters):
    text = grammar("hermes", TOOLS, [7, 0, 7])
    for stop, fine in ((0, True), (7, True), (letters.eos_token, False)):
        matcher = llguidance.LLMatcher(letters, llguidance.grammar_from("grammar", text), log_level=0)
        assert (matcher.consume_tokens([*b"Hi", stop]) and matcher.is_stopped()) == fine


@pytest.mark.parametrize("syntax", sorted(set(PARSERS) - set(grammars.EDGES)))
def test_a_syntax_without_a_grammar_is_refused(syntax):
    with pytest.raises(
        ConfigError, match=f"^evaluate.decoding: tools: the call syntax {syntax} has no grammar, only hermes and json"
    ):
        grammar(syntax, TOOLS, [2])


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "number", "minimum": 0.1, "maximum": 1e21}, r"Failed to generate regex for float range: [^:|]*"),
        ({"not": {"type": "string"}}, r'Unimplemented keys: \["not"\]'),
        ({"type": "string", "pattern": "^(?=a)a"}, r"regex parse error: .* error: look-around, .* is not supported"),
    ],
)
def test_a_schema_that_cannot_be_a_grammar_is_one_line(schema, reason):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"n": schema}}}}
    require_readable(TOOLS)
    with pytest.raises(
        ConfigError,
        match=rf"^evaluate\.decoding: tools: the schema of 'f' cannot be a grammar \({reason}\): change it, or set .*free$",
    ):
        require_readable([*TOOLS, tool])
