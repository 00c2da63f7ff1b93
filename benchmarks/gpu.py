"""QLoRA at the size that matters: a random model of Llama 3 8B's shape, rows of 2,048 tokens, beside plain TRL's training.

With a tool list that all rows share, and without: rows that share nothing show the training itself, the others the tree packing.
The weights are random, because speed and memory depend on their shape only. `benchmarks/gpu.sh` runs it with the GPU's tests.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --miniature     # the same on a CPU, with a tiny model and short rows, to try the program itself
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from benchmarks.train import BATCH_ROWS, ROW_TOKENS, take_turns

LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""As in its config.json: https://huggingface.co/meta-llama/Meta-Llama-3-8B"""
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
}
WORDS = 49_000
"""Tokens that rows are made of: both models have them."""
SHARED = 7 / 8
"""Part of a row that is the system message and the tool list: of 2,048 tokens 1,792."""
ANSWER_TOKENS = 48


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """A model of that shape with random weights in bfloat16, made where there is a GPU on it.

    Beside it a tokenizer of two tokens: trainers ask for one, and rows are ids already. SmolLM2's would bring its 94 MB along.
    """
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = LlamaConfig(**shape, max_position_embeddings=8192, tie_word_embeddings=False, dtype="bfloat16")
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(folder)
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    return folder


def make_rows(folder: Path, row_tokens: int, shared_tokens: int, rows: int) -> Path:
    """A folder with `train.parquet`: rows that begin with the same `shared_tokens` random tokens, and end with an answer."""
    dice = random.Random(0)

    def some(count: int) -> list[int]:
        return [dice.randrange(100, WORDS) for _ in range(count)]

    beginning = some(shared_tokens)
    mask = [False] * (row_tokens - ANSWER_TOKENS) + [True] * ANSWER_TOKENS
    made = [
        {"id": f"row {number}", "input_ids": beginning + some(row_tokens - shared_tokens), "loss_mask": mask}
        for number in range(rows)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(made), folder / "train.parquet")
    return folder


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--miniature", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.miniature and not torch.cuda.is_available():
        parser.error("no CUDA device: --miniature tries the program on a CPU")
    shape, row_tokens = (TINY, ROW_TOKENS // 8) if arguments.miniature else (LLAMA_3_8B, ROW_TOKENS)
    rows = BATCH_ROWS * (arguments.steps + 1)
    results: dict[str, Any] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, in miniature"}
    with tempfile.TemporaryDirectory() as place:
        base = make_model(Path(place) / "base", shape)
        for name, shared in (("nothing shared", 0), ("a shared tool list", round(SHARED * row_tokens))):
            dataset = make_rows(Path(place) / name.replace(" ", "-"), row_tokens, shared, rows)
            results |= take_turns(name, base, "qlora", dataset, arguments.rounds, arguments.steps)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
