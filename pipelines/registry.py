"""The registry and the promotion ledger as tables, and the way back."""

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from calltune import ledger, storage, tracking
from calltune.errors import UserError
from components.promote.config import PromoteConfig
from components.promote.push import champion, push
from components.promote.rollback import rollback
from pipelines.config import RunConfig

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

METRIC = "tool_accuracy"
ANSWER_S = 5
"""How long a registry may take to answer somebody who only wants to look."""


def require_registry(config: RunConfig, workdir: Path) -> None:
    """Refuse to look into a workdir where nothing has run: MLflow would make an empty registry there.

    Raises:
        UserError: there is no registry.
    """
    if config.tracking.uri == "embedded" and not (workdir / "mlflow.db").is_file():
        raise UserError(f"{workdir / 'mlflow.db'}: no such registry; `calltune run` makes one, or use --workdir")


def heal(config: RunConfig) -> str:
    """Let the aliases follow the promotion ledger, as a run does: a promotion may have ended between the two.

    Not where an alias names a model that this ledger has never promoted: it may follow the ledger of another store, and who only
    wants to look is not to move what serves.

    Returns:
        Where they could not be made to, how they stand, in a sentence; else nothing.

    Raises:
        UserError: the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    name, alias = config.name, config.promote.alias
    with _answering_soon(config):
        try:
            history = ledger.entries(name, alias)
        except UserError as error:  # who may read the registry need not reach the store
            return f"{name}: the aliases are as the registry has them, not held against the promotion ledger: {error}"
        known, named = tracking.versions(name), tracking.aliases(name)
        promoted = {ledger.version_in(known, entry) for entry in history}
        if history and {named[called] for called in (alias, ledger.previous_of(alias)) if called in named} <= promoted:
            try:
                ledger.heal(name, alias)
                return ""
            except MlflowException as error:
                if error.error_code != "PERMISSION_DENIED":
                    raise
    latest = zip((alias, ledger.previous_of(alias)), reversed(history), strict=False)
    says = {called: ledger.version_in(known, entry) or "one that the registry has lost" for called, entry in latest}
    other = [
        f"{name}@{called} is version {version}, and the registry {named.get(called, 'none')}"
        for called, version in says.items()
        if named.get(called) != version
    ]
    if not other:
        return ""
    return f"the promotion ledger says that {'; '.join(other)}: it was left so; a run or a rollback changes it, if it may"


def versions(config: RunConfig, workdir: Path) -> Table:
    """Every version, the newest first.

    Raises:
        UserError: there is no registry, or it does not answer.
    """
    require_registry(config, workdir)
    table = Table(title=f"Versions of {config.name}", title_justify="left")
    for column in ("version", "alias", "digest", "registered", METRIC, "decision"):
        table.add_column(column, justify="right" if column in ("version", METRIC) else "left", overflow="fold")
    with _answering_soon(config):
        named: dict[str, list[str]] = {}
        for alias, version in tracking.aliases(config.name).items():
            named.setdefault(version, []).append(alias)
        for found in tracking.versions(config.name):
            aliases = ", ".join(sorted(named.get(str(found.version), [])))
            digest = found.tags.get("digest", "")[:12]
            accuracy, decision = _accuracy(found), found.tags.get("decision", "")
            registered = datetime.fromtimestamp(found.creation_timestamp / 1000)
            table.add_row(str(found.version), aliases, digest, _when(registered), accuracy, decision)
    return table


def promotions(config: RunConfig) -> Table:
    """Every promotion to the run's alias, the newest first: the ledger, with what the registry knows of each model now.

    Raises:
        UserError: the registry does not answer.
    """
    table = Table(title=f"Champions of {config.name}", title_justify="left")
    for column in ("n", "version", "alias", "digest", "promoted", METRIC, "by", "reason"):
        table.add_column(column, justify="right" if column in ("n", "version", METRIC) else "left", overflow="fold")
    with _answering_soon(config):
        known = {str(found.version): found for found in tracking.versions(config.name)}
        alias = config.promote.alias
        history = ledger.entries(config.name, alias)
        serving = {len(history): alias, len(history) - 1: ledger.previous_of(alias)}
        for place, entry in reversed(list(enumerate(history, 1))):
            version = ledger.version_in(list(known.values()), entry)
            table.add_row(
                str(entry["n"]),
                version or "",
                serving.get(place, ""),
                entry["digest"][:12],
                _when(datetime.fromisoformat(entry["time"])),
                _accuracy(known[version]) if version else "",
                entry.get("by", entry["run_id"]),
                f"rollback: {entry['reason']}" if "rolled_back" in entry else entry["reason"],
            )
    return table


def roll_back(config: RunConfig, to: int | None, reason: str) -> str:
    """Let an earlier champion serve again; returns what was done, in one sentence.

    Args:
        config: of the run whose registry it is.
        to: the version; None for the one that served before.
        reason: for the ledger.

    Raises:
        UserError: no reason, no such champion, its files are not whole, or the registry does not answer.
    """
    why = " ".join(reason.split())
    if not why:
        raise UserError("--reason: say why; the ledger keeps it")
    with _answering(config):
        done = rollback(PromoteConfig(**config.for_step("promote")), to, why, _who())
    what = f"{config.name}@{config.promote.alias}"
    if done.version == done.before:
        return f"{what} is version {done.version} already: nothing changes"
    hub = config.promote.push.repo
    left = f"; {hub} on the Hub has the other one still: `calltune models push` brings this one" if hub else ""
    return f"{what} is version {done.version} again; it was version {done.before}{left}"


def push_champion(config: RunConfig) -> str:
    """Bring the champion to the Hub; returns what was done, in one sentence.

    Raises:
        UserError: there is none, or the Hub does not take it.
    """
    settings = PromoteConfig(**config.for_step("promote"))
    entry = champion(settings)
    return f"{config.name}@{config.promote.alias}, version {entry['version']}: {push(entry, settings)}"


def _who() -> str:
    """As this machine knows the user: a hint for colleagues, no proof."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user has a number only
        name = f"user {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def address(config: RunConfig, workdir: Path, reference: str) -> str:
    """Where the store has a registered model.

    Args:
        config: of the run whose registry it is.
        workdir: of that run.
        reference: ``models:/NAME@ALIAS``.

    Raises:
        UserError: it is none, there is no such version, or the registry does not answer.
    """
    parts = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", reference)
    if parts is None:
        raise UserError(f"{reference}: not a registered model: models:/{config.name}@{config.promote.alias} would be one")
    require_registry(config, workdir)
    name, alias = parts.groups()
    with _answering_soon(config):
        aliases = tracking.aliases(name)
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise UserError(f"{reference}: the registry has no such alias of {name}; there is {known}")
        return next(str(found.source) for found in tracking.versions(name) if str(found.version) == aliases[alias])


def _accuracy(version: "ModelVersion") -> str:
    """From the version's tag, or from the run that made it; empty where neither has it."""
    value = version.tags.get(METRIC)
    if value is None and version.run_id:
        value = tracking.client().get_run(version.run_id).data.metrics.get(f"candidate.{METRIC}")
    return "" if value is None else f"{float(value):.3f}"


def _when(time: datetime) -> str:
    """In the clock of who reads it."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


@contextmanager
def _answering_soon(config: RunConfig) -> Iterator[None]:
    """As `_answering`, for who only looks: neither registry nor store is waited for longer than some seconds."""
    with tracking.hurried(tries=1, seconds=ANSWER_S), storage.hurried(), _answering(config):
        yield


@contextmanager
def _answering(config: RunConfig) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        with tracking.hurried():
            yield
    except MlflowException as error:
        # Of a connection that failed the last words say why; before them stand the addresses of Python's objects.
        said = str(error).splitlines()[0]
        why = re.sub(r" \(read timeout.*|[\"')]+$", "", said.rpartition(": ")[2]) if "failed with exception" in said else said
        raise UserError(f"tracking.uri: {config.tracking.uri} does not answer: {why}") from None
