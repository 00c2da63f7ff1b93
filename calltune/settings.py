"""The base of every step's settings."""

import re

from pydantic import AfterValidator, BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys, so that a misspelt key is an error and never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def written_as(pattern: str, words: str) -> AfterValidator:
    """A check for a text setting that says in words what would be right; pydantic's own would show the pattern.

    Args:
        pattern: a regular expression that the whole text must match.
        words: what to write, as it follows "must be".
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {words}")
        return value

    return AfterValidator(check)


class ModelConfig(Settings):
    """The base model: the one section that several steps read."""

    base: str
    """`bundled:smollm2-135m`, a folder, `s3://bucket/prefix`, or a Hub id."""
    revision: str = ""
    """The Hub commit, 40 hex digits: required for a Hub id, so that a run can be repeated."""
