"""Greedy answers from transformers: the shared prefix computed once, rows in batches, each leaving when it stops."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache, PreTrainedModel

from calltune import attention, models, onednn
from calltune.render import common_prefix
from components.evaluate.engines.answer import Answer
from components.evaluate.engines.prefix import NAME as PREFIX_ATTENTION
from components.evaluate.engines.prefix import KeysValues, prefill

if TYPE_CHECKING:
    from components.evaluate.engines.constraint import Constraint

BATCH_ROWS = 64
"""Rows decoded together. More read the weights less often, until their own caches outgrow the memory bandwidth."""

BATCH_TOKENS = 64 * 512
"""Rows times the longest one's own tokens, those behind the shared prefix, whose keys and values a batch holds: 1.5 GB for
SmolLM2-135M in float32. Rows that bring their own tools share almost nothing."""

BATCH_SCORES = 64 * 256**2
"""Attention scores, to the shared prefix and to a row's own tokens, that a step holds for each head: 64 rows of 2,000 tokens at
once would take 9 GB a copy. Prompts go in by pieces where that is more."""


def load(folder: Path, adapter: Path | None = None, nf4: bool = False) -> PreTrainedModel:
    """The folder's model, ready to answer: float32 on a CPU, the folder's own dtype on a GPU.

    Args:
        folder: of the model.
        adapter: folder of an adapter to put on it, unmerged; None for none.
        nf4: quantised as `qlora` trains on it.

    Raises:
        ConfigError: a model that attention to a shared prefix is not right for.
    """
    cuda = torch.cuda.is_available()
    onednn.prefer()
    with attention.suited(folder):
        if nf4:
            computed = torch.bfloat16 if cuda else torch.float32
            model = models.load_nf4(folder, computed, attn_implementation=PREFIX_ATTENTION).eval()
        else:
            model = models.load(folder, dtype="auto" if cuda else torch.float32, attn_implementation=PREFIX_ATTENTION)
            model = model.to("cuda" if cuda else "cpu").eval()  # type: ignore[arg-type]
    attention.require_same(folder, model, _behind_a_prefix, exact=not cuda if nf4 else model.dtype == torch.float32)
    if adapter is None:
        return model
    from peft import PeftModel

    # The network itself, with the adapter's layers in it: PEFT's wrapper has another forward.
    adapted: PreTrainedModel = PeftModel.from_pretrained(model, adapter).get_base_model().eval()
    return adapted


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    constraint: "Constraint | None" = None,
) -> Iterator[Answer]:
    """Answer each prompt greedily; answers come in the order in which they end.

    Args:
        model: as :func:`load` gives it.
        prompts: token ids of each prompt.
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer, in tokens.
        constraint: what each answer may say; None for whatever the model wants.

    Raises:
        ConfigError: the model attends through a window that is shorter than a prompt and its answer.
    """
    if not prompts:
        return
    attention.require_within_window(model.config, max(map(len, prompts)) + max_new_tokens)
    # One token at least must be left to each row, because the logits of its last one are the first answer.
    shared = min([common_prefix(prompts[0], prompt) for prompt in prompts] + [len(prompt) - 1 for prompt in prompts])
    prefix = prefill(model, prompts[0][:shared]) if shared else None
    for rows in _batches([len(prompt) - shared for prompt in prompts]):
        suffixes = [prompts[row][shared:] for row in rows]
        yield from _batch(model, rows, suffixes, prefix, shared, stop_ids, max_new_tokens, constraint)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Which rows are decoded together, by their own tokens: those of about the same length, as many as memory lets."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * lengths[row] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _batch(
    model: PreTrainedModel,
    rows: list[int],
    suffixes: Sequence[Sequence[int]],
    prefix: list[KeysValues] | None,
    shared: int,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    constraint: "Constraint | None",
) -> Iterator[Answer]:
    device = model.device
    ids, positions, visible, mask = _aligned(suffixes, shared, device)
    cache = DynamicCache(config=model.config)
    alive = torch.arange(len(rows), device=device)
    written: list[list[int]] = [[] for _ in rows]
    stops = torch.tensor(list(stop_ids), device=device)
    columns = max(1, BATCH_SCORES // (len(rows) * (shared + ids.shape[1])))
    first = range(0, ids.shape[1], columns)[-1]
    for start in range(0, first, columns):
        piece, end = slice(start, start + columns), start + columns
        _logits(model, ids[:, piece], positions[:, piece], cache, prefix, mask[:, piece, :end])
    ids, positions, mask = ids[:, first:], positions[:, first:], mask[:, first:]
    for _ in range(max_new_tokens):
        logits = _logits(model, ids, positions, cache, prefix, mask)
        if constraint:
            allowed = constraint.allowed([rows[place] for place in alive.tolist()], logits.shape[-1])
            logits = logits.masked_fill(~allowed.to(device), float("-inf"))
        chosen = logits.argmax(dim=-1)
        if constraint:
            constraint.wrote([rows[place] for place in alive.tolist()], chosen.tolist())
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


def _aligned(
    suffixes: Sequence[Sequence[int]], shared: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as one batch: ids, positions and visible columns, each ``(B, S)``, and the mask of who sees whom, ``(B, S, S)``.

    Padding stands on the left, so that every row's newest token is in the last column.
    """
    longest = max(map(len, suffixes))
    lengths = torch.tensor([len(suffix) for suffix in suffixes], device=device)
    ids = torch.tensor([[0] * (longest - len(suffix)) + list(suffix) for suffix in suffixes], device=device)
    columns = torch.arange(longest, device=device)
    visible = columns[None, :] >= longest - lengths[:, None]
    positions = (columns[None, :] - (longest - lengths)[:, None]).clamp(min=0) + shared
    causal = columns[:, None] >= columns[None, :]
    # A padding token sees itself, because a softmax over nothing is NaN, and NaN spreads.
    mask = (causal & visible[:, None, :]) | torch.eye(longest, dtype=torch.bool, device=device)
    return ids, positions, visible, mask


def _logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    positions: torch.Tensor,
    cache: DynamicCache,
    prefix: list[KeysValues] | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """One step of a batch: the logits in its last column, shape ``(B, vocabulary)``."""
    logits: torch.Tensor = model(
        input_ids=ids, position_ids=positions, past_key_values=cache, prefix=prefix, own_mask=mask[:, None], logits_to_keep=1
    ).logits[:, -1]
    return logits


def _behind_a_prefix(model: PreTrainedModel, rows: Sequence[list[int]]) -> torch.Tensor:
    """Logits of the last token of each row, shape ``(rows, vocabulary)``, as :func:`answers` computes them."""
    shared = common_prefix(*rows)
    prefix = prefill(model, rows[0][:shared])
    # The last token in a step of its own, as if the model had just written it.
    ids, positions, visible, mask = _aligned([row[shared:-1] for row in rows], shared, model.device)
    cache = DynamicCache(config=model.config)
    _logits(model, ids, positions, cache, prefix, mask)
    last = torch.tensor([row[-1:] for row in rows], device=model.device)
    visible = torch.cat([visible, torch.ones_like(last, dtype=torch.bool)], dim=1)
    return _logits(model, last, positions[:, -1:] + 1, cache, prefix, visible[:, None, :])
