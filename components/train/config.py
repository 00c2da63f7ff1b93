"""Settings of the train step."""

from typing import Annotated, Literal

from pydantic import Field

from calltune.settings import Settings

FEW_STEPS = 40
"""Fewer optimiser steps than this rarely teach a model a new format (measured; docs/tuning.md)."""


class TrainConfig(Settings):
    """Settings of the train step."""

    method: Literal["auto", "full", "lora", "qlora"] = "auto"
    """`full`: every weight. `lora`: an adapter. `qlora`: an adapter on the base in NF4 with double quantisation."""
    rank: int = Field(16, ge=1)
    """Rank of the adapter; alpha is twice that."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Peak learning rate; linear warm-up over the first 5 % of the steps, then linear decay to zero."""
    epochs: int = Field(4, ge=1)
    """How often each row is seen, unless validation ends it earlier."""
    batch_rows: int = Field(16, ge=1)
    """Rows between two optimiser steps."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation loss after which training stops; only where the best epoch is kept."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights: `best` by validation loss, or `last`. A loss counts every word of a free-text argument, and can
    rise while the choice of tool, a few tokens of it, still gets better."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic; weights and optimiser state stay in fp32. `auto`: bf16 where the device computes in it."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the adapter's first weights and of the order of the rows."""
