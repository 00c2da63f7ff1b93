"""Attention of a batch to a prefix that all its rows share: computed once, kept once, read once a step.

With an ordinary cache every row carries a copy of the system message and the tool list, which is most of what a
decoding step then has to read. Here the prefix's keys and values are kept apart, without a batch dimension.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

NAME = "calltune_prefix"
"""The attention implementation to load a model with."""

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""A layer's keys and values, each of shape ``(key_value_heads, P, head_dim)``."""


@torch.inference_mode()
def prefill(model: PreTrainedModel, prefix_ids: Sequence[int]) -> list[KeysValues]:
    """Run the prefix once; returns its keys and values for each layer."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(prefix_ids)], device=model.device)
    model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    prefix: list[KeysValues] | None = None,
    own_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to the shared prefix and to the row's own tokens, in one softmax.

    Sliding windows, caps on the logits and whatever else is not plain attention are not computed: models for which that
    makes a difference are refused (calltune/attention.py).

    Args:
        module: the attention layer; its `layer_idx` chooses from `prefix`.
        query: shape ``(B, heads, Q, head_dim)``.
        key: the row's own keys, shape ``(B, key_value_heads, S, head_dim)``.
        value: the row's own values, same shape.
        attention_mask: not used; transformers hands it to every implementation.
        scaling: what the products are multiplied with; None for ``head_dim ** -0.5``.
        prefix: each layer's keys and values of the prefix; None where the rows share nothing.
        own_mask: bool, shape ``(B, 1, Q, S)``; which of its own tokens a query may see; None for plain causal
            attention, which is how the prefix itself is run.

    Returns:
        The attended values, shape ``(B, Q, heads, head_dim)``, and None for the weights.
    """
    if own_mask is None:
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return attended.transpose(1, 2).contiguous(), None
    batch, heads, queries, dim = query.shape
    if prefix is None:
        prefix_keys = prefix_values = key.new_empty(key.shape[1], 0, dim)
    else:
        prefix_keys, prefix_values = prefix[int(module.layer_idx)]  # type: ignore[arg-type]
    groups = heads // key.shape[1]
    query = query * (dim**-0.5 if scaling is None else scaling)
    # Heads that share a key head are folded into its rows, for the prefix together with the batch: two plain products.
    shared_heads, length = key.shape[1], prefix_keys.shape[1]
    rows = groups * queries
    folded = query.reshape(batch, shared_heads, rows, dim)
    together = folded.transpose(0, 1).reshape(shared_heads, batch * rows, dim)
    to_prefix = (together @ prefix_keys.transpose(-1, -2)).view(shared_heads, batch, rows, length).transpose(0, 1)
    to_own = (folded @ key.transpose(-1, -2)).view(batch, shared_heads, groups, queries, key.shape[2])
    to_own = to_own.masked_fill(~own_mask[:, :, None], float("-inf")).reshape(batch, shared_heads, rows, key.shape[2])
    weights = torch.softmax(torch.cat([to_prefix, to_own], dim=-1), dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix = weights[..., :length].transpose(0, 1).reshape(shared_heads, batch * rows, length)
    attended = (on_prefix @ prefix_values).view(shared_heads, batch, rows, dim).transpose(0, 1)
    attended = attended + weights[..., length:] @ value
    return attended.reshape(batch, heads, queries, dim).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, prefix_attention)
