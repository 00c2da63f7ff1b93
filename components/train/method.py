"""What is trained: the whole model, or an adapter on it; and what `auto` means for a base model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from calltune import attention, models, runtime
from calltune.errors import ConfigError
from calltune.render import common_prefix
from components.train import account
from components.train.attention import BY_BLOCK, FLEX, arguments
from components.train.config import TrainConfig
from components.train.packing import Row, pack

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
        rate = 3e-4 if small else 2e-4
    bf16 = _computes_in_bf16() if config.precision == "auto" else config.precision == "bf16"
    reason = (
        f"{name} at learning rate {rate:g} in {'bf16' if bf16 else 'fp32'} arithmetic"
        f" ({parameters / 1e6:.0f} M parameters, {'GPU' if torch.cuda.is_available() else 'CPU'})"
    )
    return Method(name, rate, bf16, reason)


def build(folder: Path, method: Method) -> "PreTrainedModel":
    """The base model, quantised for `qlora`, with tree attention.

    Raises:
        ConfigError: a model that tree attention is not right for.
    """
    with attention.suited(folder):
        if method.name == "qlora":
            compute_dtype = torch.bfloat16 if method.bf16 else torch.float32
            model = models.load_nf4(folder, compute_dtype, attn_implementation=BY_BLOCK)
        else:
            # To where it is trained, so that it is tried there: FlexAttention on a CPU says nothing of a GPU's, and needs a C++
            # compiler, which the image does not have.
            model = models.load(folder, dtype=torch.float32, attn_implementation=BY_BLOCK).to(account.device())
    exact = not (method.name == "qlora" and method.bf16)
    if torch.cuda.is_available() and _attends_by_flex(folder, model, exact):
        return model
    attention.require_same(folder, model, _packed, exact)
    runtime.note("train: attention block by block, along each row's path")
    return model


def _attends_by_flex(folder: Path, model: "PreTrainedModel", exact: bool) -> bool:
    """Whether FlexAttention, which compiles a kernel for it, computes the model's attention; otherwise the model is as before."""
    if getattr(model.config.get_text_config(), "attention_dropout", 0):
        runtime.note("train: no FlexAttention: it cannot drop attention weights, as this model's config asks for")
        return False
    try:
        with attention.suited(folder):  # transformers refuses it for some architectures
            model.set_attn_implementation(FLEX)
        attention.require_same(folder, model, _packed, exact)
    except ConfigError as error:
        model.set_attn_implementation(BY_BLOCK)
        runtime.note(f"train: no FlexAttention: {error}")
        return False
    runtime.note("train: attention in one call, FlexAttention")
    return True


def _packed(model: "PreTrainedModel", rows: Sequence[list[int]]) -> torch.Tensor:
    """Logits of the last token of each row, shape ``(rows, vocabulary)``, as training computes them in one pack."""
    # Masks that supervise all that the rows do not share, so that packing shares the rest.
    shared = common_prefix(*rows)
    (packed,) = pack([Row(row, [False] * (shared + 1) + [True] * (len(row) - shared - 1)) for row in rows], sum(map(len, rows)))
    ends = torch.tensor([branch.length for branch in packed.branches]).cumsum(0)[1:] - 1
    # The rows stand in the order of their tokens.
    places = sorted(range(len(rows)), key=lambda index: rows[index])
    logits = model(
        input_ids=packed.input_ids.to(model.device),
        position_ids=packed.position_ids.to(model.device),
        **arguments(model, packed.branches),
        logits_to_keep=ends.to(model.device),
        use_cache=False,
    ).logits[0]
    return logits[[places.index(index) for index in range(len(rows))]]


def adapter_config(method: Method, config: TrainConfig) -> object | None:
    """The LoRA settings for PEFT, or None where the whole model is trained."""
    if method.name == "full":
        return None
    from peft import LoraConfig

    alpha = 2 * config.rank if config.lora_alpha == "auto" else config.lora_alpha
    return LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def require_trained_as_said(network: torch.nn.Module, method: Method) -> int:
    """How many parameters are trained.

    Raises:
        ConfigError: they are not those of the method: all of them, or an adapter's on each linear layer but the output's.
    """
    output = network.get_output_embeddings()  # type: ignore[operator]
    if method.name == "full":
        wrong = [f"{name} is not trained" for name, parameter in network.named_parameters() if not parameter.requires_grad]
    else:
        wrong = [f"{name} is trained" for name, p in network.named_parameters() if p.requires_grad and "lora_" not in name]
        wrong += [
            f"{name} has no adapter"
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear)
            and module is not output
            and not name.endswith("base_layer")
            and "lora_" not in name
        ]
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if wrong or not trained:
        found = f"{wrong[0]}{f', and {len(wrong) - 1} more' if wrong[1:] else ''}" if wrong else "nothing is trained"
        raise ConfigError(f"train.method: {method.name} does not do to this base model what it should: {found}")
    return trained


def _computes_in_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # Without AVX512-BF16 or AMX the CPU emulates bf16, slower than fp32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
