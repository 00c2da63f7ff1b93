"""Packs are exact with every method: three trees here, 200 by `python -m benchmarks.exactness`."""

import pytest
import torch

from benchmarks import exactness
from components.train.packing import Pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with torch.random.fork_rng():
        return exactness.tiny_model(tmp_path_factory.mktemp("exactness"))


@pytest.mark.parametrize("method", ["lora", "qlora"])  # `full` is in tests/components/train/test_packing.py
def test_logits_and_gradients_are_those_of_the_rows_alone(folder, method):
    network = exactness.trained(folder, method)
    for seed in range(3):
        logits, gradient = exactness.compare(network, exactness.random_tree(seed), 150)
        assert logits <= exactness.LIMIT and gradient <= exactness.LIMIT


def test_a_wrong_position_is_far_outside_of_the_limit(folder, monkeypatch):
    def shifted(rows, max_tokens, real=exactness.pack):
        for p in real(rows, max_tokens):
            moved = p.position_ids.clone()
            moved[0, -8:] += 5
            yield Pack(p.input_ids, moved, p.branches, p.label_positions, p.labels)

    monkeypatch.setattr(exactness, "pack", shifted)
    logits, gradient = exactness.compare(exactness.trained(folder, "lora"), exactness.random_tree(3), 150)
    assert logits > 10 * exactness.LIMIT and gradient > 10 * exactness.LIMIT


@pytest.mark.parametrize("places", [0, 1])
def test_a_difference_that_is_no_number_fails(monkeypatch, capsys, places):
    found = iter([[1e-6, 1e-6], [torch.nan, torch.nan], [1e-6, 1e-6]] * len(exactness.METHODS))
    monkeypatch.setattr(exactness, "compare", lambda *_: tuple(1e-6 if i != places else x for i, x in enumerate(next(found))))
    monkeypatch.setattr(exactness, "trained", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["exactness", "--trees", "3"])
    with pytest.raises(SystemExit) as ended:
        exactness.main()
    assert ended.value.code == 1 and "nan" in capsys.readouterr().out


def test_logits_that_are_no_numbers_are_no_small_difference(folder):
    network = exactness.trained(folder, "full")
    with torch.no_grad():
        network.get_output_embeddings().weight[3] = torch.nan
    assert not exactness.compare(network, exactness.random_tree(0), 150)[0] <= exactness.LIMIT


def test_the_trees_are_of_every_kind():
    trees = [exactness.random_tree(seed) for seed in range(200)]
    assert any(len(rows) == 1 for rows in trees)
    assert any(len({tuple(r.input_ids[:32]) for r in rows}) == len(rows) > 2 for rows in trees), "nothing shared"
    assert any(len(rows) > len({tuple(r.input_ids) for r in rows}) for rows in trees), "the same row twice"
    turns = [[*zip(r.loss_mask, r.loss_mask[1:], strict=False)].count((False, True)) for rows in trees for r in rows]
    assert max(turns) == 2, "several turns"
