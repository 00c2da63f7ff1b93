"""Several processes that train together come to what one comes to; the first reports, and none outlives another."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calltune.errors import DataError
from components.train import ranks


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch):
    """Gloo looks for the machine's address by its name, which a container may not know."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def sums(numbers, gradients):
    """Run by each rank: what it has of five rows, and what they all have together."""
    model = torch.nn.Linear(2, 1, bias=False)
    if gradients[torch.distributed.get_rank()] is not None:
        model.weight.grad = torch.tensor([gradients[torch.distributed.get_rank()]])
    ranks.add_up_gradients(model)
    mine = ranks.part(numbers)
    total = torch.tensor(float(sum(mine)))
    ranks.add_up([total])
    told = ranks.from_first(lambda: f"rank {torch.distributed.get_rank()}")
    return list(mine), total.item(), model.weight.grad.tolist(), told, ranks.count(), ranks.is_first()


def fail(folder, rank, how):
    """Run by each rank: one fails, the others wait for it."""
    (Path(folder) / str(os.getpid())).touch()
    if torch.distributed.get_rank() == rank:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("rows.parquet: no rows")
    time.sleep(600)


def test_ranks_share_the_rows_and_add_up_what_they_have():
    mine, total, gradient, told, count, first = ranks.run(2, sums, ([1, 2, 3, 4, 5], [[1.0, 2.0], None]))
    assert (mine, total, gradient, told, count, first) == ([1, 2], 15.0, [[1.0, 2.0]], "rank 0", 2, True)


@pytest.mark.parametrize(
    ("how", "error", "said"), [("raises", DataError, "no rows"), ("killed", RuntimeError, "process 1 .*killed")]
)
def test_all_ranks_end_with_the_first_that_fails(tmp_path, how, error, said):
    with pytest.raises(error, match=said):
        ranks.run(2, fail, (str(tmp_path), 1, how))
    begun = [int(path.name) for path in tmp_path.iterdir()]
    assert begun
    assert not [pid for pid in begun if Path(f"/proc/{pid}").exists()]


def test_two_processes_come_to_the_losses_and_weights_of_one(dataset, tiny, tmp_path, monkeypatch):
    # Not above: each rank of the tests before imports this file, and the step takes long to import.
    from components.train.config import TrainConfig
    from components.train.step import train

    config = TrainConfig(method="full", learning_rate=2e-3, epochs=1, batch_rows=8, precision="fp32", checkpoint_minutes=1e-9)
    results = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        # A checkpoint of the one must not be taken up by the other.
        monkeypatch.setenv("CALLTUNE_STORAGE", str(out / "store"))
        results[processes] = train(dataset, tiny, config, out / "adapter", out / "out", processes=processes)
    one, two = ((tmp_path / name / "out" / "loss.csv").read_text().splitlines() for name in "12")
    assert len(one) == len(two) > 2
    for alone, together in zip(one[1:], two[1:], strict=True):
        for loss, same in zip(alone.split(","), together.split(","), strict=True):
            assert loss == same == "" or float(same) == pytest.approx(float(loss), abs=1e-5)
    assert results[2].supervised_tokens == results[1].supervised_tokens
    weights, same = (load_file(tmp_path / name / "adapter" / "model.safetensors") for name in "12")
    for name, tensor in weights.items():  # in bf16: a sum in another order may round the other way
        assert (tensor.float() - same[name].float()).norm() <= 1e-3 * tensor.float().norm(), name
    assert not list((tmp_path / "2" / "out").glob(".*checkpoints"))
