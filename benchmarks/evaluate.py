"""Evaluation's speed beside plain transformers': (a) one `generate` per question, as public recipes do; (b) in padded batches.

The same exported model, questions, prompts, float32, greedy, and at most 128 new tokens. Each contender runs in a process of
its own, and they take turns; the clock runs from the questions to the texts of the answers, not while the model is loaded.
All must give the same calls: else the benchmark names the questions and ends with exit code 1. Prints a table, and with
--json FILE writes
{"one by one": {"ours": questions/s, "theirs": questions/s, "ratio": ours / theirs, "unit": "questions/s", "n": rounds}, ...}.

    python -m benchmarks.evaluate --workdir runs/helpdesk --questions 60 --rounds 3 --json evaluate.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NEW_TOKENS = 128
BATCH_ROWS = 16
"""Rows of a padded batch."""
CONTENDERS = ("ours", "one by one", "batched")


def ours(folder: Path, prompts: Callable[[], list[list[int]]], stop_ids: Sequence[int]) -> tuple[float, list[list[int]]]:
    """Calltune's own engine; returns the seconds and each question's new tokens."""
    from components.evaluate.engines import hf

    network = hf.load(folder)
    started = time.perf_counter()
    asked = prompts()
    written: list[list[int]] = [[] for _ in asked]
    for answer in hf.answers(network, asked, stop_ids, NEW_TOKENS):
        written[answer.row] = answer.ids
    return time.perf_counter() - started, written


def plain(folder: Path, prompts: Callable[[], list[list[int]]], rows: int) -> tuple[float, list[list[int]]]:
    """transformers' `generate`, `rows` questions at a time, padded on the left; returns the same."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    asked = prompts()
    written: list[list[int]] = []
    for start in range(0, len(asked), rows):
        batch = asked[start : start + rows]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch], device=network.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch], device=network.device)
        out = network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
        written += out[:, longest:].tolist()
    return time.perf_counter() - started, written


def contend(contender: str, folder: Path, test: Path, questions: int) -> dict[str, Any]:
    """Answer the questions in this process; returns `seconds` and the `calls` of each answer, by id."""
    from calltune import models
    from calltune.parse import PARSERS
    from calltune.records import prompt_of, read_jsonl
    from calltune.render import answer_text, prompt_ids
    from components.evaluate.served import of_folder

    records = list(read_jsonl(test))[:questions]
    served = of_folder(models.ModelFolder(folder), {})

    def prompts() -> list[list[int]]:
        return [prompt_ids(served.tokenizer, prompt_of(record), record["tools"]) for record in records]

    if contender == "ours":
        seconds, written = ours(folder, prompts, served.stop_ids)
    else:
        seconds, written = plain(folder, prompts, 1 if contender == "one by one" else BATCH_ROWS)
    calls = {}
    for record, ids in zip(records, written, strict=True):
        # What a padded batch writes after a row's own end is padding.
        end = next((place + 1 for place, token in enumerate(ids) if token in served.stop_ids), len(ids))
        parsed = PARSERS[served.syntax](answer_text(served.tokenizer, ids[:end], served.stop_ids))
        calls[record["id"]] = "malformed" if parsed.malformed else list(parsed.calls)
    return {"seconds": seconds, "calls": calls}


def main() -> int:
    """Measure, compare, print, and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/helpdesk"), help="of a run: its model and its test questions")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contend", nargs=3, metavar=("CONTENDER", "MODEL", "TEST"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contender, model, test = arguments.contend
        print(json.dumps(contend(contender, Path(model), Path(test), arguments.questions)))
        return 0
    folder = (arguments.workdir / "model").resolve()
    # Of the last run's steps, which a cached one took over from an earlier run: the newest of each is the one.
    tests = sorted(arguments.workdir.glob("kfp/*/format*/dataset/test.jsonl"), key=lambda path: path.stat().st_mtime)
    if not tests or not folder.is_dir():
        print(f"--workdir {arguments.workdir}: no run has ended there: `calltune run` leaves a model and its test questions")
        return 2
    found: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
    for turn in range(arguments.rounds):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.evaluate", "--contend", contender, str(folder), str(tests[-1])]
            command += ["--questions", str(arguments.questions)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[contender].append(json.loads(out.splitlines()[-1]))
            print(f"round {turn + 1}, {contender}: {found[contender][-1]['seconds']:.1f} s", flush=True)
    asked = len(found["ours"][0]["calls"])
    rate = {name: statistics.median(asked / run["seconds"] for run in runs) for name, runs in found.items()}
    results, different = {}, set()
    print(f"{asked} questions   questions/s   ours is")
    for name in CONTENDERS:
        print(f"{name:<12} {rate[name]:>12.2f}   {rate['ours'] / rate[name]:>6.2f} x")
        first = found["ours"][0]["calls"]
        different |= {id_ for run in found[name] for id_, calls in run["calls"].items() if calls != first[id_]}
        if name != "ours":
            pair = {"ours": rate["ours"], "theirs": rate[name], "ratio": rate["ours"] / rate[name]}
            results[name] = {**pair, "unit": "questions/s", "n": arguments.rounds}
    print(f"the same calls: {asked - len(different)} of {asked}" + "".join(f"\n  not for {id_}" for id_ in sorted(different)))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
