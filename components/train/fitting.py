"""A batch that does not fit into the device's memory is computed in smaller packs; its rows stay together as one batch.

What is tried is the batch itself: no estimate of its memory comes before.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from calltune import runtime
from calltune.errors import UserError
from components.train.collator import Collator, Packs
from components.train.packing import Row

T = TypeVar("T")


def fit(compute: Callable[[Packs], T], packs: Packs, rows: Sequence[Row], collator: Collator, device: torch.device) -> T:
    """What `compute` makes of the packs of a batch; of smaller ones, if the device runs out of memory.

    The collator makes its packs no larger from then on.

    Args:
        compute: has no effect that a second call with other packs of the same rows would not undo.
        packs: of the rows, on the device.
        rows: the batch, or this process's part of it.
        collator: made the packs.
        device: of the packs' tensors.

    Raises:
        UserError: a row by itself is too much.
    """
    while True:
        try:
            return compute(packs)
        except torch.OutOfMemoryError:
            pass  # what the failed try holds is free only when this block has ended
        if len(packs) == len(rows):
            longest = max(len(row.input_ids) for row in rows)
            raise UserError(
                f"not enough memory for one row of {longest} tokens by itself: lower format.max_tokens, "
                "or take train.method: qlora or a GPU with more memory"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        before = collator.max_tokens
        collator.halve(rows, len(packs))
        if collator.max_tokens < before:  # else the loader had made these packs ahead, before that
            most = f"packs of at most {collator.max_tokens:,} tokens from here on"
            runtime.note(f"train: out of memory: {most}; the batch stays the same")
        packs = [_moved(pack, device) for pack in collator.packed(rows)]


def _moved(pack: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in pack.items()}
