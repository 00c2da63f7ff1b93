"""Settings of the format step."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from calltune.settings import Settings


class SplitConfig(Settings):
    """How rows are divided into training, validation and test; rows with the same first user turn stay together."""

    mode: Literal["exact", "growing"] = "exact"
    """`exact`: seeded, stratified by expected tools, exact shares. `growing`: each question's part follows from itself and
    the seed, so that more rows later move none; the shares are then met on average."""
    test: float = Field(0.33, ge=0, lt=1)
    """Share of the questions held out for the verdict."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the questions held out to stop training early."""
    seed: int = 0
    """Another seed, another split."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "SplitConfig":
        if self.test + self.validation >= 1:
            raise ValueError(f"test {self.test} and validation {self.validation} leave no row to train on")
        return self


class FormatConfig(Settings):
    """Settings of the format step."""

    template: str = "auto"
    """Chat template: `auto` (the model's own if it can carry tool calls, else `hermes`), `hermes`, `functiongemma`, `llama3`,
    `phi3`, `xlam`, `alpaca`, or the path of a Jinja file that ends in `.jinja`; its text becomes the setting."""
    call_syntax: Literal["auto", "json", "python"] = "auto"
    """How calls are written: `auto` as the template does; `python` instead of `json` for `llama3`, `phi3`, `xlam`, `alpaca`."""
    max_tokens: int = Field(2048, ge=16)
    """Longest row in tokens; a longer one is quarantined, never cut."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share of the records that may be quarantined here (too long, or nothing that the template can express) before the run
    fails."""
    split: SplitConfig = SplitConfig()

    @field_validator("template")
    @classmethod
    def _read_a_file(cls, value: str) -> str:
        # The text and not the path is the setting: it is in the config's hash and the steps' cache keys, and goes to a cluster.
        if not value.endswith(".jinja"):
            return value
        try:
            return Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot be read: {error}") from None
