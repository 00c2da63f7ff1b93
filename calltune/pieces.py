"""Token ids of long texts that have much in common, such as rows with the same tools: what stands in several is encoded once.

The ids are those of the whole text. It is cut only where its tokenizer cuts it, too, whatever stands on either side:

- around an added token of which nothing but its own letters decides where it is. The rest is encoded piece by piece, by
  `tokenizers` itself, none of whose pre-tokenizers that are taken here looks beyond a piece;
- of such a piece, after a line feed with something other than a space on either side, where a pre-tokenizer has one of the
  expressions in `_ENDS_AT_A_LINE`. There the line feed is the last letter of a match: no alternative of these takes a line feed
  and then a letter that is no space; and with no space before the line feed none would match more if the text ended there.
  The next match begins at the next letter, as at the beginning of a text, since none looks back.

The model (BPE, WordPiece, Unigram) sees one match at a time. A tokenizer of which this is not certain encodes whole texts.
"""

import json
import re
from functools import lru_cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KNOWN_LINES = 8192
KNOWN_LETTERS = 2_000
"""Longer lines are not remembered: these take 30 MiB as they usually are, and 160 at the most."""
KNOWN_PIECES = 16
"""A conversation begins as its prompts do."""

_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDS_AT_A_LINE = {_GPT4.replace("DIGITS", digits) for digits in ("", "{1,3}")}
"""The expressions of Qwen 2 and 3 and of Llama 3; that of GPT-2 is the one that `ByteLevel` has in itself."""


class Pieces:
    """A tokenizer that remembers lines.

    Args:
        tokenizer: whose ids are wanted; no added token may be added to it later.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        whole = tokenizer.split_special_tokens or not tokenizer.is_fast
        described = {} if whole else json.loads(tokenizer.backend_tokenizer.to_str())
        self.sure = not whole and _is_cut_at_added_tokens(described)
        self.by_line = self.sure and _is_cut_at_lines(described)
        self.added = {token["content"]: token["id"] for token in described["added_tokens"]} if self.sure else {}
        # Of two that begin at one place, the longer one, as `tokenizers` has it. (?!) is nowhere.
        longest_first = sorted(self.added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._line = lru_cache(KNOWN_LINES)(self._encoded)
        self._piece = lru_cache(KNOWN_PIECES)(self._encoded_by_line)
        self._last_line = lru_cache(KNOWN_PIECES)(self._encoded)

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, as the tokenizer by itself gives them; no special tokens are put around it."""
        if not self.sure:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(chain.from_iterable(map(self._piece, filter(None, self._added.split(text)))))

    def _encoded_by_line(self, piece: str) -> list[int]:
        if piece in self.added:
            return [self.added[piece]]
        if not self.by_line:
            return self._encoded(piece)
        *lines, last = _lines(piece)
        found: list[int] = []
        for line in lines:
            found += self._line(line) if len(line) <= KNOWN_LETTERS else self._encoded(line)
        # What no line end follows is what a user or the model wrote, another one in each row, or a mark that ends it.
        return found + self._last_line(last)

    def _encoded(self, text: str) -> list[int]:
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _lines(piece: str) -> list[str]:
    """The piece, cut after each line feed that has something other than a space on either side."""
    # As re.split at (?<=\S\n)(?=\S) does, which takes ten times as long.
    found, parts, begin, end = [], piece.split("\n"), 0, 0
    for part, following in pairwise(parts):
        end += len(part) + 1
        if part and following and not (part[-1].isspace() or following[0].isspace()):
            found.append(piece[begin:end])
            begin = end
    return [*found, piece[begin:]]


def _is_cut_at_added_tokens(described: dict[str, Any]) -> bool:
    """Whether each added token is found by its letters alone, before all else, and what is between is encoded by itself."""
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return (
        not any(token[flag] for token in described["added_tokens"] for flag in flags)
        and described["truncation"] is None
        and described["padding"] is None
        and described["model"]["type"] in ("BPE", "WordPiece", "Unigram", "WordLevel")
        and not described["model"].get("dropout")
        # Metaspace may put its mark before the first piece of a text only.
        and {part["type"] for part in _parts(described["pre_tokenizer"])} <= {"ByteLevel", "Split", "Digits", "Whitespace"}
    )


def _is_cut_at_lines(described: dict[str, Any]) -> bool:
    """Whether the pieces are cut after each single line feed, as above, and nothing else is done to them before."""
    parts = _parts(described["pre_tokenizer"])
    return (
        (described["normalizer"] or {"type": "NFC"})["type"] == "NFC"  # which changes no line feed, and nothing across one
        and all(part["type"] in ("Digits", "ByteLevel") or _ends_at_a_line(part) for part in parts)
        and any(map(_ends_at_a_line, parts))
        and not any(part["type"] == "ByteLevel" and part["add_prefix_space"] for part in parts)
    )


def _parts(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [part for one in pre_tokenizer["pretokenizers"] for part in _parts(one)]
    return [pre_tokenizer]


def _ends_at_a_line(part: dict[str, Any]) -> bool:
    if part["type"] == "ByteLevel":
        return bool(part["use_regex"])
    known = part["type"] == "Split" and part["pattern"].get("Regex") in _ENDS_AT_A_LINE
    return known and part["behavior"] == "Isolated" and not part["invert"]
