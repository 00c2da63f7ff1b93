"""Settings of the look step."""

from typing import Any, Literal

from pydantic import Field

from calltune.settings import ModelConfig, Settings


class DriftConfig(Settings):
    """Whether what the model is asked lately is what it has learnt from; looked at where the data itself has not changed."""

    questions: str = ""
    """Recent questions with the calls that were made, as JSON lines: a file, a folder or `s3://bucket/prefix`, the newest files
    last by name. Empty: nobody looks."""
    max_index: float = Field(0.2, gt=0)
    """The population stability index of called tools, and of the questions' lengths, above which there is a reason to train."""


class LookConfig(Settings):
    """What to look at: data and base model, the champion, and whether there is a reason to train."""

    name: str
    """The registered model."""
    source: str
    """The rows, as ingest reads them."""
    more: list[str] = []
    """The further sources."""
    tools: str
    """The tools file; empty where the rows bring their own."""
    alias: str
    """The registry's name for the model that serves."""
    when: Literal["always", "changed"] = "always"
    """`always`: train. `changed`: only if there is no champion yet, if data, tools or base model are not those that it was
    trained on, or if `max_age_days` or `drift` gives a reason."""
    max_age_days: int = Field(0, ge=0)
    """The champion's age in days that is a reason to train; 0: none is."""
    drift: DriftConfig = DriftConfig()
    config_sha256: str = ""
    """Of the run's settings, for the summary of a run that ends here."""
    run: dict[str, Any] = {}
    """The whole run's config: its base model is looked at, and MLflow gets it."""

    @property
    def model(self) -> ModelConfig:
        """The base model; an empty name where there is no run."""
        return ModelConfig(**self.run["model"]) if "model" in self.run else ModelConfig(base="")

    @property
    def asks_for_age(self) -> bool:
        """Whether the gate has a condition on the age of the data."""
        return bool(self.run.get("gate", {}).get("max_data_age_days"))

    @property
    def starts_from_champion(self) -> bool:
        """Whether training goes on from the champion's adapter."""
        return self.run.get("train", {}).get("start_from") == "champion"

    @property
    def rules(self) -> dict[str, str]:
        """The run's own match rules for arguments."""
        return dict(self.run["evaluate"]["arguments"]) if "evaluate" in self.run else {}
