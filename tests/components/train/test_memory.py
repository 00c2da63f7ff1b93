"""What a checkpointed layer keeps changes no gradient, and saves what it is there for."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import OlmoConfig, OlmoForCausalLM

from benchmarks.exactness import trained
from calltune import models
from calltune.errors import ConfigError
from components.train import attention, memory
from components.train.memory import checkpointing
from components.train.packing import pack
from tests.components.train.test_packing import NO_LIMIT, named_cases, packed


class Products(TorchDispatchMode):
    """Counts matrix products by the terms that each number of their result sums up."""

    def __init__(self):
        super().__init__()
        self.terms = Counter()

    def __torch_dispatch__(self, operator, types, given=(), more=None):
        if operator in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.terms[len(given[-1])] += 1
        return operator(*given, **(more or {}))


def one_pack():
    (one,) = pack(named_cases()["nested sharing"], NO_LIMIT)
    return one


@pytest.mark.parametrize("dropout", [0, 0.5])
@pytest.mark.parametrize(("device", "computed"), [("cpu", 2), ("cuda", 3)])
def test_attention_is_computed_once_forward_on_a_cpu_and_the_gradient_is_the_same_bit_for_bit(
    tiny_model, monkeypatch, device, computed, dropout
):
    """Of each layer once forward, and its weights once more for the backward pass; on a GPU forward twice."""
    network = models.load(tiny_model, dtype=torch.float32, attn_implementation=attention.BY_BLOCK).train()
    for layer in network.model.layers:
        layer.self_attn.attention_dropout = dropout
    one = one_pack()
    torch.manual_seed(0)
    _, plain, _ = packed(network, [one])

    network.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing(torch.device(device)))
    calls, weights = [], attention._weights
    monkeypatch.setattr(attention, "_weights", lambda *given: calls.append(1) or weights(*given))
    torch.manual_seed(0)
    _, checkpointed, _ = packed(network, [one])
    assert torch.equal(checkpointed, plain)
    blocks = -(-one.input_ids.shape[1] // attention.BLOCK_TOKENS)
    assert len(calls) == computed * blocks * network.config.num_hidden_layers


@pytest.mark.parametrize(("method", "twice"), [("full", set()), ("lora", {16})])
def test_on_a_cpu_no_product_is_computed_twice_but_those_through_an_adapters_rank(tiny_model, monkeypatch, method, twice):
    """What comes out of an adapter is as large as the layer's own result; kept, it would double what training keeps."""
    monkeypatch.setattr(memory, "FEW_TERMS", 32)  # the tiny model's layers sum up 64 terms
    network, one = trained(tiny_model, method), one_pack()
    network.enable_input_require_grads()  # checkpointing does it, too
    with Products() as plain:
        packed(network, [one])
    network.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing(torch.device("cpu")))
    with Products() as checkpointed:
        packed(network, [one])
    assert set(checkpointed.terms - plain.terms) == twice


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_that_changes_a_products_result_in_place_is_refused_where_that_is_kept(tmp_path, monkeypatch, method):
    """OLMo clips its queries so: of the clipped ones, kept, the gradient would be another, and nothing would say so."""
    monkeypatch.setattr(memory, "FEW_TERMS", 32)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000}
    torch.manual_seed(0)
    OlmoForCausalLM(OlmoConfig(**sizes, clip_qkv=0.5, initializer_range=0.1)).save_pretrained(tmp_path)
    network, one = trained(tmp_path, method), one_pack()
    _, plain, _ = packed(network, [one])
    for device in ("cuda", "cpu"):
        network.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing(torch.device(device)))
        if (method, device) == ("full", "cpu"):
            with pytest.raises(ConfigError, match=r"changes the result of a product in place \(aten.clamp_.*train.method: lora"):
                packed(network, [one])
        else:
            _, checkpointed, _ = packed(network, [one])
            assert torch.equal(checkpointed, plain)
