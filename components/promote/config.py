"""Settings of the promote step."""

from typing import Annotated

from calltune.settings import Settings, written_as


class PromoteSection(Settings):
    """Settings of the promote step, without the model's name, which is the run's."""

    alias: Annotated[
        str,
        written_as(
            r"(?i)(?!(previous(-.*)?|latest|v\d+)$)[A-Z][A-Z0-9_-]*",
            "letters, digits, - and _, a letter first, and neither previous or previous-… (the version that served before) "
            "nor latest or v1 (MLflow's own names)",
        ),
    ] = "champion"
    """The registry's name for the model that serves."""


class PromoteConfig(PromoteSection):
    """Settings of the promote step."""

    name: str
    """The registered model."""
    config_sha256: str = ""
    """Of the run's settings, for the version's tags."""
