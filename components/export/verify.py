"""The exported folder against what was trained: it must predict the same tokens, and carry the same template."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import DynamicCache, PreTrainedModel

from calltune import models, runtime
from calltune.errors import UserError
from calltune.render import Template, common_prefix
from components.export.reference import as_trained

ROWS = 32
POSITIONS = 1024
"""Most supervised positions to compare: the trained model's logits are held in memory, 0.2 GiB of a vocabulary of 49k."""
TIE = 0.1
"""Logits nearer than this are as good as equal: rounding weights to bfloat16 moves the gap between the best two by less at
99 of 100 positions (SmolLM2-135M behind adapters of three sizes, 269 positions), and 3 to 4 % of the gaps are smaller."""


@dataclass(frozen=True)
class Agreement:
    """How near the exported model is to the trained one, over supervised positions.

    Attributes:
        top1: share of the positions at which it predicts the trained model's token, or one that the trained model
            holds for as good as equal (a logit less than :data:`TIE` lower).
        kl: mean Kullback-Leibler divergence of its prediction from the trained model's, in nats per position.
        positions: how many were compared.
    """

    top1: float
    kl: float
    positions: int


@dataclass(frozen=True)
class Limits:
    """What is still the same model: `top1` at least, `kl` at most."""

    top1: float
    kl: float


SAME = Limits(top1=0.99, kl=0.005)
"""Rounding to bfloat16 alone costs 1e-4 nats (as above); an adapter at half its scale, from 5e-3 on."""
NEAR = Limits(top1=0.5, kl=0.5)
"""For an adapter of `qlora` on the original weights: without the error of NF4 that it was trained with, which for SmolLM2-135M
is worth 0.25 to 0.3 nats and a fifth of the predictions; a larger model loses less."""


class ExportError(UserError):
    """The exported folder is not the model that was trained; exported again, it would be the same."""


@torch.inference_mode()
def verify(folder: Path, base: Path, adapter: Path, dataset: Path, template: Template, merge_into: str) -> Agreement:
    """Compare, teacher-forced, on up to 32 rows.

    For `full` both sides come from the file that train wrote, in bfloat16: it shows that what was exported loads and answers
    as that, and not that rounding to bfloat16 has cost nothing.

    Args:
        folder: the exported model.
        base: folder of the base model.
        adapter: what train wrote.
        dataset: what format wrote; its validation rows, or where there are none its training rows, are compared on.
        template: that training used.
        merge_into: the setting that the folder was merged with.

    Raises:
        ExportError: the two are further apart than rounding explains, or the template in the folder is another one.
    """
    if models.tokenizer(folder).chat_template != template.text:
        raise ExportError(f"{folder}: the chat template is not the one that training used")
    table = pq.read_table(dataset / "validation.parquet")
    if not table.num_rows:
        table = pq.read_table(dataset / "train.parquet")
    rows = table.slice(0, ROWS).to_pylist()
    # One after the other, so that only one model is in memory.
    trained = list(_logits(as_trained(base, adapter), rows))
    agreement = compare(trained, _logits(models.load(folder, dtype=torch.float32), rows))
    said = (
        f"at {agreement.positions} supervised positions the exported model predicts what the trained one does at "
        f"{agreement.top1:.2%}, with a mean KL divergence of {agreement.kl:.1e} nats"
    )
    runtime.note(f"export: {said}")
    method = runtime.read_json(adapter / "method.json")["method"]
    moved = merge_into == "original" and method == "qlora"
    limits = NEAR if moved else SAME
    # Written so that a NaN is refused.
    if not (agreement.top1 >= limits.top1 and agreement.kl <= limits.kl):
        advice = "; export.merge_into: dequantized is what was trained" if moved else ""
        dtype = runtime.read_json(folder / "config.json")["dtype"]
        if not moved and method != "full" and dtype != "float32":
            # A few steps move weights by less than their rounding.
            advice = f"; a merge in {dtype} loses what has hardly moved, and export.dtype: float32 keeps it"
        raise ExportError(f"{said}; {limits.top1:.0%} and at most {limits.kl:g} nats are required{advice}")
    return agreement


def compare(trained: Sequence[torch.Tensor], exported: Iterator[torch.Tensor]) -> Agreement:
    """Compare two models' logits, each a tensor of shape ``(positions, vocabulary)`` for each row."""
    same, divergence, positions = 0, 0.0, 0
    for expected, found in zip(trained, exported, strict=True):
        best = expected.max(dim=-1).values
        chosen = expected.gather(1, found.argmax(dim=-1, keepdim=True)).squeeze(1)
        same += int((chosen > best - TIE).sum())
        # In float64, because a sum over a whole vocabulary in float32 is as coarse as what is measured.
        one, two = (torch.log_softmax(logits.double(), dim=-1) for logits in (expected, found))
        divergence += float((one.exp() * (one - two)).sum())
        positions += len(best)
    return Agreement(same / positions, divergence / positions, positions)


def _logits(network: PreTrainedModel, rows: Sequence[dict[str, Any]]) -> Iterator[torch.Tensor]:
    """For each row the logits at the positions that predict a supervised token, ``(positions, vocabulary)``, on the CPU."""
    shared = min(common_prefix(rows[0]["input_ids"], row["input_ids"][: row["loss_mask"].index(True) - 1]) for row in rows)
    cache = DynamicCache(config=network.config)
    if shared:
        network(input_ids=_batch(rows[0]["input_ids"][:shared], network), past_key_values=cache, logits_to_keep=1)
    total = sum(sum(row["loss_mask"]) for row in rows)
    # Of long answers positions from the first to near the last: every row has its say.
    most = POSITIONS if total <= POSITIONS else POSITIONS // len(rows)
    for row in runtime.tracked(rows, "verify", len(rows)):
        rest = row["input_ids"][shared:]
        every = [i - 1 - shared for i, supervised in enumerate(row["loss_mask"]) if supervised]
        count = min(most, len(every))
        positions = [every[number * len(every) // count] for number in range(count)]
        keep = torch.tensor(positions, device=network.device)
        yield network(input_ids=_batch(rest, network), past_key_values=cache, logits_to_keep=keep).logits[0].float().cpu()
        cache.crop(-len(rest))  # back to the shared prefix


def _batch(ids: Sequence[int], network: PreTrainedModel) -> torch.Tensor:
    return torch.tensor([ids], device=network.device)
