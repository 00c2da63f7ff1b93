"""Which tokens a row may have next, by the grammar of its answer: llguidance, whose grammars vLLM takes too."""

from collections.abc import Sequence
from typing import Any

import llguidance.hf
import torch
from llguidance import LLMatcher

from calltune.errors import ConfigError
from calltune.grammar import EDGES


def special_marks(tokenizer: Any, syntax: str) -> dict[str, int]:
    """The marks of a call syntax that are special tokens to llguidance, and their ids.

    It takes any added token that is written as `<…>` for one, also where the tokenizer does not call it special.
    """
    added = tokenizer.get_added_vocab()
    found = {mark: added[mark] for mark in EDGES[syntax][:2] if mark in added}
    if not found:
        return found
    vocabulary = llguidance.hf.from_tokenizer(tokenizer)
    return {mark: id_ for mark, id_ in found.items() if vocabulary.is_special_token(id_)}


class Constraint:
    """The grammars of some prompts' answers, each at the place that its row has reached.

    Args:
        tokenizer: the model's.
        grammars: for each prompt, as :func:`calltune.grammar.grammar` writes them.

    Raises:
        ConfigError: a grammar is too large.
    """

    def __init__(self, tokenizer: Any, grammars: Sequence[str]) -> None:
        vocabulary = llguidance.hf.from_tokenizer(tokenizer)
        # Rows with the same tools have the same grammar, which is read once.
        begun = {text: LLMatcher(vocabulary, llguidance.grammar_from("grammar", text)) for text in dict.fromkeys(grammars)}
        for error in (matcher.get_error() for matcher in begun.values() if matcher.is_error()):
            raise ConfigError(
                f"evaluate.decoding: tools: no grammar of the tools together ({' '.join(error.split())[:300]}): set it to free"
            )
        self._rows = [begun[text].deep_copy() for text in grammars]

    def allowed(self, rows: Sequence[int], width: int) -> torch.Tensor:
        """Which tokens each of the rows may have next: bool, shape ``(rows, width)``.

        Args:
            rows: indices of prompts.
            width: of the logits; models pad them beyond the tokenizer's tokens, and no padding is allowed.
        """
        masks = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, row in enumerate(rows):
            known = torch.frombuffer(bytearray(self._rows[row].compute_logit_bias()), dtype=torch.uint8)[:width]
            masks[place, : len(known)] = known > 0
        return masks

    def wrote(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on by one token in each of the rows."""
        for row, token in zip(rows, tokens, strict=True):
            if not self._rows[row].consume_token(token):
                raise RuntimeError(f"token {token} of row {row} was allowed, and refused: {self._rows[row].get_error()}")
