"""How commands reach Kubeflow Pipelines: the options that they share, and the connection."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.config import RunConfig
    from pipelines.kubeflow import Kubeflow

Host = Annotated[str | None, typer.Option(help="Address of Kubeflow Pipelines' API; cluster.host by default.")]
Namespace = Annotated[str | None, typer.Option(help="In which the steps run; cluster.namespace by default.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the token that says who you are; or CALLTUNE_KFP_TOKEN.")]
Experiment = Annotated[str | None, typer.Option(help="KFP experiment; cluster.experiment, or the config's name, by default.")]
NoPreflight = Annotated[bool, typer.Option("--no-preflight", help="Do not look at store and cluster first.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check config and data, and compile; upload nothing, ask neither KFP nor Kubernetes.")
]
MaybeConfig = Annotated[Path | None, typer.Option("-c", "--config", help="The run's YAML file: its cluster section, its store.")]

NOT_ASKED = (
    "             read: the config, the tools, the first rows; not asked: whether the store can be written, Kubeflow Pipelines, "
    "the namespace, its secrets and accounts, the nodes; nothing was uploaded"
)
"""What a dry run has looked at, and what only the run itself would."""


def loaded(config: Path, overrides: list[str]) -> "RunConfig":
    """The config of a file."""
    from pipelines.config import load

    return load(config, overrides)


def maybe_loaded(config: Path | None) -> "RunConfig | None":
    """The config of a file, where one is named."""
    return None if config is None else loaded(config, [])


def connected(settings: "RunConfig | None", host: str | None, namespace: str | None, token_file: Path | None) -> "Kubeflow":
    """Kubeflow Pipelines, as options, config and environment name it."""
    from pipelines.cluster import ClusterConfig
    from pipelines.endpoint import place_of
    from pipelines.kubeflow import Kubeflow

    cluster = ClusterConfig() if settings is None else settings.cluster
    return Kubeflow(place_of(cluster, host, namespace, token_file))
