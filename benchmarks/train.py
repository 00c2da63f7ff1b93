"""Training speed beside plain TRL's: (a) rows one by one, padded, as public recipes do; (b) with TRL's own best packing.

The same model, rows, arithmetic, optimiser and effective batch of 16 rows. Each contender runs in a process of its own, and
they take turns. Prints supervised tokens per second, peak memory and the first losses, and with --json FILE writes
{"helpdesk, padded": {"ours": tokens/s, "theirs": tokens/s, "ratio": ours / theirs, "unit": "supervised tokens/s", "n": rounds}}.

    python -m benchmarks.train --rounds 3 --json train.json
    python -m benchmarks.train --name "long tool list" --list-tokens 1000
    python -m benchmarks.train --name seal-tools --source ../shared/data/seal_tools/train.jsonl
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from calltune import models, onednn, runtime, tools
from calltune.records import Tool
from calltune.settings import ModelConfig
from components.format.config import FormatConfig, SplitConfig
from components.format.step import format_rows
from components.ingest.config import IngestConfig
from components.ingest.step import ingest
from components.train import account
from components.train.collator import Collator
from components.train.config import TrainConfig
from components.train.memory import checkpointing, keep_freed_memory
from components.train.method import Method, adapter_config, build, decide
from components.train.step import PACK_TOKENS
from components.train.trainer import TreeTrainer

MODEL = ModelConfig(base="bundled:smollm2-135m")
EXAMPLES = Path("examples/helpdesk")
BATCH_ROWS = 16
ROW_TOKENS = 2048
"""The longest row, and what TRL packs to."""
MICRO_ROWS = 4
"""Rows that TRL's padded contender computes at once: 16 would take 12 GiB for their logits alone."""
CONTENDERS = ("ours", "padded", "packed")


class Clock(TrainerCallback):
    """Seconds of each optimiser step, the work that a GPU still has of it included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.started = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds.append(_now() - self.started)


def _now() -> float:
    if torch.cuda.is_available():  # TRL's trainer hands a step's backward pass and its optimiser over, and goes on
        torch.cuda.synchronize()
    return time.perf_counter()


class PlainTrainer(SFTTrainer):
    """TRL's trainer, which counts what it learns from."""

    tokens = 0
    supervised = 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """TRL's own step. A sequence's first label predicts nothing; no prompt's first token is supervised."""
        self.tokens += inputs["input_ids"].numel()
        self.supervised += int((inputs["labels"] != -100).sum())
        return super().training_step(model, inputs, num_items_in_batch)


def prepare(source: str, list_tokens: int, folder: Path) -> Path:
    """Ingest and format a source; returns the folder with `train.parquet`."""
    given = [] if source != str(EXAMPLES / "questions.jsonl") else tools.load(EXAMPLES / "tools.py")
    if list_tokens:
        given = lengthened(given, list_tokens)
    (folder / "tools.json").write_text(json.dumps(given), encoding="utf-8")
    ingest(IngestConfig(source=source, tools=str(folder / "tools.json") if given else "", max_quarantined=1), folder / "records")
    split = SplitConfig(test=0.1, validation=0)
    format_rows(
        folder / "records", MODEL, FormatConfig(max_tokens=ROW_TOKENS, max_quarantined=1, split=split), folder / "dataset"
    )
    return folder / "dataset"


def lengthened(given: list[Tool], tokens: int) -> list[Tool]:
    """The tools, and so many copies of them under other names that the list has `tokens` tokens."""
    tokenizer = models.tokenizer(models.fetch(MODEL).path)
    more = list(given)
    while len(tokenizer(json.dumps(more))["input_ids"]) < tokens:
        tool = json.loads(json.dumps(given[len(more) % len(given)]))
        tool["function"]["name"] += f"_{len(more)}"
        more.append(tool)
    return more


