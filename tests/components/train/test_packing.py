"""Prefix-tree packing is exact: the loss and the gradient of the packs are those of the rows, each alone."""

import random
from collections import Counter

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.exactness import random_tree, row, tokens
from calltune import models
from components.train.attention import BY_BLOCK, arguments
from components.train.collator import Collator
from components.train.packing import MIN_SHARED_TOKENS, pack, tree, tree_tokens

NO_LIMIT = 100_000


@pytest.fixture(scope="module")
def networks(tiny_model):
    """The tiny model in fp32 twice: as transformers has it, and with tree attention."""
    return [models.load(tiny_model, dtype=torch.float32, attn_implementation=name).eval() for name in ("sdpa", BY_BLOCK)]


def named_cases():
    dice = random.Random(99)
    system, other, more = tokens(60, dice), tokens(50, dice), tokens(35, dice)
    prompt = system + tokens(8, dice)
    turns = [tokens(5, dice), tokens(4, dice), tokens(40, dice), tokens(3, dice)]
    first = tokens(6, dice)
    return {
        "one row": [row(prompt, tokens(6, dice))],
        "shared prefix": [row(system + tokens(7, dice), tokens(5, dice)) for _ in range(4)],
        "one prompt, several answers": [row(prompt, tokens(n, dice)) for n in (1, 6, 9)],
        "one prompt, answers that begin alike": [row(prompt, [*first, *tokens(n, dice)]) for n in (0, 1, 5)],
        "the same row three times": [row(prompt, tokens(6, random.Random(1))) for _ in range(3)],
        "nothing shared": [row(tokens(n, dice), tokens(4, dice)) for n in (5, 40, 70)],
        "nested sharing": [row(system + m + tokens(5, dice), tokens(5, dice)) for m in (more, more, other, other, [])],
        "a prompt that is another's beginning": [row(system, tokens(4, dice)), row(system + more, tokens(4, dice))],
        "several turns": [row(prompt, first, *turns), row(prompt, first, *turns[:2]), row(prompt, first, *reversed(turns))],
        "supervised from the first token on": [row([], tokens(40, dice)), row([], tokens(3, dice))],
        "longer than the model's usual row": [row(system + tokens(9, dice), tokens(300, dice)), row(prompt, first)],
    }


def alone(network, rows):
    """Loss and gradients of the rows one by one, with a plain causal mask; and each row's logits that predict."""
    network.zero_grad()
    supervised = sum(sum(r.loss_mask[1:]) for r in rows)
    total, logits = 0.0, []
    for r in rows:
        positions = [i for i in range(len(r.input_ids) - 1) if r.loss_mask[i + 1]]
        out = network(input_ids=torch.tensor([r.input_ids])).logits[0, positions]
        loss = cross_entropy(out, torch.tensor(r.input_ids)[[p + 1 for p in positions]], reduction="sum") / supervised
        loss.backward()
        total += loss.item()
        logits.append(out.detach())
    return total, gradients(network), logits


def packed(network, packs):
    network.zero_grad()
    supervised = sum(p.labels.numel() for p in packs)
    total, logits = 0.0, []
    for p in packs:
        out = network(
            input_ids=p.input_ids.to(network.device),
            position_ids=p.position_ids.to(network.device),
            **arguments(network, p.branches),
            logits_to_keep=p.label_positions.to(network.device),
            use_cache=False,
        ).logits[0]
        loss = cross_entropy(out, p.labels.to(network.device), reduction="sum") / supervised
        loss.backward()
        total += loss.item()
        logits.append(out.detach())
    return total, gradients(network), torch.cat(logits)


def gradients(network):
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def rows_of(packs):
    """The rows as a reader of the packs would put them together again: for each branch without another below it."""
    found = []
    for p in packs:
        starts, position = [], 0
        for branch in p.branches:
            starts.append(position)
            position += branch.length
        assert position == p.input_ids.shape[1] == p.position_ids.shape[1]
        inner = {index for branch in p.branches for index in branch.path}
        for index, branch in enumerate(p.branches):
            if index in inner:
                continue
            places = [i for part in (*branch.path, index) for i in range(starts[part], starts[part] + p.branches[part].length)]
            assert p.position_ids[0, places].tolist() == list(range(len(places)))
            ids = p.input_ids[0, places].tolist()
            labels = {
                places.index(at): label
                for at, label in zip(p.label_positions.tolist(), p.labels.tolist(), strict=True)
                if at in places
            }
            assert all(ids[at + 1] == label for at, label in labels.items())
            found.append((tuple(ids), tuple(sorted(labels))))
    return found


