"""The exported folder against the trained model: it must predict the same tokens, and carry the same template."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import DynamicCache, PreTrainedModel

from calltune import models, runtime
from calltune.render import Template, common_prefix
from components.export.merge import merged

ROWS = 32
MIN_AGREEMENT = 0.99
"""Share of the supervised positions at which both must predict the same token."""


class ExportError(Exception):
    """The exported folder is not the model that was trained."""


@torch.inference_mode()
def verify(folder: Path, base: Path, adapter: Path, dataset: Path, template: Template) -> float:
    """Compare, teacher-forced, on up to 32 rows; returns the share of supervised positions that agree.

    Raises:
        ExportError: fewer than 99 % agree, or the template in the folder is another one.
    """
    if models.tokenizer(folder).chat_template != template.text:
        raise ExportError(f"{folder}: the chat template is not the one that training used")
    table = pq.read_table(dataset / "validation.parquet")
    if not table.num_rows:
        table = pq.read_table(dataset / "train.parquet")
    rows = table.slice(0, ROWS).to_pylist()
    # One after the other, so that only one model is in memory.
    written = _predictions(models.load(folder, dtype=torch.float32), rows)
    trained = _predictions(merged(base, adapter, "dequantized"), rows)
    agreement = float((written == trained).float().mean())
    runtime.note(f"export: top-1 agreement with the trained model {agreement:.4f} on {len(rows)} rows")
    if agreement < MIN_AGREEMENT:
        raise ExportError(f"only {agreement:.1%} of the exported model's predictions are the trained model's; 99 % are required")
    return agreement


def _predictions(network: PreTrainedModel, rows: Sequence[dict[str, list[int]]]) -> torch.Tensor:
    """The most likely token at each position that predicts a supervised one, all rows in turn; shape ``(positions,)``."""
    shared = min(common_prefix(rows[0]["input_ids"], row["input_ids"][: row["loss_mask"].index(True) - 1]) for row in rows)
    cache = DynamicCache(config=network.config)
    if shared:
        network(input_ids=torch.tensor([rows[0]["input_ids"][:shared]]), past_key_values=cache, logits_to_keep=1)
    predicted = []
    for row in runtime.tracked(rows, "verify", len(rows)):
        rest = row["input_ids"][shared:]
        positions = torch.tensor([i - 1 - shared for i, supervised in enumerate(row["loss_mask"]) if supervised])
        logits = network(input_ids=torch.tensor([rest]), past_key_values=cache, logits_to_keep=positions).logits[0]
        predicted.append(logits.argmax(dim=-1))
        cache.crop(-len(rest))  # back to the shared prefix
    return torch.cat(predicted)
