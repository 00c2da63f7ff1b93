"""Memory that training on a CPU would otherwise hand back and forth, or spare at too high a price."""

import ctypes
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from calltune.errors import ConfigError

FEW_TERMS = 128
"""A product that sums up fewer terms for each number of its result is computed sooner than it is worth keeping."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt`, as glibc's malloc.h numbers them."""


def keep_freed_memory() -> None:
    """Have glibc reuse the blocks that every step of training frees, instead of handing them back to the kernel.

    It gives them again page by page, zeroed, which can take a sixth of a step's time (docs/tuning.md). Blocks above 32 MiB
    still go back: kept too, they leave holes, and memory grew to 7.6 GiB in 50 steps instead of 4. Another C library has no
    such setting, and on a GPU it changes nothing.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        for parameter, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            adjust(parameter, value)


def checkpointing(device: torch.device) -> dict[str, Any]:
    """How a layer is checkpointed, in the names of torch's `checkpoint`.

    On a CPU what products and attention come to is kept, and only what lies between is computed twice: a fifth of a step's time
    for 0.7 GiB of SmolLM2-135M and 2,048 tokens (docs/tuning.md). What an adapter adds to a layer's result is computed twice,
    too: it is as large as that, and cheap. So are products with 4-bit weights, which are bitsandbytes' own. On a GPU, which
    computes an 8B model's layers on thousands of tokens at once, all these results would be most of its memory.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    if device.type == "cpu":
        settings["context_fn"] = _keep_what_is_dear
    return settings


def _keep_what_is_dear() -> Any:
    products = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
    attention = torch.ops.calltune.tree_attention.default
    kept = set()

    def policy(context: Any, operator: Any, *given: Any, **_: Any) -> CheckpointPolicy:
        if operator is attention or (operator in products and len(given[-1]) >= FEW_TERMS):
            kept.add(context.op_output.untyped_storage().data_ptr())
            return CheckpointPolicy.MUST_SAVE
        # torch does not see it behind a view, and the gradient would be another one.
        if operator._schema.is_mutable and given[0].untyped_storage().data_ptr() in kept:
            found = f"changes the result of a product in place ({operator}), which training on a CPU keeps"
            raise ConfigError(f"model.base {found}: take train.method: lora or qlora, a GPU, or another base model")
        return CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]
