"""What a checkpointed layer keeps changes no gradient, and saves what it is there for."""

import pytest
import torch

from calltune import models
from components.train import attention
from components.train.memory import checkpointing
from components.train.packing import pack
from tests.components.train.test_packing import NO_LIMIT, named_cases, packed


@pytest.mark.parametrize(("device", "computed"), [("cpu", 2), ("cuda", 3)])
def test_attention_is_computed_once_forward_on_a_cpu_and_the_gradient_is_the_same_bit_for_bit(
    tiny_model, monkeypatch, device, computed
):
    """Of each layer once forward, and its weights once more for the backward pass; on a GPU forward twice."""
    rows = sorted(named_cases()["nested sharing"], key=lambda row: row.input_ids)
    network = models.load(tiny_model, dtype=torch.float32, attn_implementation=attention.BY_BLOCK).train()
    (one,) = pack(rows, NO_LIMIT)
    _, plain, _ = packed(network, [one])

    network.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing(torch.device(device)))
    calls, weights = [], attention._weights
    monkeypatch.setattr(attention, "_weights", lambda *given: calls.append(1) or weights(*given))
    _, checkpointed, _ = packed(network, [one])
    assert torch.equal(checkpointed, plain)
    blocks = -(-one.input_ids.shape[1] // attention.BLOCK_TOKENS)
    assert len(calls) == computed * blocks * network.config.num_hidden_layers
