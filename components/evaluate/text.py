"""How well a model predicts a text that it has not seen: nats per token, document by document."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from calltune import runtime
from calltune.errors import DataError

WINDOW = 1024
"""Tokens that are looked at together, or the model's context where that is shorter."""


def documents(file: Path) -> list[str]:
    """The documents of a text file: what stands between blank lines.

    Raises:
        DataError: the file is no text in UTF-8, or there is nothing in it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text in UTF-8: {error}") from None
    found = [document.strip() for document in re.split(r"\n\s*\n", text)]
    kept = [document for document in found if document]
    if not kept:
        raise DataError(f"{file}: no text in it")
    return kept


@torch.inference_mode()
def losses(network: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """The loss of each document, in nats per token, by its number from 1; one of a single token has nothing to predict.

    Raises:
        DataError: every document is so short.
    """
    context = min(WINDOW, getattr(network.config, "max_position_embeddings", None) or WINDOW)
    found: dict[str, float] = {}
    for number, text in runtime.tracked(enumerate(texts, 1), "loss of the held-out text", len(texts), "documents"):
        # No special token before it: which one a model has seen there differs, and the first word is nobody's to know.
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) < 2:
            continue
        total = sum(_loss(network, ids[start:end], end - first) for start, first, end in windows(len(ids), context))
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
