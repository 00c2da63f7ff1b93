"""Settings of the promote step."""

from typing import Annotated

from calltune.settings import Settings, written_as

PUSH_TOKENS = ("CALLTUNE_HUB_TOKEN", "HF_TOKEN")
"""Variables that may hold the token that a push writes with; the first that is set. On a cluster the first of them reaches
promote's pod alone, so that training need not be able to write to the Hub."""


class PushConfig(Settings):
    """A repository on the Hugging Face Hub that gets each champion. The token is in the environment only."""

    repo: Annotated[str, written_as(r"([\w.-]+/[\w.-]+)?", "a repository as the Hub names it: owner/name")] = ""
    """`owner/name`; empty: none. With a token that may write there in `CALLTUNE_HUB_TOKEN`, or else in `HF_TOKEN`."""
    private: bool = True
    """Where the repository is made by the first push: visible to its owner only. One that is there stays as it is."""
    revision: Annotated[str, written_as(r"[A-Za-z0-9][\w./-]*", "a branch's name")] = "main"
    """The branch that is written to; made where there is none."""


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
    push: PushConfig = PushConfig()


class PromoteConfig(PromoteSection):
    """Settings of the promote step."""

    name: str
    """The registered model."""
    config_sha256: str = ""
    """Of the run's settings, for the version's tags."""
