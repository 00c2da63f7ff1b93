"""How well a model predicts a text that it has not seen: nats per token, document by document."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from calltune import runtime
from calltune.errors import DataError

WINDOW = 1024
"""Tokens that are looked at together, or the model's context where that is shorter."""


@torch.inference_mode()
def losses(network: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """The loss of each document, in nats per token, by its number from 1; one of a single token has nothing to predict.

    The first token of a document is not predicted. Where the tokenizer begins every text with a token of its own (Gemma's and
    Llama 3's), each window does: without it such a model's numbers mean nothing.

    Raises:
        DataError: every document is so short.
    """
    context = min(WINDOW, getattr(network.config, "max_position_embeddings", None) or WINDOW)
    start_id = tokenizer.bos_token_id
    begins = [start_id] if start_id is not None and tokenizer("a")["input_ids"][:1] == [start_id] else []
    found: dict[str, float] = {}
    for number, text in runtime.tracked(enumerate(texts, 1), "loss of the held-out text", len(texts), "documents"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) < 2:
            continue
        places = windows(len(ids), context - len(begins))
        total = sum(_loss(network, [*begins, *ids[start:end]], end - first) for start, first, end in places)
        found[str(number)] = total / (len(ids) - 1)
    if not found:
        raise DataError("evaluate.general.text: none of its documents has two tokens")
    return found


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Where to look so that each token but the first is predicted once: `(start, first predicted, end)`.

    Each window after the first begins half a context before what it predicts.

    Args:
        length: tokens of the document, 2 or more.
        context: tokens of a window, 2 or more.
    """
    start, first = 0, 1
    while first < length:
        end = min(length, start + context)
        yield start, first, end
        first, start = end, end - context // 2


def _loss(network: PreTrainedModel, ids: Sequence[int], predicted: int) -> float:
    """The summed loss of the last `predicted` tokens of a window, in nats."""
    row = torch.tensor([ids], device=network.device)
    logits = network(input_ids=row).logits[0, -predicted - 1 : -1].float()
    return float(torch.nn.functional.cross_entropy(logits, row[0, -predicted:], reduction="sum"))
