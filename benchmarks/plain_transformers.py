"""Does the exported folder answer the same without Calltune? Plain transformers in a fresh process, against a run.

Loads the run's exported model in float32 with nothing of Calltune importable, renders each question with the folder's
own chat template, generates greedily, and compares the calls with those in the run's predictions. Prints a line, and
with --json FILE writes {"same calls": {"ours": same, "theirs": asked, "ratio": share, "unit": "questions", "n": 1}}.

    python -m benchmarks.plain_transformers --workdir runs/helpdesk --questions 20
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from calltune.parse import PARSERS
from calltune.records import prompt_of, read_jsonl

PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, asked = sys.argv[1:]
assert not any(name.split(".")[0] in ("calltune", "components", "pipelines") for name in sys.modules)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
for row in json.load(open(asked)):
    text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], add_generation_prompt=True, tokenize=False)
    assert all(tool["function"]["name"] in text for tool in row["tools"]), "the template does not show the tools"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=160)[0, ids["input_ids"].shape[1]:]
    print(json.dumps(tokenizer.decode(out, skip_special_tokens=True)), flush=True)
"""


def main() -> None:
    """Ask, compare, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/helpdesk"))
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = (arguments.workdir / "model").resolve()
    # Of the last run's steps, which a cached one took over from an earlier run: the newest of each is the one.
    test = max(arguments.workdir.glob("kfp/*/format*/dataset/test.jsonl"), key=lambda path: path.stat().st_mtime)
    records = {record["id"]: record for record in read_jsonl(test)}
    found = (path for path in arguments.workdir.glob("kfp/*/evaluate*/predictions") if path.stat().st_size)
    answers = {path: list(read_jsonl(path)) for path in found if _is_of(path, folder.name)}
    predictions = next(iter(answers.values()))[: arguments.questions]
    asked = [{"messages": prompt_of(records[row["id"]]), "tools": records[row["id"]]["tools"]} for row in predictions]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        # -I: no PYTHONPATH, no user site, not this folder.
        command = [sys.executable, "-I", "-c", PLAIN, str(folder), file.name]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    syntax = json.loads((folder / "calltune.json").read_text())["syntax"]
    same = sum(
        list(PARSERS[syntax](json.loads(line)).calls) == row["calls"] for line, row in zip(lines, predictions, strict=True)
    )
    files = sorted(path.suffix for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pkl"))
    print(f"{same} of {len(predictions)} questions: the same calls; weight files: {', '.join(files)}")
    if arguments.json:
        result = {"ours": same, "theirs": len(predictions), "ratio": same / len(predictions), "unit": "questions", "n": 1}
        arguments.json.write_text(json.dumps({"same calls": result}, indent=1) + "\n", encoding="utf-8")


def _is_of(predictions: Path, digest: str) -> bool:
    metrics = json.loads((predictions.parent / "metrics").read_text())
    return bool(metrics.get("model_digest") == digest)


if __name__ == "__main__":
    main()
