"""Attention by block and FlexAttention see the same tree, and compute the same."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.exactness import tiny_model as small_model
from calltune import models
from components.train import account, attention
from components.train.attention import BY_BLOCK, FLEX, tree_attention, tree_mask
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


def paths(branches):
    """The same from the path of each segment."""
    stops = torch.tensor([branch.length for branch in branches]).cumsum(0).tolist()
    places = [list(range(stop - branch.length, stop)) for branch, stop in zip(branches, stops, strict=True)]
    seen = torch.zeros(stops[-1], stops[-1], dtype=torch.bool)
    for own, branch in enumerate(branches):
        for query in places[own]:
            seen[query, [place for segment in branch.path for place in places[segment]]] = True
            seen[query, places[own][0] : query + 1] = True
    return seen


def by_block(branches):
    """The same from the blocks of queries in which a CPU computes them."""
    lengths, ends = attention._layout(branches)
    seen = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    for block in attention._blocks(tuple(lengths), tuple(ends), CPU):
        keys = torch.cat([torch.arange(*stretch) for stretch in block.keys])
        hidden = torch.zeros(block.stop - block.start, len(keys), dtype=torch.bool)
        hidden[:, len(keys) - block.hidden.shape[1] :] = block.hidden
        assert not hidden.all(dim=0).any(), "a key is computed that no query sees"
        seen[block.start : block.stop, keys] = ~hidden
    return seen


def every_pack():
    trees = [*named_cases().values(), *map(random_tree, range(30))]
    return [p for seed, rows in enumerate(trees) for p in pack(rows, random.Random(seed).choice([64, 150, 400, NO_LIMIT]))]


@pytest.mark.parametrize("block_tokens", [7, attention.BLOCK_TOKENS])
def test_the_masks_of_both_devices_are_the_paths_bit_for_bit(monkeypatch, block_tokens):
    monkeypatch.setattr(attention, "BLOCK_TOKENS", block_tokens)
    attention._blocks.cache_clear()
    packs = every_pack()
    assert any(len(branch.path) > 1 for p in packs for branch in p.branches)
    for p in packs:
        assert torch.equal(dense(tree_mask(p.branches, CPU)), paths(p.branches))
        assert torch.equal(by_block(p.branches), paths(p.branches))
    attention._blocks.cache_clear()


@pytest.mark.parametrize("dropout", [0, 0.3])
def test_the_gradient_is_the_derivative_with_dropout_too(monkeypatch, dropout):
    """By finite differences, in float64; blocks of five queries, so that a small tree has several; values narrower than keys."""
    monkeypatch.setattr(attention, "BLOCK_TOKENS", 5)
    attention._blocks.cache_clear()
    layout = attention._layout([Branch(6, ()), Branch(3, (0,)), Branch(2, (0, 1)), Branch(4, (0,)), Branch(5, ())])
    torch.manual_seed(0)
    shapes = [(2, 20 * heads, size) for heads, size in ((2, 3), (1, 3), (1, 2))]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *one: attention.attend(*one, *layout, dropout, 7), given)
    attention._blocks.cache_clear()


@pytest.mark.parametrize("value_dim", [HEAD_DIM, 10])
def test_it_is_the_attention_of_a_dense_mask_in_blocks_of_any_number(value_dim):
    """Keys and values of unlike widths, as MLA has them, too; two roots, and rows longer than a block."""
    branches = [Branch(150, ()), Branch(40, (0,)), Branch(130, (0, 1)), Branch(3, (0, 1)), Branch(60, (0,)), Branch(20, ())]
    torch.manual_seed(0)
    shapes = [(1, HEADS, 403, HEAD_DIM), (1, KEY_HEADS, 403, HEAD_DIM), (1, KEY_HEADS, 403, value_dim)]
    query, key, value = given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    found, _ = tree_attention(SimpleNamespace(training=True), query, key, value, None, branches=branches)
    expected = scaled_dot_product_attention(query, key, value, attn_mask=paths(branches), enable_gqa=True).transpose(1, 2)
    assert (found - expected).abs().max() <= 1e-5
    weights = torch.randn_like(found)
    for one, other in zip(torch.autograd.grad(found, given, weights), torch.autograd.grad(expected, given, weights), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_the_masks_that_are_kept_are_of_a_blocks_last_keys_only():
    """Those of a row of 8,000 tokens would be 33 MB, and four packs' are kept."""
    blocks = attention._blocks((1000,), (1000,), CPU)
    assert [block.hidden.untyped_storage().nbytes() for block in blocks] == [
        (block.stop - block.start) * (block.stop - block.start - 1) for block in blocks
    ]


def test_dropout_drops_in_training_only_and_keeps_the_mean():
    torch.manual_seed(0)
    one = torch.randn(1, 2, 50, HEAD_DIM)
    told = {"branches": [Branch(50, ())], "dropout": 0.5}
    layers = [SimpleNamespace(training=training) for training in (False, True)]
    plain, dropped = (tree_attention(layer, one, one, one, None, **told)[0] for layer in layers)
    assert not torch.allclose(plain, dropped)
    many = torch.stack([tree_attention(layers[1], one, one, one, None, **told)[0] for _ in range(2000)]).mean(dim=0)
    assert (many - plain).abs().max() < 0.2


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


def test_flex_attention_computes_what_attention_by_block_does():
    p = max(every_pack(), key=lambda one: len(one.branches))
    count = p.input_ids.shape[1]
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, count, HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    layer = SimpleNamespace(training=False)
    found, _ = tree_attention(layer, query, key, value, None, branches=p.branches)
    flex = flex_attention(query, key, value, block_mask=tree_mask(p.branches, CPU), enable_gqa=True)
    assert (flex.transpose(1, 2) - found).abs().max() <= 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward on a CPU")
@pytest.mark.parametrize("implementation", [FLEX, BY_BLOCK])
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
    assert network.config._attn_implementation == BY_BLOCK
    assert "train: no FlexAttention: " in (tmp_path / "events.jsonl").read_text()


def test_under_autocast_values_come_in_bf16_and_are_attended_to_in_fp32():
    """Queries and keys come in float32: transformers' rotation multiplies them with its own."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    value = value.bfloat16()
    layer, told = SimpleNamespace(training=True), {"branches": [Branch(5, ()), Branch(4, (0,))]}
    exact, _ = tree_attention(layer, query, key, value.float(), None, **told)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = tree_attention(layer, query, key, value, None, **told)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 0.02 * exact.abs().max()


def test_a_model_that_drops_attention_weights_is_trained_without_flex_attention(tiny_model, tmp_path, monkeypatch):
    """transformers' FlexAttention has no dropout, and says so at the first step of training. A config may have a text part."""
    network = build(tiny_model, decide(TrainConfig(precision="fp32"), 1))
    monkeypatch.setattr(type(network.config), "get_text_config", lambda _: SimpleNamespace(attention_dropout=0.1))
    assert not _attends_by_flex(tiny_model, network, exact=True)
    assert network.config._attn_implementation == BY_BLOCK
    assert "train: no FlexAttention: " in (tmp_path / "events.jsonl").read_text()


def test_training_on_a_cpu_attends_by_block(trained, tiny_model):
    notes = [event["message"] for event in trained("full").events if event["kind"] == "note"]
    assert "train: attention block by block, along each row's path" in notes
