"""Settings of the train step."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calltune.settings import Settings

FEW_STEPS = 40
"""Fewer optimiser steps than this rarely teach a model a new format (measured; docs/tuning.md)."""


class TrainConfig(Settings):
    """Settings of the train step."""

    method: Literal["auto", "full", "lora", "qlora"] = "auto"
    """`full`: every weight. `lora`: an adapter. `qlora`: an adapter on the base in NF4 with double quantisation.
    `auto`: `full` below 1e9 parameters, else `qlora`."""
    start_from: Literal["base", "champion"] = "base"
    """Where an adapter starts: `base`, or the `champion`'s adapter, which must be of the same base model, rank and alpha; where
    there is no champion yet, `base`."""
    rank: int = Field(16, ge=1)
    """Rank of the adapter."""
    lora_alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """The adapter's output counts `lora_alpha / rank`. `auto`: twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped. A prefix that rows of a pack share draws once for all of them."""
    optimiser: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """`auto`: `paged_adamw_8bit` for `qlora`, else `adamw_torch_fused`."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Peak learning rate. `auto`: of `full` 1e-4, from 1e9 parameters on 1e-5; of an adapter 3e-4, from there on 2e-4."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up the learning rate stays, or falls to zero."""
    warmup: float = Field(0.05, ge=0)
    """Linear warm-up: below 1 a share of all steps, else a number of steps."""
    epochs: int = Field(4, ge=1)
    """How often each row is seen, unless validation or `max_steps` ends it earlier."""
    max_steps: int = Field(0, ge=0)
    """Optimiser steps after which training ends; 0: `epochs` decides. The schedule then spans these."""
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
    checkpoint_minutes: float = Field(15, gt=0)
    """Between two checkpoints; one is also written at SIGTERM. A step that is started again goes on from the newest."""
    checkpoints_kept: int = Field(2, ge=1)
    """The newest ones are kept, while training lasts."""
    price_per_hour: float = Field(0, ge=0)
    """Of all machines that train, in whatever money you count; 0: no price is given. Another one trains nothing again."""

    @model_validator(mode="after")
    def _goes_on(self) -> "TrainConfig":
        if self.method == "full" and self.start_from == "champion":
            raise ValueError("start_from: champion goes on from an adapter, and full trains none: set method: qlora or lora")
        return self

    def result_settings(self) -> dict[str, Any]:
        """The settings that the trained weights depend on: with other ones a checkpoint is of no use."""
        return self.model_dump(mode="json", exclude={"checkpoint_minutes", "checkpoints_kept", "price_per_hour"})

    def steps(self, rows: int) -> int:
        """How many optimiser steps `rows` rows make, if validation does not end training earlier."""
        by_epochs = -(-rows // self.batch_rows) * self.epochs
        return min(by_epochs, self.max_steps) if self.max_steps else by_epochs
