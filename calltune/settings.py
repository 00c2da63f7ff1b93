"""The base of every step's settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys, so that a misspelt key is an error and never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Settings):
    """The base model: the one section that several steps read."""

    base: str
    """`bundled:smollm2-135m`, a folder, `s3://bucket/prefix`, or a Hub id."""
    revision: str = ""
    """The Hub commit, 40 hex digits: required for a Hub id, so that a run can be repeated."""
