"""Chat templates that render tools: the named ones, and what makes one fit a model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calltune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Detail = Literal["full", "short", "names", "none"]

UNTRAINED = 1e-16
"""An embedding whose largest weight is below this was never trained: models reserve such rows with zeros."""


@dataclass(frozen=True)
class Template:
    """A chat template that renders tools.

    Attributes:
        name: how the config names it; `own` is the model's, `file` the user's.
        syntax: how it writes calls; a key of :data:`calltune.parse.PARSERS`.
        text_stop: the token that ends an answer of text; empty for the model's eos.
        call_stop: the token that ends an answer with calls; empty for the model's eos.
        markers: the tokens that the model must know as single, special ones. A stop token that is not among them may be
            replaced by the model's eos.
        text: the Jinja source.
    """

    name: str
    syntax: str
    text_stop: str
    call_stop: str
    markers: tuple[str, ...]
    text: str

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens that end an answer, each once."""
        return tuple(dict.fromkeys((self.text_stop, self.call_stop)))

    def as_json(self) -> dict[str, Any]:
        """For `stats.json`: whoever reads the data set renders as it was rendered."""
        return asdict(self)


def refusals() -> tuple[type[Exception], ...]:
    """What a chat template raises where it does not take a conversation: its own exception, or that of an expression in it."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError


def template_in(stats: dict[str, Any]) -> Template:
    """The template that a formatted data set was rendered with, from its `stats.json`."""
    told = stats["chat_template"]
    return Template(**{**told, "markers": tuple(told["markers"])})


def _jinja(name: str) -> str:
    return (files("calltune") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _named(name: str, syntax: str, stops: tuple[str, str] = ("", ""), markers: Sequence[str] = ()) -> Template:
    return Template(name, syntax, *stops, tuple(markers), _jinja(name))


_FUNCTION = [f"<{edge}_function_{part}>" for part in ("declaration", "call", "response") for edge in ("start", "end")]

TEMPLATES = {
    one.name: one
    for one in (
        _named("hermes", "hermes", ("<|im_end|>", "<|im_end|>"), ("<|im_start|>", "<|im_end|>")),
        _named(
            "functiongemma",
            "functiongemma",
            ("<end_of_turn>", "<start_function_response>"),
            ("<bos>", "<start_of_turn>", "<end_of_turn>", "<escape>", *_FUNCTION),
        ),
        _named(
            "llama3",
            "llama3",
            ("<|eot_id|>", "<|eot_id|>"),
            ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        ),
        _named("phi3", "json", ("<|end|>", "<|end|>"), ("<|system|>", "<|user|>", "<|assistant|>")),
        _named("xlam", "json"),
        _named("alpaca", "json"),
    )
}

_OTHERWISE = {
    "llama3": {"python": "pythonic", "yaml": "yaml"},
    "json": {"python": "python", "yaml": "yaml"},
}
"""From a template's usual syntax to those in which it can write the same calls, by the config's word for each."""


@cache
def template_of(name: str) -> Template:
    """The template that the config names.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"format.template: {name!r} is not one of auto, {', '.join(TEMPLATES)}, or a file that ends in .jinja")
    return TEMPLATES[name]


def with_syntax(template: Template, calls: str) -> Template:
    """The template, writing its calls as `json`, `yaml` or `python`.

    Raises:
        ConfigError: the template has only its own way.
    """
    if calls == "json" and template.syntax in ("hermes", "json", "llama3"):
        return template
    if calls in _OTHERWISE.get(template.syntax, {}):
        text = f"{{%- set call_syntax = '{calls}' -%}}\n{template.text}"
        return replace(template, syntax=_OTHERWISE[template.syntax][calls], text=text)
    able = ", ".join(name for name, one in TEMPLATES.items() if one.syntax in _OTHERWISE)
    raise ConfigError(f"format.call_syntax: {template.name!r} cannot write calls as {calls}; {able} can: json, yaml or python")


def with_tool_detail(template: Template, detail: Detail) -> Template:
    """The template, showing less of each tool. That is in its text: whoever serves the model passes whole tools all the same."""
    return template if detail == "full" else replace(template, text=_jinja(f"tools-{detail}") + template.text)


def fitted(template: Template, tokenizer: "PreTrainedTokenizerBase", folder: Path | None = None) -> Template:
    """The template for one model: its eos where the template has no stop token that the model knows, its bos if it wants one.

    Args:
        template: any.
        tokenizer: the model's.
        folder: the model's, to look whether the template's markers were trained; None takes every special token for trained.

    Raises:
        ConfigError: the model does not know a marker that is not a stop token, or has no eos where one is needed.
    """
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    # The row of a pad token, which often is the eos, may be zero without having been forgotten: training code leaves it out.
    sure = (tokenizer.pad_token, tokenizer.eos_token)
    asked = [token for token in (*template.markers, *template.stops) if token in special and token not in sure]
    known = special - (untrained(folder, tokenizer, asked) if folder else set())
    unknown = [marker for marker in template.markers if marker not in known]
    if unknown:
        raise ConfigError(
            f"format.template: {template.name!r} needs {', '.join(unknown)} as special tokens that it was trained on, "
            f"which {tokenizer.name_or_path} does not have; xlam and alpaca need none"
        )
    changes = {}
    for kind in ("text_stop", "call_stop"):
        stop = getattr(template, kind)
        if stop not in known:
            if not tokenizer.eos_token:
                raise ConfigError(
                    f"format.template: {template.name!r} ends answers in the eos, and {tokenizer.name_or_path} has none"
                )
            changes[kind] = tokenizer.eos_token
            if stop:
                changes["text"] = changes.get("text", template.text).replace(stop, tokenizer.eos_token)
    fit = replace(template, **changes)
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if template.name in ("phi3", "xlam", "alpaca") and begins:
        return replace(fit, text="{{- bos_token -}}\n" + fit.text)
    return fit


def untrained(folder: Path, tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> set[str]:
    """Those of the tokens whose embedding in the model's weights is zero: it has them, and never learnt them."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            # By hand (a length, a JSON header, the data): the library's own reader needs torch for bf16, and the image that this
            # runs in has none.
            header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
            first = weights.tell()
            for name, tensor in header.items():
                if name.endswith(("embed_tokens.weight", "wte.weight")):
                    begin, end = tensor["data_offsets"]
                    size = (end - begin) // tensor["shape"][0]
                    found = set()
                    for token, at in ids.items():
                        weights.seek(first + begin + at * size)
                        if _largest(weights.read(size), tensor["dtype"]) < UNTRAINED:
                            found.add(token)
                    return found
    return set()


def _largest(row: bytes, dtype: str) -> float:
    """The largest absolute value of a row, of the dtypes that embeddings have; of another one whether a bit of it is set."""
    import numpy as np

    if dtype == "BF16":
        values = (np.frombuffer(row, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(row, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}.get(dtype, "u1"))
    return float(np.abs(values).max())
