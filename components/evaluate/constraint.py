"""Which tokens a row may have next, by the grammar of its answer: llguidance, whose grammars vLLM takes too."""

from collections.abc import Iterable, Sequence
from typing import Any

import llguidance.hf
import torch
from llguidance import LLMatcher

from calltune.errors import ConfigError


def require_readable(grammars: Iterable[str]) -> None:
    """Refuse what an engine could not hold an answer to, before a model is loaded.

    Raises:
        ConfigError: a tool's schema has something that has no grammar.
    """
    for text in dict.fromkeys(grammars):
        # Without a tokenizer, as vLLM does it.
        error = " ".join(LLMatcher.validate_grammar(llguidance.grammar_from("grammar", text), None).split("\n")[0].split())
        if error:
            raise ConfigError(
                f"evaluate.decoding: tools: a tool's schema cannot be a grammar ({error[:300]}): change it, or set it to free"
            )


class Constraint:
    """The grammars of some prompts' answers, each at the place that its row has reached.

    Args:
        tokenizer: the model's.
        grammars: for each prompt, as :func:`calltune.grammar.grammar` writes them.
    """

    def __init__(self, tokenizer: Any, grammars: Sequence[str]) -> None:
        vocabulary = llguidance.hf.from_tokenizer(tokenizer)
        # Rows with the same tools have the same grammar, which is read once.
        begun = {text: LLMatcher(vocabulary, llguidance.grammar_from("grammar", text)) for text in dict.fromkeys(grammars)}
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
