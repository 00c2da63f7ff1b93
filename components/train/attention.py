"""Attention over a prefix tree: each token attends to its path, and little is computed that a mask would hide.

On a CPU block by block of queries (:func:`tree_attention`); on a GPU, where many small calls leave it idle, in one call of
FlexAttention that leaves out the blocks which the tree hides (:func:`tree_mask`). Both compute the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedModel

from components.train.packing import Branch

BY_BLOCK = "calltune_tree"
FLEX = "flex_attention"
"""The attention implementations to load a model with: ours, and transformers' own, which takes our mask."""
BLOCK_TOKENS = 128
"""Queries computed at once: their scores fit a CPU's cache, and few keys are computed that they do not see (docs/tuning.md)."""


def arguments(model: PreTrainedModel, branches: Sequence[Branch]) -> dict[str, Any]:
    """What a model must be told of a pack's tree, in the form that its attention implementation takes."""
    if model.config._attn_implementation == FLEX:
        return {"attention_mask": tree_mask(branches, model.device)}
    return {"branches": branches}


def tree_mask(branches: Sequence[Branch], device: torch.device) -> BlockMask:
    """The pack's tree for FlexAttention, shape ``(1, 1, T, T)``.

    Segments stand depth first, so all that is below a segment stands behind it in one stretch: a token is seen by itself
    and by what follows, up to the end of that stretch.
    """
    ends = _per_token(*_layout(branches)).to(device)

    def seen(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(seen, B=1, H=1, Q_LEN=len(ends), KV_LEN=len(ends), device=device)


def _layout(branches: Sequence[Branch]) -> tuple[list[int], list[int]]:
    """For each segment how many tokens it has, and where the segments below it end."""
    ends: list[int] = []
    stop = 0
    for branch in branches:
        stop += branch.length
        ends.append(stop)
        for above in branch.path:
            ends[above] = stop
    return [branch.length for branch in branches], ends


def _per_token(lengths: Sequence[int], ends: Sequence[int]) -> torch.Tensor:
    """For each token where the segments below its own end, int64, shape ``(T,)``."""
    return torch.tensor(ends).repeat_interleave(torch.tensor(lengths))


@dataclass(frozen=True)
class Block:
    """Consecutive queries, and what they attend to.

    Attributes:
        start: the first query's place in the pack.
        stop: the place behind the last.
        keys: stretches of places, each with its stop; together those that any of the queries sees.
        hidden: bool, shape ``(stop - start, last keys)``: which of the last keys which query does not see. All others all see.
    """

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]
    hidden: torch.Tensor

    def rows(self, query: torch.Tensor, key: torch.Tensor) -> slice:
        """The rows of `query` that are the block's: of each token one for each head that shares a key head."""
        heads = query.shape[1] // key.shape[1]
        return slice(self.start * heads, self.stop * heads)

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of keys or values those that the block's queries attend to."""
        return torch.cat([tensor[:, start:stop] for start, stop in self.keys], dim=1)

    def add(self, tensor: torch.Tensor, found: torch.Tensor) -> None:
        """Add to `tensor`, of all keys or values, what was found for those of the block."""
        for (start, stop), part in zip(
            self.keys, torch.split(found, [stop - start for start, stop in self.keys], dim=1), strict=True
        ):
            tensor[:, start:stop] += part


@lru_cache(maxsize=4)
def _blocks(lengths: tuple[int, ...], ends: tuple[int, ...], device: torch.device) -> list[Block]:
    """The blocks of a pack, made once for all its layers."""
    below = _per_token(lengths, ends)
    made = []
    for start in range(0, len(below), BLOCK_TOKENS):
        stop = min(start + BLOCK_TOKENS, len(below))
        queries, before = torch.arange(start, stop)[:, None], torch.arange(stop)
        places = before[below[:stop] > before.clamp(min=start)]
        hidden = (places > queries) | (queries >= below[places])
        seen_by_all = int((hidden.any(dim=0).cumsum(0) == 0).sum())
        # A copy: a view would keep all of `hidden` as long as the block.
        part = hidden[:, seen_by_all:].to(device, copy=True)
        made.append(Block(start, stop, tuple(_stretches(places.tolist())), part))
    return made