def contend(contender: str, folder: Path, method: str, dataset: Path, steps: int) -> dict[str, Any]:
    """Train for `steps` optimiser steps after one to warm up.

    Args:
        contender: one of `CONTENDERS`.
        folder: of the base model.
        method: what is trained: full, lora or qlora.
        dataset: folder with `train.parquet`.
        steps: that are timed.

    Returns:
        `rate` in supervised tokens per second; `rows_rate` in all tokens of the rows, those that they share counted for each;
        `mfu` of what was computed (components/train/account.py); `peak_mib` of the process, `peak_gpu_mib`; the steps' `losses`.
    """
    if contender == "ours":  # before the first product, as the step does
        keep_freed_memory()
        onednn.prefer()
    config = TrainConfig(method=method)  # type: ignore[arg-type]
    decided = decide(config, models.parameter_count(folder))
    device_rate = account.matmul_rate(account.device(), decided.bf16)
    rows = Dataset(pq.read_table(dataset / "train.parquet", columns=["id", "input_ids", "loss_mask"]))
    clock = Clock()
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps + 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "bf16": decided.bf16,
        "activation_checkpointing": True,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    trainer: TreeTrainer | PlainTrainer
    if contender == "ours":
        own = SFTConfig(
            **common,
            activation_checkpointing_kwargs=checkpointing(account.device()),
            per_device_train_batch_size=BATCH_ROWS,
            max_length=None,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = TreeTrainer(
            model=build(folder, decided), args=own, train_dataset=rows,
            data_collator=Collator(PACK_TOKENS[account.device().type]), processing_class=models.tokenizer(folder),
            peft_config=adapter_config(decided, config), callbacks=[clock],
        )  # fmt: skip
    else:
        packed = contender == "packed"
        longest = max(map(len, rows["input_ids"]))
        length = ROW_TOKENS if packed else longest
        # As many rows a step as the others: TRL's packs hold a fixed number of tokens.
        mean = sum(map(len, rows["input_ids"])) / len(rows)
        micro = 1 if packed else MICRO_ROWS
        accumulate = round(BATCH_ROWS * mean / length) if packed else BATCH_ROWS // MICRO_ROWS
        plain = SFTConfig(
            **common,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(1, accumulate),
            max_length=length,
            packing=packed,
        )
        labelled = rows.map(_labels, remove_columns=["id", "loss_mask"])
        trainer = PlainTrainer(
            model=_plain(folder, decided), args=plain, train_dataset=labelled, processing_class=models.tokenizer(folder),
            peft_config=adapter_config(decided, config), callbacks=[clock],
        )  # fmt: skip
    trainer.train()
    timed, seconds = steps / (steps + 1), sum(clock.seconds[1:])
    row_tokens = sum(map(len, rows["input_ids"])) / len(rows) * BATCH_ROWS * steps
    used = account.flops(trainer.model, round(trainer.tokens * timed), round(trainer.supervised * timed))
    return {
        "rate": trainer.supervised * timed / seconds,
        "rows_rate": row_tokens / seconds,
        "mfu": used / seconds / device_rate,
        "peak_mib": runtime.peak_rss_mib(),
        "peak_gpu_mib": torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None,
        "losses": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
    }


def _plain(folder: Path, decided: Method) -> PreTrainedModel:
    """The base model as transformers has it, with its own attention."""
    if decided.name == "qlora":
        return models.load_nf4(folder, torch.bfloat16 if decided.bf16 else torch.float32)
    return models.load(folder, dtype=torch.float32)


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    return {"labels": [token if learnt else -100 for token, learnt in zip(row["input_ids"], row["loss_mask"], strict=True)]}


def take_turns(name: str, base: Path, method: str, dataset: Path, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Have the contenders train one after the other, `rounds` times, each in a process of its own; print what they reach.

    Args:
        name: of the data, in what is printed and returned.
        base: folder of the base model.
        method: what is trained.
        dataset: folder with `train.parquet`.
        rounds: of all contenders.
        steps: that are timed in each.

    Returns:
        For each of TRL's ways the medians of its supervised tokens per second and of ours, their ratio, unit, and rounds.
    """
    found: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
    for turn in range(rounds):
        for contender in CONTENDERS:
            given = [contender, str(base), method, str(dataset), str(steps)]
            program = f"import sys, benchmarks.train as train; train.print_contender(*{given!r})"
            out = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout
            found[contender].append(json.loads(out.splitlines()[-1]))
            print(f"{name}, round {turn + 1}, {contender}: {found[contender][-1]}", flush=True)
    rate = {contender: statistics.median(run["rate"] for run in runs) for contender, runs in found.items()}
    results = {}
    for theirs in CONTENDERS[1:]:
        ratio = rate["ours"] / rate[theirs]
        print(f"{name}, {theirs}: {rate['ours']:.1f} beside {rate[theirs]:.1f} supervised tokens/s: {ratio:.2f} times")
        results[f"{name}, {theirs}"] = {
            "ours": rate["ours"],
            "theirs": rate[theirs],
            "ratio": ratio,
            "unit": "supervised tokens/s",
            "n": rounds,
        }
    return results


def print_contender(contender: str, base: str, method: str, dataset: str, steps: str) -> None:
    """What :func:`contend` returns, as a line of JSON: for a process of its own."""
    print(json.dumps(contend(contender, Path(base), method, Path(dataset), int(steps))))


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="helpdesk")
    parser.add_argument("--source", default=str(EXAMPLES / "questions.jsonl"))
    parser.add_argument("--list-tokens", type=int, default=0, help="make the tool list this long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CALLTUNE_STORAGE"] = f"{folder}/store"
        dataset = prepare(arguments.source, arguments.list_tokens, Path(folder))
        base = models.fetch(MODEL).path
        results = take_turns(arguments.name, base, "full", dataset, arguments.rounds, arguments.steps)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
