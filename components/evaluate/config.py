"""Settings of the evaluate step."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from calltune.settings import Settings, written_as

Argument = Annotated[str, written_as(r"[^.]+\..+", "tool.argument")]
Rule = Annotated[str, written_as(r"ast|any|f1>=(0\.\d*[1-9]\d*|1(\.0+)?)", "ast, any, or f1>=x with 0 < x <= 1")]


class EvaluateConfig(Settings):
    """Settings of the evaluate step."""

    max_new_tokens: int = Field(160, ge=1)
    """Longest answer in tokens; one that reaches it counts in `max_length_stop_rate`."""
    arguments: dict[Argument, Rule] = {}
    """Match rule for an argument, `tool.argument: ast | any | f1>=0.5`; the default depends on its type (docs/metrics.md)."""
    robustness: list[Literal["shuffled_tools", "distractor", "rephrased"]] = []
    """Ask every question again: its tools in another order, with a tool more that fits nothing, or in slightly other words.
    Each way is a metric of its own, and takes about as long as the evaluation without it (docs/metrics.md)."""

    @field_validator("robustness")
    @classmethod
    def _each_once(cls, ways: list[str]) -> list[str]:
        if len(set(ways)) < len(ways):
            raise ValueError("names one of them twice")
        return ways
