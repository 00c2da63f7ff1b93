"""Settings of the look step."""

from typing import Any, Literal

from calltune.settings import Settings


class LookConfig(Settings):
    """What to look at: data and base model, the champion, and whether there is a reason to train."""

    name: str
    """The registered model."""
    source: str
    """The rows, as ingest reads them."""
    tools: str
    """The tools file; empty where the rows bring their own."""
    alias: str
    """The registry's name for the model that serves."""
    when: Literal["always", "changed"] = "always"
    """`always`: train. `changed`: only if data, tools or base weights are not those that the champion was trained on."""
    run: dict[str, Any] = {}
    """The whole run's config: its base model is looked at, and MLflow gets it."""

    @property
    def base(self) -> str:
        """The base model; empty where there is no run."""
        return str(self.run["model"]["base"]) if "model" in self.run else ""
