"""Settings of the evaluate step."""

from typing import Annotated

from pydantic import Field

from calltune.settings import Settings, written_as

Argument = Annotated[str, written_as(r"[^.]+\..+", "tool.argument")]
Rule = Annotated[str, written_as(r"ast|any|f1>=(0\.\d*[1-9]\d*|1(\.0+)?)", "ast, any, or f1>=x with 0 < x <= 1")]


class EvaluateConfig(Settings):
    """Settings of the evaluate step."""

    max_new_tokens: int = Field(160, ge=1)
    """Longest answer in tokens; one that reaches it counts in `max_length_stop_rate`."""
    arguments: dict[Argument, Rule] = {}
    """Match rule for an argument, `tool.argument: ast | any | f1>=0.5`; the default depends on its type (docs/metrics.md)."""
