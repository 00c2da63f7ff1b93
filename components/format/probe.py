"""What a chat template can do, found by rendering with it: tools, calls, results, the end of a turn, and in which syntax."""

from typing import TYPE_CHECKING

from calltune.parse import PARSERS
from calltune.records import Message, calls_of
from calltune.render import answer_text, prompt_ids, token_ids
from calltune.template import Template, refusals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool_name",
        "description": "probe tool description",
        "parameters": {"type": "object", "properties": {"probe_argument": {"type": "string"}}, "required": []},
    },
}
_QUESTION: Message = {"role": "user", "content": "probe question"}


def _call(**arguments: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "probe_tool_name", "arguments": arguments}}


_ONE: Message = {"role": "assistant", "tool_calls": [_call(probe_argument="probe value")]}
_HARD: Message = {
    "role": "assistant",
    "tool_calls": [
        _call(probe_argument="probe value", more={"a": ['"é"\n', 1.5, None, True, {}]}),
        _call(probe_argument="'second'"),
    ],
}
_TEXT: Message = {"role": "assistant", "content": "probe answer"}
_RESULT: Message = {"role": "tool", "name": "probe_tool_name", "content": "probe result"}


def probe(text: str, tokenizer: "PreTrainedTokenizerBase", name: str) -> Template | str:
    """The template as Calltune can use it, or what it lacks: words that follow "the template".

    Args:
        text: the Jinja source.
        tokenizer: of the model; it has its own template again afterwards.
        name: what to call the template.
    """
    before = tokenizer.chat_template
    tokenizer.chat_template = text
    try:
        return _probed(text, tokenizer, name)
    except refusals() as error:
        return f"fails on a tool call: {error}"
    finally:
        tokenizer.chat_template = before


def _probed(text: str, tokenizer: "PreTrainedTokenizerBase", name: str) -> Template | str:
    def printed(*messages: Message, ask: bool = False) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tools=[_TOOL], add_generation_prompt=ask, tokenize=False))

    prompt = printed(_QUESTION)
    if any(word not in prompt for word in ("probe_tool_name", "probe tool description", "probe_argument")):
        return "ignores tools"
    prompt, answered = printed(_QUESTION, ask=True), printed(_QUESTION, _ONE)
    if "probe value" not in answered:
        return "does not print tool calls"
    syntax = _syntax(answered.removeprefix(prompt))
    if syntax is None:
        return "renders tools, but no parser for its call syntax is known"
    asked = prompt_ids(tokenizer, [_QUESTION], [_TOOL])
    if token_ids(tokenizer, [_QUESTION, _ONE], [_TOOL])[: len(asked)] != asked:
        return "renders tools, but the prompt's tokens are not a prefix of the conversation's"
    call_stop, hard_stop, text_stop = (_stop(tokenizer, asked, message, syntax) for message in (_ONE, _HARD, _TEXT))
    if not call_stop or not text_stop:
        return "renders tools, but has no token that ends an answer"
    if hard_stop != call_stop:
        return "does not print two calls with nested arguments so that they read back"
    if "probe result" not in printed(_QUESTION, _ONE, _RESULT, _TEXT):
        return "does not print the results of tools"
    return Template(name, syntax, text_stop, call_stop, (), text)


def _syntax(answer: str) -> str | None:
    """The syntax that reads the one call, whatever comes after it."""
    for name, parse in PARSERS.items():
        # `functiongemma` and the tagged ones are found inside a text, the others at its end: there the stop token is in the way.
        for end in range(len(answer), 0, -1):
            parsed = parse(answer[:end])
            if parsed.malformed is None and list(parsed.calls) == calls_of(_ONE):
                return name
    return None


def _stop(tokenizer: "PreTrainedTokenizerBase", prompt: list[int], message: Message, syntax: str) -> str | None:
    """The first special token of the answer before which all of it stands."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ids = token_ids(tokenizer, [_QUESTION, message], [_TOOL])[len(prompt) :]
    for position, token in enumerate(ids):
        if token in special:
            parsed = PARSERS[syntax](answer_text(tokenizer, ids[:position], []))
            said = parsed.content == message.get("content", "") and list(parsed.calls) == calls_of(message)
            if said and parsed.malformed is None:
                return str(tokenizer.decode([token]))
    return None
