"""Is a training that was killed twenty times the training that was not? Kills it at random moments, and compares the bits.

Trains a random two-layer Llama with SmolLM2's tokenizer, a checkpoint at every step into a real S3 server (12 MiB files, so
that uploads have parts), once undisturbed and once with SIGKILL at random moments after training began, each time started
again. Prints what each kill hit and where the next try went on. Exits with 1 if a weight or a loss differs, or the training
ended before as many kills. With --json FILE it writes
{"kills": {"ours": kills survived, "theirs": kills asked for, "ratio": 1.0, "unit": "kills", "n": 1}}.

    python -m benchmarks.kills --json kills.json
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calltune import models
from calltune.settings import ModelConfig
from pipelines.embedded import s3_server

SETTINGS = {"method": "full", "learning_rate": 1e-3, "epochs": 8, "batch_rows": 4, "precision": "fp32", "schedule": "cosine"}
ROWS = {"train": 32, "validation": 8}
CHILD = """
import json, sys
from pathlib import Path
from calltune.settings import ModelConfig
from components.train.config import TrainConfig
from components.train.step import train
model, rows, out, settings = sys.argv[1:]
train(Path(rows), ModelConfig(base=model), TrainConfig(**json.loads(settings)), Path(out) / "adapter", Path(out))
"""


def make_model(folder: Path) -> None:
    """Write a random model of 3 M parameters with the real tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config = LlamaConfig(**sizes, vocab_size=49152, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    models.tokenizer(models.fetch(ModelConfig(base="bundled:smollm2-135m")).path).save_pretrained(folder)


def make_rows(model: Path, folder: Path) -> None:
    """Write random questions with an answer each, as format does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokenizer, dice = models.tokenizer(model), random.Random(0)
    folder.mkdir()
    for name, count in ROWS.items():
        table = []
        for number in range(count):
            tool = dice.choice(("search", "ticket", "calendar"))
            question = tokenizer(f"Question {dice.randrange(10_000)} about the {tool}?")["input_ids"]
            answer = tokenizer(f'<tool_call>{{"name": "{tool}"}}</tool_call><|im_end|>')["input_ids"]
            mask = [False] * len(question) + [True] * len(answer)
            table.append({"id": f"{name}-{number}", "input_ids": question + answer, "loss_mask": mask})
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")


class Attempt:
    """One process that trains."""

    def __init__(self, root: Path, out: Path, store: str, minutes: float) -> None:
        self.out = out
        out.mkdir(exist_ok=True)
        self.events = out / "events.jsonl"
        self.events.write_text("")
        settings = json.dumps({**SETTINGS, "checkpoint_minutes": minutes})
        command = [sys.executable, "-c", CHILD, str(root / "model"), str(root / "rows"), str(out), settings]
        environment = os.environ | {"CALLTUNE_STORAGE": store, "CALLTUNE_EVENTS": str(self.events)}
        with (out / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def said(self) -> Iterator[dict[str, Any]]:
        """The events so far; the last line may be half of one."""
        for line in self.events.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return

    def training(self) -> bool:
        """Wait until the first step is done or the process has ended; whether it goes on."""
        while self.process.poll() is None:
            if any(event["kind"] == "progress" and event["done"] for event in self.said()):
                return True
            time.sleep(0.02)
        return False

    def doing(self) -> str:
        """What of a checkpoint was on its way when the process was killed."""
        places = {path.name[:5] for path in (self.out / ".checkpoints").glob("*step-*")}
        written = "writing a checkpoint" if ".step" in places else ""
        uploading = "uploading one" if "step-" in places else ""
        return ", ".join(filter(None, (written, uploading))) or "between checkpoints"


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description="Kill a training at random moments, and compare what it comes to.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--within", type=float, default=2.0, help="seconds after the first step, at most")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "s3") as environment:
        os.environ.update(environment)
        root, store = Path(folder), environment["CALLTUNE_STORAGE"]
        make_model(root / "model")
        make_rows(root / "model", root / "rows")
        whole = Attempt(root, root / "whole", f"{store}/whole", minutes=1000)
        if whole.process.wait() != 0:
            raise SystemExit((root / "whole" / "log").read_text())
        kills = 0
        while True:
            attempt = Attempt(root, root / "killed", f"{store}/killed", minutes=1e-9)
            alive = attempt.training()
            if alive and kills < given.kills:
                time.sleep(dice.uniform(0, given.within))
                attempt.process.kill()
            code = attempt.process.wait()
            events = list(attempt.said())
            notes = [event["message"] for event in events if event["kind"] == "note"]
            for note in notes:
                if "goes on from" in note or "passed over" in note:
                    print(f"      {note}")
            if code == 0:
                break
            if code != -9:
                raise SystemExit((root / "killed" / "log").read_text()[-2000:])
            kills += 1
            step = max((event["done"] for event in events if event["kind"] == "progress"), default=0)
            print(f"kill {kills:2} at step {step:2}, {attempt.doing()}")
        return _verdict(root, kills, given)


def _verdict(root: Path, kills: int, given: argparse.Namespace) -> int:
    files = ("adapter/model.safetensors", "loss.csv")
    equal = all((root / "whole" / file).read_bytes() == (root / "killed" / file).read_bytes() for file in files)
    survived = kills if equal else 0
    print(f"{kills} kills: weights and losses are {'the same, bit for bit' if equal else 'NOT the same'}")
    if kills < given.kills:
        print(f"the training ended before {given.kills} kills: --within {given.within / 2:g} would leave room for more")
    if given.json:
        row = {"ours": survived, "theirs": given.kills, "ratio": survived / given.kills, "unit": "kills", "n": 1}
        given.json.write_text(json.dumps({"kills": row}, indent=1) + "\n")
    return 0 if survived >= given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
