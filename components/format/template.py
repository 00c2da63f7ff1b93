"""Which chat template: the one that the config names, or the first that can carry tool calls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calltune.render import Template, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool_name",
        "description": "probe tool description",
        "parameters": {"type": "object", "properties": {"probe_argument": {"type": "string"}}, "required": []},
    },
}


@dataclass(frozen=True)
class Choice:
    """The template, and why it was taken."""

    template: Template
    reason: str


def choose(name: str, tokenizer: "PreTrainedTokenizerBase") -> Choice:
    """The template to train with.

    Raises:
        ConfigError: the config names a template that does not exist.
    """
    if name != "auto":
        return Choice(template_of(name), "named in the config")
    missing = _what_the_own_template_lacks(tokenizer)
    if missing:
        return Choice(template_of("hermes"), f"the model's own template {missing}")
    return Choice(template_of("hermes"), "the model's own template renders tools, but no parser for its call syntax is known")


def _what_the_own_template_lacks(tokenizer: "PreTrainedTokenizerBase") -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return "does not exist"
    call = {"type": "function", "function": {"name": "probe_tool_name", "arguments": {"probe_argument": "probe value"}}}
    messages = [{"role": "user", "content": "probe question"}, {"role": "assistant", "tool_calls": [call]}]
    try:
        prompt = tokenizer.apply_chat_template(messages[:1], tools=[_PROBE_TOOL], tokenize=False)
        if "probe tool description" not in prompt or "probe_argument" not in prompt:
            return "ignores tools"
        whole = tokenizer.apply_chat_template(messages, tools=[_PROBE_TOOL], tokenize=False)
    except (TemplateError, TypeError) as error:
        return f"fails on a tool call: {error}"
    return "" if "probe value" in whole else "does not print tool calls"
