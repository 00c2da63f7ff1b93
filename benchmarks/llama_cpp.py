"""A GGUF file in llama.cpp itself beside the exported folder in transformers: prompts, tokens, answers and probabilities.

Exports SmolLM2-135M with a template, untrained, as a run would write it, and converts it. llama.cpp's own server, which the
package `xllamacpp` brings as a wheel, loads each file. Asked are questions of the helpdesk example with its tools:

- the prompt that llama.cpp's Jinja renders from the file's template, against that of training, byte for byte;
- the tokens that llama.cpp makes of it, against training's;
- the greedy answer's tokens, against those of transformers in float32 from the folder;
- at each of these tokens, as long as both have written the same before it, the log probabilities of llama.cpp's ten likeliest,
  against transformers' in float32.

Also a random Llama with Llama 3's scaled positions and tokens, and a random Qwen3, in f16: their tokens and log probabilities.

    pip install xllamacpp==2026.10.11549
    nice -n 19 python -m benchmarks.llama_cpp --questions 10 --json llama_cpp.json
"""

import argparse
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

NEW_TOKENS = 32
LIKELIEST = 10
HELPDESK = Path("examples/helpdesk")


@contextmanager
def serving(file: Path) -> Iterator[Any]:
    """llama.cpp's server with the file; yields a function from a path and a body to its answer."""
    import xllamacpp  # not among this project's requirements: 100 MiB, and nothing but this needs it

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.port, settings.use_jinja = 2048, 1, 0, True
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.warmup, settings.verbosity = False, 0
    server = xllamacpp.Server(settings)

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return dict(json.loads(answer.read()))

    yield ask


def exported(out: Path, template: str) -> Path:
    """The bundled model as export leaves it, but for the training."""
    from calltune import models
    from calltune.render import Renderer, template_of
    from calltune.settings import ModelConfig
    from components.export.step import _finish

    base = models.fetch(ModelConfig(base="bundled:smollm2-135m")).path
    shutil.copytree(base, out)
    for path in out.iterdir():
        path.chmod(0o644)
    tokenizer = models.tokenizer(base)
    _finish(base, Renderer(tokenizer, template_of(template)), "bfloat16", out)
    tokenizer.save_pretrained(out)
    return out


def compare(folder: Path, file: Path, questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask both; returns how many prompts, token lists and answers are equal, and the largest difference of log probabilities."""
    from calltune import models
    from calltune.render import token_ids

    tokenizer, network = models.tokenizer(folder), models.load(folder, dtype=torch.float32).eval()
    found = {"questions": len(questions), "prompts": 0, "tokens": 0, "answers": 0, "answer_tokens": 0, "largest": 0.0}
    with serving(file) as ask:
        for question in questions:
            messages, tools = question["messages"], question["tools"]
            told = ask("/apply-template", {"messages": messages, "tools": tools})["prompt"]
            text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
            # The server leaves a begin token out, which it puts before what it is sent.
            found["prompts"] += told in (text, text.removeprefix(tokenizer.bos_token or ""))
            ids = token_ids(tokenizer, messages, tools, add_generation_prompt=True)
            theirs = ask("/tokenize", {"content": told, "add_special": True, "parse_special": True})["tokens"]
            found["tokens"] += theirs == ids
            answer, (ours, logits) = greedy(ask, ids), greedily(network, folder, ids)
            found["answers"] += answer["tokens"] == ours
            found["answer_tokens"] += len(answer["tokens"])
            found["largest"] = max(found["largest"], apart(answer, ours, logits))
    return found


def greedy(ask: Any, ids: list[int]) -> dict[str, Any]:
    """llama.cpp's greedy answer: its tokens without the stop token; at each position the one written, and the likeliest."""
    body = {"prompt": ids, "n_predict": NEW_TOKENS, "temperature": 0, "n_probs": LIKELIEST, "return_tokens": True}
    answer = ask("/completion", {**body, "samplers": ["temperature"]})
    return {
        "tokens": answer["tokens"],
        "likeliest": [(one["id"], one["top_logprobs"]) for one in answer["completion_probabilities"]],
    }


KNOWN: dict[tuple[Path, tuple[int, ...]], tuple[list[int], torch.Tensor]] = {}
"""Answers of transformers, which are asked for once, whatever llama.cpp has loaded."""


def greedily(network: Any, folder: Path, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    """The greedy answer of transformers, without the stop token, and its logits, ``(positions, vocabulary)``."""
    from calltune import models

    key = (folder, tuple(ids))
    if key not in KNOWN:
        prompt = torch.tensor([ids])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        made = network.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        stops = models.stop_ids(folder)
        answer = [token for token in made.sequences[0, len(ids) :].tolist() if token not in stops]
        KNOWN[key] = answer, torch.cat(made.logits)
    return KNOWN[key]


def apart(answer: dict[str, Any], ours: list[int], logits: torch.Tensor) -> float:
    """Largest difference of a log probability, over the positions with the same tokens before them on both sides."""
    same = next((i for i, (one, two) in enumerate(zip(answer["tokens"], ours, strict=False)) if one != two), len(ours))
    rows = torch.log_softmax(logits[: same + 1].double(), dim=-1)
    there = zip(rows, answer["tokens"], answer["likeliest"], strict=False)
    # The server leaves out positions that end within a letter of several bytes; what comes after them has moved up.
    aligned = takewhile(lambda place: place[1] == place[2][0], there)
    return max(abs(float(row[one["id"]]) - one["logprob"]) for row, _, (_, likeliest) in aligned for one in likeliest)


def random_network(kind: str, out: Path) -> Path:
    """A random small model of another family, with a tokenizer that cuts text as that family's does."""
    from benchmarks.small_models import llama, model_folder, qwen3, tokenizer_of

    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "max_position_embeddings": 4096}
    if kind == "qwen3":
        return model_folder(out, qwen3(**shape, head_dim=64), tokenizer_of("qwen2"))
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    return model_folder(out, llama(**shape, rope_parameters=rope, tie_word_embeddings=False), tokenizer_of("llama-bpe", bos=True))


def told(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Print a row as soon as it is there; returns it."""
    n = row["questions"]
    print(
        f"{name:<20} prompts {row['prompts']}/{n}, tokens {row['tokens']}/{n}, answers {row['answers']}/{n} "
        f"({row['answer_tokens']} tokens), log probabilities within {row['largest']:.4f}",
        flush=True,
    )
    return row


def main() -> None:
    """Convert, ask, print, and write."""
    from calltune import tools
    from calltune.records import read_jsonl
    from components.export import gguf_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--template", default="hermes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("CALLTUNE_EVENTS", os.devnull)
    schemas = tools.load(str(HELPDESK / "tools.py"))
    rows = list(read_jsonl(HELPDESK / "questions.jsonl"))[: arguments.questions]
    questions = [{"messages": row["messages"][:1], "tools": schemas} for row in rows]
    short = [{**question, "tools": schemas[:1]} for question in questions]  # of a tokenizer of bytes they are long enough
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = exported(Path(place) / "smollm2", arguments.template)
        for kind in ("f16", "q8_0"):
            file = Path(place) / f"{kind}.gguf"
            gguf_model.write(folder, kind, file)
            results[f"SmolLM2-135M, {kind}"] = told(f"SmolLM2-135M, {kind}", compare(folder, file, questions))
            file.unlink()
        for name in ("llama3", "qwen3"):
            other = random_network(name, Path(place) / name)
            gguf_model.write(other, "f16", Path(place) / f"{name}.gguf")
            row = compare(other, Path(place) / f"{name}.gguf", short[:3])
            results[f"random {name}, f16"] = told(f"random {name}, f16", row)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
