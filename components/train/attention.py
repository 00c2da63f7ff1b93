"""Attention over a prefix tree: each segment attends to its path, and nothing is computed that a mask would hide.

On a CPU segment by segment (:func:`tree_attention`); on a GPU, where many small calls leave it idle, in one call of
FlexAttention that leaves out the blocks which the tree hides (:func:`tree_mask`). Both compute the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from components.train.packing import Branch

BY_SEGMENT = "calltune_tree"
FLEX = "flex_attention"
"""The attention implementations to load a model with: ours, and transformers' own, which takes our mask."""


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
    ends = _subtree_ends(branches).to(device)

    def seen(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(seen, B=1, H=1, Q_LEN=len(ends), KV_LEN=len(ends), device=device)


def _subtree_ends(branches: Sequence[Branch]) -> torch.Tensor:
    """For each token where the segments below its own end, int64, shape ``(T,)``."""
    lengths = torch.tensor([branch.length for branch in branches])
    stops = lengths.cumsum(0)
    ends = stops.clone()
    for index, branch in enumerate(branches):
        for above in branch.path:
            ends[above] = stops[index]
    return ends.repeat_interleave(lengths)


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
    """Attend along each segment's path.

    A dense mask over the pack would compute ``T * T`` products, most of them between rows that must not see each
    other. Here a root computes its causal half, and a branch its own tokens against its path. Sliding windows, caps
    on the logits and whatever else is not plain attention are not computed: models for which that makes a difference are
    refused (calltune/attention.py).

    Args:
        module: the attention layer; only `training` of it is read.
        query: shape ``(1, heads, T, head_dim)``.
        key: shape ``(1, key_value_heads, T, head_dim)``.
        value: shape ``(1, key_value_heads, T, head_dim)``.
        attention_mask: not used; transformers hands it to every implementation.
        branches: the pack's segments; their lengths add up to T.
        scaling: what the products are multiplied with; None for ``head_dim ** -0.5``.
        dropout: probability of dropping an attention weight in training.

    Returns:
        The attended values, shape ``(1, T, heads, head_dim)``, and None for the weights.
    """
    dtype = query.dtype
    if query.device.type == "cpu":  # whose kernel is faster in fp32 than in bf16, forward and backward (docs/tuning.md)
        query, key, value = query.float(), key.float(), value.float()
    lengths = [branch.length for branch in branches]
    # split, not slices: the backward of a split is one concatenation, of a slice a zero-filled tensor of full size.
    queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
    attended = []
    # On a CPU autocast would take bf16 again; on a GPU it is what makes one dtype of them, values alone being in bf16 there.
    with torch.autocast("cpu", enabled=False):
        for own, branch in enumerate(branches):
            seen = [*branch.path, own]
            attended.append(
                scaled_dot_product_attention(
                    queries[own],
                    torch.cat([keys[index] for index in seen], dim=2),
                    torch.cat([values[index] for index in seen], dim=2),
                    attn_mask=None if branch.mask is None else branch.mask.to(query.device),
                    is_causal=branch.mask is None,
                    dropout_p=dropout if module.training else 0.0,
                    scale=scaling,
                    enable_gqa=True,
                )
            )
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous().to(dtype), None


AttentionInterface.register(BY_SEGMENT, tree_attention)
