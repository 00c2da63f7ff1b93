"""What is trained: the whole model, or an adapter on it; and what `auto` means for a base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from calltune import models
from components.train.attention import NAME as TREE_ATTENTION
from components.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALL_PARAMETERS = 1_000_000_000
"""Below this a model is trained whole: it fits, and a 135 M model learns a new output format better so (docs/tuning.md)."""


@dataclass(frozen=True)
class Method:
    """The decided method.

    Attributes:
        name: full, lora or qlora.
        learning_rate: peak learning rate.
        bf16: whether the arithmetic is in bfloat16.
        reason: one sentence for the log and the report.
    """

    name: str
    learning_rate: float
    bf16: bool
    reason: str


def decide(config: TrainConfig, parameters: int) -> Method:
    """Fill in what the config leaves to `auto`.

    Args:
        config: the step's settings.
        parameters: how many the base model has.
    """
    small = parameters < SMALL_PARAMETERS
    name = ("full" if small else "qlora") if config.method == "auto" else config.method
    if config.learning_rate != "auto":
        rate = config.learning_rate
    elif name == "full":
        rate = 1e-4 if small else 1e-5
    else:
        rate = 1e-3 if small else 2e-4
    bf16 = _computes_in_bf16() if config.precision == "auto" else config.precision == "bf16"
    reason = (
        f"{name} at learning rate {rate:g} in {'bf16' if bf16 else 'fp32'} arithmetic"
        f" ({parameters / 1e6:.0f} M parameters, {'GPU' if torch.cuda.is_available() else 'CPU'})"
    )
    return Method(name, rate, bf16, reason)


def build(folder: Path, method: Method) -> "PreTrainedModel":
    """The base model, quantised for `qlora`, with tree attention."""
    if method.name != "qlora":
        return models.load(folder, dtype=torch.float32, attn_implementation=TREE_ATTENTION)
    compute_dtype = torch.bfloat16 if method.bf16 else torch.float32
    return models.load_nf4(folder, compute_dtype, attn_implementation=TREE_ATTENTION)


def adapter_config(method: Method, config: TrainConfig) -> object | None:
    """The LoRA settings for PEFT, or None where the whole model is trained."""
    if method.name == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _computes_in_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # Without AVX512-BF16 or AMX the CPU emulates bf16, slower than fp32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
