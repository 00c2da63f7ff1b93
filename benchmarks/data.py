"""Ingest and format beside the plain recipe, on N rows like xLAM's: seconds and peak memory.

The rows are made by this script from real ones (`--seeds`: files with the columns `query`, `tools` and `answers`, such as
xLAM's own or Seal-Tools'): the tools in another order, the words around the arguments exchanged for others. Two in a
hundred cannot be used, three repeat an earlier row, two nearly. The plain recipe is `datasets.map` with `json.loads`, the chat
template and the tokenizer for each row, and a random split: no validation, no duplicates, no loss mask, no contamination.

Each part runs in a process of its own, imports included. Ours has a helper for each further CPU (`taskset` gives it fewer); CPU
seconds and memory are of all of them together, memory as if each had its peak at the same time. Prints a table, and with
--json FILE writes {"time": {"ours": s, "theirs": s, "ratio": ours / theirs, "unit": "s", "n": 1}, "cpu": ..., "memory": ...}.

    python -m benchmarks.data --seeds train.jsonl --rows 60000 --json data.json
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BASE = "bundled:smollm2-135m"
MAX_TOKENS = 4096
WORDS_CHANGED = 0.5
"""Share of a question's words that are exchanged, so that two rows from one real row are two questions."""


def made(seeds: list[dict[str, Any]], rows: int, seed: int = 0) -> Iterator[str]:
    """The lines of a data set: rows as xLAM has them."""
    draw = random.Random(seed)
    vocabulary = sorted({word for row in seeds for word in row["query"].split()})
    for number in range(rows):
        kind = draw.random()
        # A repeat is of a row that any reader of the file has met: it depends on nothing but its number and the seed.
        of = draw.randrange(number) if number and kind < 0.05 else number
        row = _varied(seeds[of % len(seeds)], random.Random(f"{seed} {of}"), vocabulary)
        if kind < 0.02:
            row["query"] += "!"
        elif kind > 0.99:
            row["answers"] = row["answers"].replace('"name": "', '"name": "no_', 1)
        line = json.dumps({"id": f"made-{number}", **row})
        yield line[:-20] if 0.98 < kind < 0.99 else line


def _varied(row: dict[str, Any], draw: random.Random, vocabulary: list[str]) -> dict[str, Any]:
    answers = json.loads(row["answers"])
    kept = {word for call in answers for value in call["arguments"].values() for word in str(value).lower().split()}
    words = [
        word if word.strip(".,?!'\"").lower() in kept or draw.random() > WORDS_CHANGED else draw.choice(vocabulary)
        for word in row["query"].split()
    ]
    tools = json.loads(row["tools"])
    draw.shuffle(tools)
    return {"query": " ".join(words), "tools": json.dumps(tools), "answers": row["answers"]}


def case(name: str, folder: Path) -> None:
    """Run one part in this process, and print what it took."""
    started = time.monotonic()
    found = {"ingest": _ingest, "format": _format, "plain": _plain}[name](folder)
    seconds = time.monotonic() - started
    from calltune.processes import cpus

    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(use.ru_utime + use.ru_stime for use in (own, children))
    peak = (own.ru_maxrss + (cpus() - 1) * children.ru_maxrss) // 1024
    print(json.dumps({"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mib": peak, **found}))


def _ingest(folder: Path) -> dict[str, Any]:
    from components.ingest.config import IngestConfig
    from components.ingest.step import ingest

    return vars(ingest(IngestConfig(source=str(folder / "rows.jsonl"), max_quarantined=0.2), folder / "records"))


def _format(folder: Path) -> dict[str, Any]:
    from calltune.settings import ModelConfig
    from components.format.config import FormatConfig
    from components.format.step import format_rows

    config = FormatConfig(template="hermes", max_tokens=MAX_TOKENS, max_quarantined=0.2, split={"mode": "exact"})
    return vars(format_rows(folder / "records", ModelConfig(base=BASE), config, folder / "dataset"))


def _plain(folder: Path) -> dict[str, Any]:
    import datasets

    from calltune import models
    from calltune.render import template_of
    from calltune.settings import ModelConfig

    tokenizer = models.tokenizer(models.fetch(ModelConfig(base=BASE)).path)
    template = template_of("hermes").text

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        calls = [{"type": "function", "function": call} for call in json.loads(row["answers"])]
        messages = [{"role": "user", "content": row["query"]}, {"role": "assistant", "tool_calls": calls}]
        tools = [{"type": "function", "function": tool} for tool in json.loads(row["tools"])]
        text = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)
        return {"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}

    # It ends at the first line that is not JSON: those are taken out for it beforehand.
    rows = datasets.load_dataset("json", data_files=str(folder / "plain.jsonl"), split="train", cache_dir=str(folder / "cache"))
    done = rows.map(tokens, remove_columns=rows.column_names).train_test_split(0.33, seed=0)
    done.save_to_disk(str(folder / "plain"))
    return {"rows": len(rows)}


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Run one part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", "--case", name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _unpack() -> None:
    """The bundled model, once on each machine: it takes a gigabyte, and is no part of what is measured."""
    from calltune import models  # not above: what the parts import counts
    from calltune.settings import ModelConfig

    models.fetch(ModelConfig(base=BASE))


def _write(seeds: list[Path], rows: int, folder: Path) -> None:
    real = [json.loads(line) for path in seeds for line in path.read_text(encoding="utf-8").splitlines()]
    with (folder / "rows.jsonl").open("w") as all_rows, (folder / "plain.jsonl").open("w") as readable:
        for line in made(real, rows):
            all_rows.write(line + "\n")
            if line.endswith("}"):
                readable.write(line + "\n")


def main() -> None:
    """Make the rows, measure, print, and write."""
    if "--case" in sys.argv:
        name, folder = sys.argv[sys.argv.index("--case") + 1 :]
        case(name, Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--without-plain", action="store_true", help="measure ours alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    _unpack()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write(arguments.seeds, arguments.rows, folder)
        size = (folder / "rows.jsonl").stat().st_size / 2**20
        print(f"{arguments.rows:,} rows, {size:,.0f} MiB")
        parts = ("ingest", "format") if arguments.without_plain else ("ingest", "format", "plain")
        found = {name: measured(name, folder) for name in parts}
    for name, row in found.items():
        rest = ", ".join(f"{value} {key}" for key, value in row.items() if isinstance(value, int) and key != "peak_mib")
        print(f"{name:<8} {row['seconds']:>8.1f} s {row['cpu_seconds']:>8.1f} s of CPU {row['peak_mib']:>7} MiB   {rest}")
    ours = {
        "time": found["ingest"]["seconds"] + found["format"]["seconds"],
        "cpu": found["ingest"]["cpu_seconds"] + found["format"]["cpu_seconds"],
        "memory": max(found["ingest"]["peak_mib"], found["format"]["peak_mib"]),
    }
    results: dict[str, dict[str, Any]] = {}
    for title, key, unit in (("time", "seconds", "s"), ("cpu", "cpu_seconds", "s"), ("memory", "peak_mib", "MiB")):
        results[title] = {"ours": ours[title], "unit": unit, "n": 1}
        if "plain" in found:
            results[title] |= {"theirs": found["plain"][key], "ratio": ours[title] / found["plain"][key]}
    print(", ".join(f"{title}: {row['ours']:,.1f} {row['unit']}" for title, row in results.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
