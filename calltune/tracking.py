"""MLflow: runs, the model registry and its aliases, always by explicit ids.

Never an ambient run: KFP has an MLflow plugin of its own that sets `MLFLOW_*` in the containers.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from calltune import runtime, storage
from calltune.processes import in_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RUN_TAG = "calltune.run_id"
SOURCES = Path(__file__).parent
GIT_TIMEOUT_S = 10


def client() -> "MlflowClient":
    """A client of the server, or of the SQLite file, that `CALLTUNE_TRACKING` names."""
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = os.environ.get("CALLTUNE_TRACKING", "sqlite:///runs/local/mlflow.db")
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def hurried(tries: int = 2, seconds: int = 10) -> Iterator[None]:
    """While the block runs, a server gets `tries` of `seconds`, unless the user's environment says other ones.

    By default MLflow tries for minutes, while somebody waits before a screen.
    """
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(tries - 1), "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    with in_environment({name: value for name, value in patience.items() if name not in os.environ}):
        yield


def run_of(name: str) -> str:
    """MLflow's id of this pipeline run, in the experiment `name`; created where it does not exist yet.

    One parent run for each pipeline run: found again by its tag, because nothing that changes from run to run may be a
    parameter of a cached step.
    """
    mlflow = client()
    experiment = _experiment(mlflow, name)
    runs = mlflow.search_runs([experiment], filter_string=f"tags.`{RUN_TAG}` = '{runtime.run_id()}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    tags = {RUN_TAG: runtime.run_id(), **git_commit()}
    return str(mlflow.create_run(experiment, run_name=runtime.run_id(), tags=tags).info.run_id)


def log(
    run: str,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
    tags: Mapping[str, str] | None = None,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Log to a run and end it well.

    Args:
        run: MLflow's run id.
        params: settings, by dotted name.
        metrics: final numbers.
        curve: rows of loss.csv: `step` and numbers by name; empty ones are left out.
        tags: what to find the run by.
        files: artifacts, by the names that they get: KFP's own files have none that a browser understands.
    """
    import time

    from mlflow.entities import Metric, Param, RunTag

    mlflow, now = client(), int(time.time() * 1000)
    points = [Metric(key, value, now, 0) for key, value in (metrics or {}).items()]
    for row in curve:
        points += [
            Metric(key, float(value), now, int(row["step"]))
            for key, value in row.items()
            if key not in ("step", "epoch") and value not in ("", None)
        ]
    settings = [Param(key, str(value)[:6000]) for key, value in (params or {}).items()]
    labels = [RunTag(key, value) for key, value in (tags or {}).items()]
    # MLflow takes 1,000 metrics and 100 params at a time.
    for start in range(0, max(len(points), len(settings), 1), 100):
        mlflow.log_batch(run, points[start : start + 100], settings[start : start + 100], labels if start == 0 else [])
    with tempfile.TemporaryDirectory() as folder:
        for name, file in (files or {}).items():
            mlflow.log_artifact(run, shutil.copyfile(file, f"{folder}/{name}"))


def end(run: str, ok: bool) -> None:
    """Mark the run as finished or failed."""
    client().set_terminated(run, "FINISHED" if ok else "FAILED")


def is_server() -> bool:
    """Whether MLflow is a server with pages, and no file."""
    return os.environ.get("CALLTUNE_TRACKING", "").startswith(("http://", "https://"))


def page_of(run: str) -> str:
    """Address of a run's page on MLflow's server, without user and password."""
    parts = urlsplit(os.environ["CALLTUNE_TRACKING"].rstrip("/"))
    experiment = client().get_run(run).info.experiment_id
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}/#/experiments/{experiment}/runs/{run}"


def register(name: str, uri: str, digest: str, run: str | None, tags: Mapping[str, str]) -> str:
    """Register a model by the URI of its folder; returns its version. The same digest in the same run is not registered twice.

    Args:
        name: of the registered model.
        uri: of the folder.
        digest: of the folder's files.
        run: MLflow's id of the run that made it; None where MLflow has lost that.
        tags: what to find the version by, besides its digest.
    """
    mlflow = client()
    _ensure_model(mlflow, name)
    for version in mlflow.search_model_versions(f"name = '{name}'"):
        if version.tags.get("digest") == digest and version.run_id == run:
            return str(version.version)
    created = mlflow.create_model_version(name, source=uri, run_id=run, tags={"digest": digest, **tags})
    return str(created.version)


def set_alias(name: str, alias: str, version: str | None) -> None:
    """Let an alias name a version, or no version."""
    mlflow = client()
    if version is None:
        mlflow.delete_registered_model_alias(name, alias)
    elif aliases(name).get(alias) != version:
        mlflow.set_registered_model_alias(name, alias, version)


def aliases(name: str) -> dict[str, str]:
    """The registered model's aliases: alias → version; none where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in client().get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def versions(name: str) -> "list[ModelVersion]":
    """All versions of a registered model, the newest first."""
    return sorted(client().search_model_versions(f"name = '{name}'"), key=lambda v: -int(v.version))


def git_commit(folder: Path = SOURCES) -> dict[str, str]:
    """The tag that says which sources are in a folder: its commit, `-dirty` added where a tracked file has changed.

    Empty where the folder is no part of a git checkout; so is a virtual environment inside of one.
    """
    if not _git(folder, "ls-files", "."):
        return {}
    commit = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return {"git_commit": commit} if commit else {}


def _git(folder: Path, *arguments: str) -> str:
    """What git says of a folder; nothing where it is not installed, refuses, or takes too long."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _experiment(mlflow: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(name)
    if found is None:
        try:
            return str(mlflow.create_experiment(name, artifact_location=f"{storage.of_run().uri}/mlflow/{name}"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = mlflow.get_experiment_by_name(name)  # two first runs at once: the other was faster
    return str(found.experiment_id)


def _ensure_model(mlflow: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
