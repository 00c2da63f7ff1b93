"""Greedy answers from transformers: the shared prefix computed once, rows in batches, each leaving when it stops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel

from calltune import models
from calltune.render import common_prefix
from components.evaluate.prefix import NAME as PREFIX_ATTENTION
from components.evaluate.prefix import KeysValues, prefill

BATCH_ROWS = 64
"""Rows decoded together. More read the weights less often, until their own caches outgrow the memory bandwidth."""


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        row: index of its prompt.
        ids: the generated tokens, the stop token included.
        stopped: whether a stop token ended it, rather than the limit.
    """

    row: int
    ids: list[int]
    stopped: bool


def load(folder: Path) -> PreTrainedModel:
    """The folder's model, ready to answer: float32 on a CPU, the folder's own dtype on a GPU."""
    cuda = torch.cuda.is_available()
    model = models.load(folder, dtype="auto" if cuda else torch.float32, attn_implementation=PREFIX_ATTENTION)
    return model.to("cuda" if cuda else "cpu").eval()  # type: ignore[arg-type]


@torch.inference_mode()
def answers(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], max_new_tokens: int
) -> Iterator[Answer]:
    """Answer each prompt greedily; answers come in the order in which they end.

    Args:
        model: as :func:`load` gives it.
        prompts: token ids of each prompt.
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer, in tokens.
    """
    if not prompts:
        return
    # One token at least must be left to each row, because the logits of its last one are the first answer.
    shared = min([common_prefix(prompts[0], prompt) for prompt in prompts] + [len(prompt) - 1 for prompt in prompts])
    prefix = prefill(model, prompts[0][:shared]) if shared else None
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(by_length), BATCH_ROWS):
        rows = by_length[start : start + BATCH_ROWS]
        yield from _batch(model, rows, [prompts[row][shared:] for row in rows], prefix, shared, stop_ids, max_new_tokens)


def _batch(
    model: PreTrainedModel,
    rows: list[int],
    suffixes: Sequence[Sequence[int]],
    prefix: list[KeysValues] | None,
    shared: int,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> Iterator[Answer]:
    longest = max(map(len, suffixes))
    device = model.device
    lengths = torch.tensor([len(suffix) for suffix in suffixes], device=device)
    # Padding stands on the left, so that every row's newest token is in the last column.
    ids = torch.tensor([[0] * (longest - len(suffix)) + list(suffix) for suffix in suffixes], device=device)
    columns = torch.arange(longest, device=device)
    visible = columns[None, :] >= longest - lengths[:, None]
    positions = (columns[None, :] - (longest - lengths)[:, None]).clamp(min=0) + shared
    causal = columns[:, None] >= columns[None, :]
    # A padding token sees itself, because a softmax over nothing is NaN, and NaN spreads.
    mask = (causal & visible[:, None, :]) | torch.eye(longest, dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    alive = torch.arange(len(rows), device=device)
    written: list[list[int]] = [[] for _ in rows]
    stops = torch.tensor(list(stop_ids), device=device)
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            prefix=prefix,
            own_mask=mask[:, None],
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = logits.argmax(dim=-1)
        for place, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            written[place].append(token)
        ended = torch.isin(chosen, stops)
        for place in alive[ended].tolist():
            yield Answer(rows[place], written[place], stopped=True)
        going = ~ended
        if not going.any():
            return
        if ended.any():
            cache.batch_select_indices(going.nonzero().squeeze(1))
            alive, chosen, visible, positions = alive[going], chosen[going], visible[going], positions[going]
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        visible = torch.cat([visible, torch.ones(len(alive), 1, dtype=torch.bool, device=device)], dim=1)
        mask = visible[:, None, :]
    for place in alive.tolist():
        yield Answer(rows[place], written[place], stopped=False)