def as_found(r):
    return tuple(r.input_ids), tuple(i for i in range(len(r.input_ids) - 1) if r.loss_mask[i + 1])


def check_exact(networks, rows, max_tokens):
    plain, treelike = networks
    packs = pack(rows, max_tokens)
    assert Counter(rows_of(packs)) == Counter(map(as_found, rows)), "a row was cut, lost or doubled"
    longest = max(len(r.input_ids) for r in rows)
    assert all(p.input_ids.shape[1] <= max(max_tokens, longest) for p in packs)
    order = sorted(rows, key=lambda r: r.input_ids)
    if len(packs) > 1:  # first fit may put a later row into an earlier pack
        order = [next(r for r in rows if as_found(r) == found) for found in rows_of(packs)]
    loss, gradient, logits = alone(plain, order)
    packed_loss, packed_gradient, packed_logits = packed(treelike, packs)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert (packed_logits - torch.cat(logits)).abs().max() <= 1e-4
    assert (packed_gradient - gradient).norm() <= 1e-4 * gradient.norm()
    return packs


@pytest.mark.parametrize("name", named_cases())
def test_packed_loss_and_gradient_are_those_of_the_rows_alone(networks, name):
    check_exact(networks, named_cases()[name], NO_LIMIT)


@pytest.mark.parametrize("seed", range(20))
def test_random_trees_are_exact_in_packs_of_any_size(networks, seed):
    rows = random_tree(seed)
    check_exact(networks, rows, random.Random(seed).choice([64, 150, 400, NO_LIMIT]))


def test_a_wrong_position_or_a_wrong_branch_would_be_seen(networks):
    """The measure itself: what the tests above compare moves far beyond their tolerance when a pack is wrong."""
    rows = named_cases()["shared prefix"]
    _, gradient, _ = alone(networks[0], sorted(rows, key=lambda r: r.input_ids))
    (good,) = pack(rows, NO_LIMIT)
    moved = good.position_ids.clone()
    moved[0, -12:] += 5
    shifted = [type(good)(good.input_ids, moved, good.branches, good.label_positions, good.labels)]
    _, wrong, _ = packed(networks[1], shifted)
    assert (wrong - gradient).norm() > 1e-2 * gradient.norm()


def test_shared_prefixes_are_computed_once():
    rows = named_cases()["shared prefix"]
    (one,) = pack(rows, NO_LIMIT)
    assert one.input_ids.shape[1] == 60 + sum(len(r.input_ids) - 60 for r in rows)
    assert [branch.path for branch in one.branches] == [(), (0,), (0,), (0,), (0,)]


def test_nested_sharing_makes_branches_of_branches():
    (one,) = pack(named_cases()["nested sharing"], NO_LIMIT)
    assert max(len(branch.path) for branch in one.branches) == 2


@pytest.mark.parametrize("seed", range(50))
def test_what_is_shared_ends_before_the_token_that_predicts_the_first_supervised_one(seed):
    rows = sorted(random_tree(seed), key=lambda r: r.input_ids)
    segments = tree(rows)
    below = {index: [] for index, segment in enumerate(segments) if segment.shared}
    for leaf in segments:
        above = None if leaf.shared else leaf.parent
        while above is not None:
            below[above].append(rows[leaf.row])
            above = segments[above].parent
    for index, sharing in below.items():
        assert len(sharing) > 1
        assert all(segments[index].end <= r.loss_mask.index(True) - 1 for r in sharing)
        assert segments[index].end - segments[index].start >= MIN_SHARED_TOKENS


def test_a_prefix_too_short_to_be_worth_a_segment_is_not_shared():
    dice = random.Random(0)
    short = tokens(MIN_SHARED_TOKENS - 1, dice)
    rows = [row(short + tokens(5, dice), tokens(3, dice)) for _ in range(3)]
    assert tree_tokens(sorted(rows, key=lambda r: r.input_ids)) == sum(len(r.input_ids) for r in rows)


def test_a_row_longer_than_a_pack_is_a_pack_of_its_own_and_whole():
    dice = random.Random(0)
    rows = [row(tokens(200, dice), tokens(10, dice)), row(tokens(20, dice), tokens(10, dice))]
    packs = pack(rows, 100)
    assert sorted(p.input_ids.shape[1] for p in packs) == [30, 210]
    assert Counter(rows_of(packs)) == Counter(map(as_found, rows))


def test_the_collator_keeps_every_row_of_the_batch():
    rows = random_tree(3)
    batch = Collator(150)([{"id": "a", "input_ids": r.input_ids, "loss_mask": r.loss_mask} for r in rows])
    assert sum(p["labels"].numel() for p in batch["packs"]) == sum(sum(r.loss_mask[1:]) for r in rows)
