"""Whether training on packs is exact: random prefix trees, packed and row by row, with every method.

For each tree the logits that predict supervised tokens, and the gradient of every trained weight, of the packs beside those
of the rows one by one with plain causal attention; a random model of two layers, in fp32, without dropout. Prints the worst
of each; with --json FILE writes {"lora, logits": {"ours": largest difference, "theirs": limit, "ratio": ours / theirs,
"unit": "…", "n": trees}}, and ends with 1 where a limit is passed.

    python -m benchmarks.exactness --trees 200 --json exactness.json
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from components.train.attention import BY_BLOCK, arguments
from components.train.config import TrainConfig
from components.train.method import adapter_config, build, decide
from components.train.packing import Branch, Row, pack

METHODS = ("full", "lora", "qlora")
LIMIT = 1e-4
"""Of the largest difference of two logits, and of the norm of the gradients' difference beside the gradient's."""
VOCABULARY = 1000


def tokens(count: int, dice: random.Random) -> list[int]:
    """Random token ids."""
    return [dice.randrange(10, VOCABULARY) for _ in range(count)]


def row(prompt: list[int], answer: list[int], *later: list[int]) -> Row:
    """A row that is supervised on `answer`, and on every second of the `later` turns."""
    ids, mask = [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
    for number, turn in enumerate(later):
        ids += turn
        mask += [number % 2 == 1] * len(turn)
    return Row(ids, mask)


def random_tree(seed: int) -> list[Row]:
    """Rows as a tool-calling set has them: a system message, some shared further text, questions, answers.

    Among 200 of them are single rows, rows that share nothing, several turns, the same row twice, one prompt with two answers.
    """
    dice = random.Random(seed)
    systems = [tokens(dice.choice([0, 5, 33, 60]), dice) for _ in range(dice.randint(1, 2))]
    middles = [tokens(dice.choice([0, 3, 32, 40]), dice) for _ in range(dice.randint(1, 3))]
    rows = []
    for _ in range(dice.randint(1, 7)):
        prompt = dice.choice(systems) + dice.choice(middles) + tokens(dice.randint(1, 12), dice)
        later = [tokens(dice.randint(1, 6), dice) for _ in range(2 * dice.randint(0, 1))]
        made = row(prompt, tokens(dice.randint(1, 9), dice), *later)
        rows += [made] * dice.choice([1, 1, 1, 2])
        if dice.random() < 0.3:  # the same prompt, another answer
            rows.append(row(prompt, tokens(dice.randint(1, 9), dice)))
    dice.shuffle(rows)
    return rows


def tiny_model(folder: Path) -> Path:
    """A random Llama of two layers; wide first weights make attention sharp, so that a wrong mask or position shows."""
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def trained(folder: Path, method: str) -> torch.nn.Module:
    """The model as the method trains it, its adapter with random weights instead of none."""
    from peft import get_peft_model

    config = TrainConfig(method=method, precision="fp32")
    chosen = decide(config, 1)
    network: torch.nn.Module = build(folder, chosen)
    if method != "full":
        network = get_peft_model(network, adapter_config(chosen, config))
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return network.train()  # bitsandbytes repacks 4-bit weights for evaluation


def compare(network: torch.nn.Module, rows: Sequence[Row], max_tokens: int) -> tuple[float, float]:
    """The largest difference of two logits, and the norm of the gradients' difference as a share of the gradient's."""
    supervised = sum(sum(r.loss_mask[1:]) for r in rows)
    network.set_attn_implementation("sdpa")
    network.zero_grad()
    alone = {}
    for r in rows:
        at = [place for place in range(len(r.input_ids) - 1) if r.loss_mask[place + 1]]
        logits = network(input_ids=torch.tensor([r.input_ids]), use_cache=False).logits[0, at]
        (cross_entropy(logits, torch.tensor(r.input_ids)[[place + 1 for place in at]], reduction="sum") / supervised).backward()
        for place, one in zip(at, logits.detach(), strict=True):
            alone[tuple(r.input_ids[: place + 1])] = one
    expected = _gradient(network)
    network.set_attn_implementation(BY_BLOCK)
    network.zero_grad()
    apart = []
    for p in pack(rows, max_tokens):
        told = arguments(network, p.branches)
        ids, positions = {"input_ids": p.input_ids, "position_ids": p.position_ids}, p.label_positions
        logits = network(**ids, **told, logits_to_keep=positions, use_cache=False).logits[0]
        (cross_entropy(logits, p.labels, reduction="sum") / supervised).backward()
        for place, one in zip(positions.tolist(), logits.detach(), strict=True):
            apart.append((one - alone[_path(p.branches, p.input_ids[0], place)]).abs().max())
    assert len(apart) == supervised, "a supervised token was lost or doubled"
    # Not Python's max, which passes over a NaN.
    return float(torch.stack(apart).max()), float((_gradient(network) - expected).norm() / expected.norm())


def _gradient(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def _path(branches: Sequence[Branch], ids: torch.Tensor, place: int) -> tuple[int, ...]:
    """The tokens that a place in a pack stands behind, its own the last: what it has in its row alone."""
    parts = ids.split([branch.length for branch in branches])
    before = 0
    for branch, part in zip(branches, parts, strict=True):
        if place < before + branch.length:
            above = [token for index in branch.path for token in parts[index].tolist()]
            return (*above, *part[: place - before + 1].tolist())
        before += branch.length
    raise IndexError(place)


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = tiny_model(Path(place))
        for method in METHODS:
            network = trained(folder, method)
            found = [
                compare(network, random_tree(seed), random.Random(seed).choice([64, 150, 400, 100_000]))
                for seed in range(asked.trees)
            ]
            worst = torch.tensor(found).max(dim=0).values.tolist()
            for name, unit, value in zip(
                ("logits", "gradient"), ("largest difference", "relative norm of the difference"), worst, strict=True
            ):
                ratio = value / LIMIT
                results[f"{method}, {name}"] = {"ours": value, "theirs": LIMIT, "ratio": ratio, "unit": unit, "n": asked.trees}
                print(f"{method:<6} {name:<9} {value:.1e}, {unit} in {asked.trees} trees; at most {LIMIT:g}")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not all(row["ratio"] <= 1 for row in results.values()):  # a NaN is not
        raise SystemExit(1)


if __name__ == "__main__":
    main()
