"""FlexAttention sees the same tree as attention segment by segment."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.exactness import tiny_model as small_model
from calltune import models
from components.train import account, attention
from components.train.attention import BY_SEGMENT, FLEX, tree_attention, tree_mask
from components.train.config import TrainConfig
from components.train.method import _attends_by_flex, build, decide
from components.train.packing import Branch, pack
from tests.components.train.test_packing import NO_LIMIT, alone, named_cases, packed, random_tree

CPU = torch.device("cpu")
HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 16


def dense(mask):
    """What a block mask shows of the tree, token by token: bool, shape ``(T, T)``."""
    places = torch.arange(mask.seq_lengths[0])
    return mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])


def dense_by_segment(branches):
    """The same from what is handed to SDPA: the path of each segment, and its mask."""
    stops = torch.tensor([branch.length for branch in branches]).cumsum(0).tolist()
    places = [list(range(stop - branch.length, stop)) for branch, stop in zip(branches, stops, strict=True)]
    seen = torch.zeros(stops[-1], stops[-1], dtype=torch.bool)
    for own, branch in enumerate(branches):
        columns = [place for segment in (*branch.path, own) for place in places[segment]]
        mask = torch.ones(branch.length, branch.length, dtype=torch.bool).tril() if branch.mask is None else branch.mask
        seen[torch.tensor(places[own])[:, None], torch.tensor(columns)] = mask
    return seen


def every_pack():
    trees = [*named_cases().values(), *map(random_tree, range(30))]
    return [p for seed, rows in enumerate(trees) for p in pack(rows, random.Random(seed).choice([64, 150, 400, NO_LIMIT]))]


def test_the_block_mask_is_the_mask_of_attention_by_segment_bit_for_bit():
    packs = every_pack()
    assert any(len(branch.path) > 1 for p in packs for branch in p.branches)
    for p in packs:
        assert torch.equal(dense(tree_mask(p.branches, CPU)), dense_by_segment(p.branches))


def test_no_block_that_a_token_sees_is_left_out():
    """The blocks that are computed, and no others: FlexAttention passes over the rest without looking."""
    p = max(every_pack(), key=lambda one: one.input_ids.numel())
    mask = tree_mask(p.branches, CPU)
    size = mask.BLOCK_SIZE[0]
    seen = dense(mask)
    missing = -len(seen) % size
    blocks = torch.nn.functional.pad(seen, (0, missing, 0, missing)).unfold(0, size, size).unfold(1, size, size).any(dim=(2, 3))
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)
    assert not blocks.all()


def test_flex_attention_computes_what_attention_by_segment_does():
    p = max(every_pack(), key=lambda one: len(one.branches))
    count = p.input_ids.shape[1]
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, count, HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    layer = SimpleNamespace(training=False)
    by_segment, _ = tree_attention(layer, query, key, value, None, branches=p.branches)
    flex = flex_attention(query, key, value, block_mask=tree_mask(p.branches, CPU), enable_gqa=True)
    assert (flex.transpose(1, 2) - by_segment).abs().max() <= 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward on a CPU")
@pytest.mark.parametrize("implementation", [FLEX, BY_SEGMENT])
@pytest.mark.parametrize(("bf16", "limit"), [(False, 1e-4), (True, 5e-2)])
def test_its_gradient_on_a_gpu_is_that_of_the_rows_alone(tmp_path, implementation, bf16, limit):
    folder = small_model(tmp_path)  # without a tokenizer, which a machine that has a GPU may lack
    plain, tree = (models.load(folder, dtype=torch.float32, attn_implementation=name) for name in ("sdpa", implementation))
    rows = sorted(named_cases()["nested sharing"], key=lambda r: r.input_ids)
    _, gradient, _ = alone(plain, rows)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
        _, found, _ = packed(tree.to("cuda"), pack(rows, NO_LIMIT))
    assert (found.cpu() - gradient).norm() <= limit * gradient.norm()


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_model_is_tried_on_the_device_that_trains_it(tiny_model, monkeypatch, name):
    tried = []
    monkeypatch.setattr(account, "device", lambda: torch.device("meta"))
    monkeypatch.setattr("calltune.attention.require_same", lambda _folder, model, *_: tried.append(model.device.type))
    build(tiny_model, decide(TrainConfig(method=name, precision="fp32"), 1))
    assert tried == ["meta"]


def test_a_model_that_transformers_refuses_flex_attention_is_trained_without(tiny_model, tmp_path, monkeypatch):
    network = build(tiny_model, decide(TrainConfig(precision="fp32"), 1))
    monkeypatch.setattr(type(network), "_supports_flex_attn", False)
    assert not _attends_by_flex(tiny_model, network, exact=True)
    assert network.config._attn_implementation == BY_SEGMENT
    assert "train: no FlexAttention: " in (tmp_path / "events.jsonl").read_text()


def test_autocast_is_left_to_a_gpu_whose_kernels_take_one_dtype_only(monkeypatch):
    """Under it queries and keys come in float32, values in bf16. A device without arithmetic stands in for a GPU."""
    seen = []

    def kernel(query, *_, **__):
        seen.append((torch.is_autocast_enabled("cuda"), torch.is_autocast_enabled("cpu")))
        return query

    monkeypatch.setattr(attention, "scaled_dot_product_attention", kernel)
    one = torch.empty(1, HEADS, 5, HEAD_DIM, device="meta")
    autocast = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        tree_attention(SimpleNamespace(training=True), one, one, one.bfloat16(), None, branches=[Branch(5, (), None)])
    finally:
        torch.set_autocast_enabled("cuda", autocast)
    assert seen == [(True, False)]


def test_training_on_a_cpu_attends_by_segment(trained, tiny_model):
    notes = [event["message"] for event in trained("full").events if event["kind"] == "note"]
    assert "train: attention segment by segment, SDPA" in notes
