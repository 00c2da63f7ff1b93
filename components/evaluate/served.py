"""What is evaluated: a model with its template, its call syntax and its stop tokens, as it will be served."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import exports, models, runtime
from calltune.errors import DataError
from calltune.records import Message, Tool
from calltune.render import Renderer, prompt_ids
from calltune.settings import ModelConfig
from calltune.template import refusals, template_in


class Unaskable(DataError):
    """A question that the model's chat template does not take, or a call syntax that answers cannot be held to."""


@dataclass(frozen=True)
class Served:
    """A model with what it is served with.

    Attributes:
        folder: its weights.
        tokenizer: with its chat template.
        syntax: how that template writes calls.
        stop_ids: what ends its answers.
        identity: what `metrics.json` says of it.
    """

    folder: models.ModelFolder
    tokenizer: Any
    syntax: str
    stop_ids: list[int]
    identity: dict[str, Any]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool], where: str) -> list[int]:
        """Token ids of a question.

        Args:
            messages: up to where the model answers.
            tools: that it may call.
            where: the question is from, for the error.

        Raises:
            Unaskable: the template refuses it.
        """
        try:
            return prompt_ids(self.tokenizer, messages, tools)
        except refusals() as error:
            raise Unaskable(f"{where}: the {self.identity['which']}'s chat template does not take it: {error}") from None


def base(model: ModelConfig, dataset: Path) -> Served:
    """The unmodified base model, with the template that the candidate was trained with: the prompts are the same."""
    folder = models.fetch(model)
    tokenizer = models.tokenizer(folder.path)
    template = template_in(runtime.read_json(dataset / "stats.json"))
    renderer = Renderer(tokenizer, template)
    return Served(folder, tokenizer, template.syntax, renderer.stop_ids, {"which": "base"})


def exported(model: dict[str, Any], which: str) -> Served:
    """An exported model, fetched from the store."""
    identity = {"which": which, **({"version": model["version"]} if "version" in model else {})}
    return of_folder(exports.fetch(model), identity)


def of_folder(folder: models.ModelFolder, identity: dict[str, Any]) -> Served:
    """An exported model where it lies, with the template, the stop tokens and the call syntax in its own folder.

    Raises:
        UserError: the folder is not an exported model.
    """
    syntax = runtime.read_json(folder.path / models.SERVING)["syntax"]
    return Served(folder, models.tokenizer(folder.path), syntax, models.stop_ids(folder.path), identity)
