"""Twenty rows to learn from: what the defaults reach on a choice between two tools, beside the base model.

Takes 40 questions of the bundled data that need one of two tools, 20 to learn from and 20 held out, on three seeds;
method and learning rate are `auto`. The two searches, its default, overlap: which is right is the company's policy. An
ordinary pair is `--tools create_ticket find_employee`. Prints a table, and with --json FILE writes
{"seed 0": {"ours": right answers, "theirs": the base model's, "ratio": ours / theirs, "unit": "of 20", "n": 1}, ...}.

Settings are compared with `--choose`, on questions that the figures are not taken from, and without the base model.

    python -m benchmarks.small_data --json small_data.json
    python -m benchmarks.small_data --choose --train '{"epochs": 16}'
"""

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calltune import tools
from calltune.records import Record, expected_calls, write_jsonl
from calltune.settings import ModelConfig
from components.evaluate.config import EvaluateConfig
from components.evaluate.served import base, exported
from components.evaluate.step import evaluate
from components.export.config import ExportConfig
from components.export.step import export
from components.format.config import FormatConfig, SplitConfig
from components.format.step import format_rows
from components.ingest.config import IngestConfig
from components.ingest.step import ingest
from components.train.config import TrainConfig
from components.train.step import train

SEARCHES = ("search_knowledge_base", "search_web")
MODEL = ModelConfig(base="bundled:smollm2-135m")
ROWS, SPLITS = 20, 3
CHOOSING_ROWS = 80
"""Held out of each split where settings are compared: of 20 each, the difference would be chance."""
# Five optimiser steps an epoch, so that eight epochs are the 40 steps below which little is learnt.
TRAIN = {"epochs": 8, "batch_rows": 4}
EXAMPLES = Path("examples/helpdesk")


def drawn(seed: int, names: Sequence[str], rows: Sequence[Record], number: int) -> list[Record]:
    """So many of the rows that need one call, half of them of each tool."""
    chosen: list[Record] = []
    for name in names:
        of_tool = [row for row in rows if [call["name"] for call in expected_calls(row)] == [name]]
        chosen += random.Random(f"{seed} {name}").sample(of_tool, number // 2)
    return chosen


def sample(seed: int, names: Sequence[str], folder: Path, choose: bool) -> Path:
    """Write a split's questions and the two tools; returns the questions' file.

    Args:
        choose: of questions that none of the splits has where it is off.
    """
    with (EXAMPLES / "questions.jsonl").open(encoding="utf-8") as lines:
        rows: list[Record] = [json.loads(line) for line in lines]
    number = 2 * ROWS
    if choose:
        others = [row for split in range(SPLITS) for row in drawn(split, names, rows, number)]
        rows = [row for row in rows if row not in others]
        number = ROWS + CHOOSING_ROWS
    chosen = drawn(seed, names, rows, number)
    both = [tool for tool in tools.load(EXAMPLES / "tools.py") if tool["function"]["name"] in names]
    (folder / "tools.json").write_text(json.dumps(both), encoding="utf-8")
    write_jsonl(folder / "questions.jsonl", chosen)
    return folder / "questions.jsonl"


def measure(seed: int, names: Sequence[str], folder: Path, settings: dict[str, Any], choose: bool) -> dict[str, int]:
    """How many of the held-out questions the tuned model, and the base model but to choose, get the right tool for."""
    source = sample(seed, names, folder, choose)
    ingest(IngestConfig(source=str(source), tools=str(folder / "tools.json")), folder / "records")
    split = SplitConfig(test=CHOOSING_ROWS / (ROWS + CHOOSING_ROWS) if choose else 0.5, validation=0, seed=seed)
    format_rows(folder / "records", MODEL, FormatConfig(split=split), folder / "dataset")
    config = TrainConfig.model_validate({**TRAIN, "seed": seed, **settings})
    train(folder / "dataset", MODEL, config, folder / "adapter", folder / "training")
    made = folder / "model.json"
    export(folder / "adapter", folder / "dataset", MODEL, ExportConfig(), made)
    served = {"tuned": exported(json.loads(made.read_text()), "candidate")}
    if not choose:
        served["base"] = base(MODEL, folder / "dataset")
    right: dict[str, int] = {}
    for name, model in served.items():
        out = folder / name
        test = folder / "dataset" / "test.jsonl"
        result = evaluate(model, test, EvaluateConfig(max_new_tokens=64), out / "metrics.json", out / "answers.jsonl")
        right[name] = sum(result["outcomes"]["tool_accuracy"].values())
    return right


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="of other questions, to compare settings on")
    parser.add_argument("--train", type=json.loads, default={}, metavar="JSON", help="settings of the train step")
    parser.add_argument("--tools", nargs=2, default=SEARCHES, metavar="NAME", help="the two tools (default: the two searches)")
    parser.add_argument("--splits", type=int, default=SPLITS, help=f"the first so many of the {SPLITS} splits (default: all)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    held_out = CHOOSING_ROWS if arguments.choose else ROWS
    results: dict[str, dict[str, Any]] = {}
    for seed in range(arguments.splits):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CALLTUNE_STORAGE"] = f"{folder}/store"
            right = measure(seed, arguments.tools, Path(folder), arguments.train, arguments.choose)
        result: dict[str, Any] = {"ours": right["tuned"], "unit": f"of {held_out}", "n": 1}
        if "base" in right:
            result |= {"theirs": right["base"], "ratio": right["tuned"] / max(right["base"], 1)}
        results[f"seed {seed}"] = result
        print(f"seed {seed}: {', '.join(f'{name} {count}/{held_out}' for name, count in right.items())}", flush=True)
    print(f"mean: tuned {sum(r['ours'] for r in results.values()) / len(results):.1f}/{held_out}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
