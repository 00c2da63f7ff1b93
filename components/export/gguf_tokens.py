"""An exported folder's tokenizer as a GGUF file describes it: tokens with their types, merges, and how text is cut first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import models, runtime
from calltune.errors import ConfigError, DataError

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": _LETTERS + digits + _REST}, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


CUTS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([_bytes(True)], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _bytes(True)], False),
    "llama-bpe": ([_split(r"\p{N}{1,3}"), _bytes(False)], True),
    "qwen2": ([_split(r"\p{N}"), _bytes(False)], False),
}
"""From llama.cpp's name of a way to cut text (`tokenizer.ggml.pre`) to the steps that `tokenizer.json` has for it, and whether
a piece that is a token itself is taken as it stands, without merges. llama.cpp has the regular expressions in its own sources;
a file that names the wrong one loads, and cuts numbers otherwise than training did."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens, as llama.cpp numbers them: a piece of text, a marker, text that is a token whatever stands around it, none."""
STOPS = ("eos", "eot", "eom")
"""The places that GGUF has for tokens that end an answer."""
KEYS = {
    **{name: f"tokenizer.ggml.{name}_token_id" for name in ("bos", *STOPS)},
    "pad": "tokenizer.ggml.padding_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
}
"""Where the file has the ids of special tokens."""


@dataclass(frozen=True)
class Tokens:
    """What `tokenizer.ggml.*` says.

    Attributes:
        pre: how text is cut, a key of :data:`CUTS`.
        texts: of each token id, shape ``(vocabulary,)``; bytes as GPT-2 writes them, markers as they stand.
        types: of each token id, shape ``(vocabulary,)``.
        merges: each `left right`, the first the most urgent.
        ids: `bos`, `pad`, `unk` and the stops `eos`, `eot`, `eom`, as far as there are such.
        add_bos: whether text gets a BOS in front.
        chat_template: that training used.
    """

    pre: str
    texts: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool
    chat_template: str


def cut_of(folder: Path) -> str:
    """How the folder's tokenizer cuts text, a key of :data:`CUTS`.

    Raises:
        ConfigError: llama.cpp has no name for it, or it is no byte-level BPE.
    """
    file = folder / "tokenizer.json"
    told: dict[str, Any] = runtime.read_json(file) if file.is_file() else {"model": {"type": "none"}}
    kind = told["model"]["type"]
    if kind != "BPE" or told["model"]["byte_fallback"]:
        raise ConfigError(f"its tokenizer is {'SentencePiece-like' if kind == 'BPE' else kind}, not byte-level BPE")
    normalizer = (told["normalizer"] or {"type": "none"})["type"]
    # NFC is Qwen's. llama.cpp does none: the same for text that is composed already, as keyboards write it.
    if normalizer not in ("none", "NFC"):
        raise ConfigError(f"its tokenizer normalises text ({normalizer}), which llama.cpp would not")
    stripping = [token["content"] for token in told["added_tokens"] if token["lstrip"] or token["rstrip"]]
    if stripping:
        raise ConfigError(f"its token {stripping[0]!r} takes the spaces beside it, which llama.cpp would not")
    cutter: dict[str, Any] = told["pre_tokenizer"] or {"type": "none"}
    # Offsets are nothing that a token id depends on.
    steps = [
        {key: value for key, value in step.items() if key != "trim_offsets"} for step in cutter.get("pretokenizers", [cutter])
    ]
    for name, (known, whole) in CUTS.items():
        if steps == known and bool(told["model"]["ignore_merges"]) == whole:
            return name
    raise ConfigError("its tokenizer cuts text in another way than GPT-2's, SmolLM's, Llama 3's and Qwen's")


def read(folder: Path, vocabulary: int) -> Tokens:
    """Describe an exported folder's tokenizer.

    Args:
        folder: with `tokenizer.json`, the chat template, and the stop tokens in `generation_config.json`.
        vocabulary: how many token ids the model has; more than the tokenizer knows are unused ones.

    Raises:
        ConfigError: it cannot be described, as :func:`cut_of` says.
        DataError: it has more tokens than the model, or more stop tokens than GGUF has places for.
    """
    told, tokenizer = runtime.read_json(folder / "tokenizer.json"), models.tokenizer(folder)
    texts, types = [f"[PAD{number}]" for number in range(vocabulary)], [UNUSED] * vocabulary
    known = [(number, text, NORMAL) for text, number in told["model"]["vocab"].items()]
    known += [(one["id"], one["content"], CONTROL if one["special"] else USER_DEFINED) for one in told["added_tokens"]]
    largest = max(number for number, _, _ in known)
    if largest >= vocabulary:
        raise DataError(f"{folder}: its tokenizer has a token {largest}, and the model only {vocabulary} of them")
    for number, text, kind in known:
        texts[number], types[number] = text, kind
    stops = models.stop_ids(folder)
    if len(stops) > len(STOPS):
        raise DataError(f"{folder}: {len(stops)} tokens end an answer, and a GGUF file has places for {len(STOPS)}")
    others = {"bos": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id, "unk": tokenizer.unk_token_id}
    ids = {name: number for name, number in others.items() if number is not None} | dict(zip(STOPS, stops, strict=False))
    return Tokens(
        pre=cut_of(folder),
        texts=texts,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in told["model"]["merges"]],
        ids=ids,
        add_bos=_adds_bos(tokenizer),
        chat_template=tokenizer.chat_template,
    )


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS before text by itself, and prompts began with one in training.

    A server that adds one takes the template's away before; where training saw none, there must be none.
    """
    bos = tokenizer.bos_token
    if bos is None or tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return False
    asked = [{"role": "user", "content": "a"}]
    return str(tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)).startswith(bos)
