"""Settings of the evaluate step."""

from pydantic import Field

from calltune.settings import Settings


class EvaluateConfig(Settings):
    """Settings of the evaluate step."""

    max_new_tokens: int = Field(160, ge=1)
    """Longest answer in tokens; one that reaches it counts in `max_length_stop_rate`."""
    arguments: dict[str, str] = {}
    """Match rule for an argument, `tool.argument: ast | any | f1>=0.5`; the default depends on its type (docs/metrics.md)."""