def _stretches(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 1:
            yield places[first], places[index - 1] + 1
            first = index


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    branches: list[Branch],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend along each token's path.

    A dense mask over the pack would compute ``T * T`` products, most of them between rows that must not see each other. Here a
    block of queries is computed against the keys that at least one of them sees. Sliding windows, caps on the logits and
    whatever else is not plain attention are not computed: models for which that makes a difference are refused
    (calltune/attention.py).

    Args:
        module: the attention layer; only `training` of it is read.
        query: shape ``(1, heads, T, head_dim)``.
        key: shape ``(1, key_value_heads, T, head_dim)``.
        value: shape ``(1, key_value_heads, T, value_dim)``; MLA's are narrower than its keys.
        attention_mask: not used; transformers hands it to every implementation.
        branches: the pack's segments; their lengths add up to T.
        scaling: what the products are multiplied with; None for ``head_dim ** -0.5``.
        dropout: probability of dropping an attention weight in training.

    Returns:
        The attended values, shape ``(1, T, heads, value_dim)``, and None for the weights.
    """
    device, groups = query.device.type, key.shape[1]
    heads, tokens, size = query.shape[1:]
    # Under autocast queries and keys come in fp32, values in bf16. A CPU has no product that takes bf16 and gives fp32.
    dtype = torch.float32 if device == "cpu" else value.dtype
    # The query heads of one key head are rows of one product: T * heads_per_key of them, token by token.
    folded = query.to(dtype).view(groups, heads // groups, tokens, size).transpose(1, 2).reshape(groups, -1, size)
    dropped = dropout if module.training else 0.0
    attended = attend(
        folded * (size**-0.5 if scaling is None else scaling),
        key[0].to(dtype),
        value[0].to(dtype),
        *_layout(branches),
        dropped,
        int(torch.randint(2**31, ())) if dropped else 0,
    )
    unfolded = attended.view(groups, tokens, heads // groups, -1).transpose(0, 1)
    return unfolded.reshape(1, tokens, heads, -1).to(value.dtype), None


@torch.library.custom_op("calltune::tree_attention", mutates_args=())
def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    ends: list[int],
    dropout: float,
    seed: int,
) -> torch.Tensor:
    """The attention of :func:`tree_attention`: one operator, whose result a checkpointed layer can keep (memory.py).

    Args:
        query: already scaled, shape ``(key_value_heads, T * heads_per_key, head_dim)``.
        key: shape ``(key_value_heads, T, head_dim)``.
        value: shape ``(key_value_heads, T, value_dim)``.
        lengths: tokens of each segment.
        ends: where the segments below each of them end.
        dropout: probability of dropping a weight.
        seed: of the dropped ones.

    Returns:
        Shape ``(key_value_heads, T * heads_per_key, value_dim)``.
    """
    attended = query.new_empty(*query.shape[:2], value.shape[2])
    with torch.autocast(query.device.type, enabled=False):
        for block in _blocks(tuple(lengths), tuple(ends), query.device):
            rows = block.rows(query, key)
            weights = _weights(block, query[:, rows], block.gathered(key))
            if dropout:
                weights *= _kept(weights, dropout, seed + block.start)
            attended[:, rows] = torch.bmm(weights, block.gathered(value))
    return attended


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The gradients towards query, key and value. Weights are computed again: kept, they would be the largest tensors of all."""
    query, key, value = context.saved_tensors
    lengths, ends, dropout, seed = context.settings
    to_query = torch.empty_like(query)
    # Summed up over blocks: in bf16, which values have on a GPU, that would be twice as coarse.
    wide = torch.promote_types(key.dtype, torch.float32)
    to_key, to_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
    with torch.autocast(query.device.type, enabled=False):
        for block in _blocks(tuple(lengths), tuple(ends), query.device):
            rows = block.rows(query, key)
            keys = block.gathered(key)
            weights = _weights(block, query[:, rows], keys)
            to_weights = torch.bmm(gradient[:, rows], block.gathered(value).transpose(1, 2))
            used = weights
            if dropout:
                kept = _kept(weights, dropout, seed + block.start)
                used, to_weights = weights * kept, to_weights * kept
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_query[:, rows] = torch.bmm(to_scores, keys)
            block.add(to_key, torch.bmm(to_scores.transpose(1, 2), query[:, rows]))
            block.add(to_value, torch.bmm(used.transpose(1, 2), gradient[:, rows]))
    return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None, None, None, None


def _weights(block: Block, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """How much each row of queries attends to each of the block's keys, shape ``(key_value_heads, rows, keys)``."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    last = block.hidden.shape[1]
    if last:
        hidden = block.hidden.repeat_interleave(scores.shape[1] // len(block.hidden), dim=0)
        scores[:, :, -last:].masked_fill_(hidden, -torch.inf)
    return torch.softmax(scores, dim=-1)


def _kept(weights: torch.Tensor, dropout: float, seed: int) -> torch.Tensor:
    """What the weights are multiplied with for dropout; the same in the backward pass as before."""
    dice = torch.Generator(weights.device).manual_seed(seed)
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=dice) / (1 - dropout)


attend.register_autograd(_backward, setup_context=_remember)
AttentionInterface.register(BY_BLOCK, tree_attention)
