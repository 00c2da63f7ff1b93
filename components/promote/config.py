"""Settings of the promote step."""

from pydantic import Field

from calltune.settings import Settings


class PromoteConfig(Settings):
    """Settings of the promote step."""

    name: str
    """The registered model."""
    alias: str = Field("champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """The registry's name for the model that serves."""
