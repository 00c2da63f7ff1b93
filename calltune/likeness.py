"""How much two texts have in common: their words in any order, and those that both have divided by those of both (Jaccard)."""

import re
from collections.abc import Set
from typing import TypeVar

T = TypeVar("T")

# Chinese, Japanese and Korean put no space between words: there each character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
ROUNDING = 1e-9
"""How much below the least likeness still counts, since 0.8 is no float."""


def words(text: str) -> list[str]:
    """A text's words, in small letters, in order."""
    return _WORD.findall(text.lower())


def likeness(one: Set[T], two: Set[T]) -> float:
    """The words that both sets have, divided by those of both: 0 to 1; 0 where both are empty."""
    shared = len(one & two)
    return shared / max(1, len(one) + len(two) - shared)
