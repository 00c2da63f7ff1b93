"""A few rows to train on, which need no ingest and no format, and what one process makes of them."""

import random
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from calltune import models
from components.train.config import TrainConfig

SETTINGS = dict(method="full", learning_rate=2e-3, epochs=2, batch_rows=4, precision="fp32")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="session")
def rows(tokenizer_folder, tmp_path_factory):
    """Folder of 12 rows to train on and 5 for validation, as format writes them, with the real tokenizer."""
    folder, tokenizer, dice = tmp_path_factory.mktemp("rows"), models.tokenizer(tokenizer_folder), random.Random(0)
    shared = tokenizer("You can call these tools: " + "search the knowledge base, create a ticket; " * 4)["input_ids"]
    for name, count in (("train", 12), ("validation", 5)):
        table = []
        for number in range(count):
            tool = dice.choice(("search", "ticket"))
            question = tokenizer(f"Question {dice.randrange(1000)} about the {tool}?")["input_ids"]
            answer = tokenizer(f'<tool_call>{{"name": "{tool}"}}</tool_call><|im_end|>')["input_ids"]
            mask = [False] * len(shared + question) + [True] * len(answer)
            table.append({"id": f"{name}-{number}", "input_ids": shared + question + answer, "loss_mask": mask})
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    return folder


def same(one, other):
    """The losses agree to rounding, and the weights, rounded to bf16, all but a few."""
    alone, together = ((folder / "loss.csv").read_text().splitlines()[1:] for folder in (one, other))
    assert len(alone) == len(together) > 2
    for line, again in zip(alone, together, strict=True):
        for loss, there in zip(line.split(","), again.split(","), strict=True):
            assert loss == there == "" or float(there) == pytest.approx(float(loss), abs=1e-5)
    weights, found = (load_file(folder / "adapter" / "model.safetensors") for folder in (one, other))
    for name, tensor in weights.items():
        assert (tensor.float() - found[name].float()).norm() <= 1e-3 * tensor.float().norm(), name


@pytest.fixture(scope="session")
def alone(rows, tiny, tmp_path_factory):
    """Folder of what one process comes to."""
    from components.train.step import train

    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_STORAGE", str(out / "store"))
        train(rows, tiny, TrainConfig(**SETTINGS), out / "adapter", out, "code")
    return out
