"""Which chat template: the one that the config names, or the first that can carry tool calls."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calltune.errors import ConfigError
from calltune.template import Template, fitted, template_of, with_syntax
from components.format.config import FormatConfig
from components.format.probe import probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Choice:
    """The template, and why it was taken."""

    template: Template
    reason: str


def chosen(config: FormatConfig, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> Choice:
    """The template to train with, as the model in `folder` and the other settings need it.

    Raises:
        ConfigError: there is no such template, it does not fit the model, or it cannot write calls as the config wants.
    """
    choice = choose(config.template, tokenizer)
    template, reason = choice.template, choice.reason
    if config.call_syntax != "auto":
        template = with_syntax(template, config.call_syntax)
        reason += f"; calls as {config.call_syntax}"
    fit = fitted(template, tokenizer, folder)
    replaced = [stop for stop in template.stops if stop and stop not in fit.stops]
    if replaced:
        reason += f"; the model never learnt {', '.join(replaced)}: answers end in its eos {tokenizer.eos_token}"
    return Choice(fit, reason)


def choose(name: str, tokenizer: "PreTrainedTokenizerBase") -> Choice:
    """The template to train with, whatever the model.

    Args:
        name: `auto`, a template's name, or the text of a Jinja file.
        tokenizer: of the model, with its own chat template.

    Raises:
        ConfigError: the config names a template that does not exist, or a file's cannot carry tool calls.
    """
    if "{%" in name or "{{" in name:
        found = probe(name, tokenizer, "file")
        if isinstance(found, str):
            raise ConfigError(f"format.template: the file's template {found}")
        return Choice(found, f"the config's own file; it writes calls as {found.syntax} does")
    if name != "auto":
        return Choice(template_of(name), "named in the config")
    if not tokenizer.chat_template:
        return Choice(template_of("hermes"), "the model's own template does not exist")
    # Some tokenizers have several, one of them for tools.
    found = probe(tokenizer.get_chat_template(tools=[{}]), tokenizer, "own")
    if isinstance(found, str):
        return Choice(template_of("hermes"), f"the model's own template {found}")
    return Choice(found, f"the model's own renders tools, calls and results; it writes calls as {found.syntax} does")
