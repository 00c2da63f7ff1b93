"""Rollback: the promotion of a version that has served before, through the ledger as every promotion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calltune import exports, ledger, runtime, storage, tracking
from calltune.errors import UserError
from components.promote.config import PromoteConfig

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Rollback:
    """What became of it.

    Attributes:
        version: that the alias names now.
        before: the version that it named; the same where nothing had to change.
    """

    version: str
    before: str


def rollback(config: PromoteConfig, to: int | None, reason: str, by: str) -> Rollback:
    """Let an earlier champion serve again.

    Its files in the store are read and held against their checksums before anything moves. Naming the version that serves
    changes nothing, so that the command can be given again after it was cut off.

    Args:
        config: the promote step's settings.
        to: the registry's version; None for the one that served before.
        reason: for the ledger.
        by: who asks for it, for the ledger.

    Raises:
        UserError: there is no such champion, its files are not whole, or somebody else has promoted meanwhile.
    """
    what = f"{config.name}@{config.alias}"
    with runtime.phase("open the registry"):
        history = ledger.heal(config.name, config.alias)
        known = tracking.versions(config.name)
    if not history:
        raise UserError(f"{what}: nothing has been promoted yet, so that there is nothing to go back to")
    serving = history[-1]
    target = _before(what, history) if to is None else _champion(what, str(to), history, known)
    version = ledger.version_in(known, target) or target["version"]
    if target["digest"] == serving["digest"]:
        return Rollback(version, serving["version"])
    exports.require_whole(target)
    model = {key: target[key] for key in ("uri", "digest", "files", "fingerprint")}
    told = {"run_id": runtime.run_id(), "reason": reason, "by": by, "rolled_back": serving["digest"]}
    try:
        ledger.append(config.name, config.alias, {"n": serving["n"] + 1, "version": version, **model, **told})
    except storage.AlreadyThere:
        raise UserError(
            f"{what}: somebody else has promoted meanwhile: `calltune models history` says what, then decide"
        ) from None
    with runtime.phase("move the alias"):
        now = ledger.heal(config.name, config.alias, promoted=True)
    return Rollback(now[-1]["version"], serving["version"])


def _before(what: str, history: Sequence[ledger.Entry]) -> ledger.Entry:
    if len(history) == 1:
        raise UserError(f"{what}: version {history[-1]['version']} is the first champion, so that there is nothing to go back to")
    serving, before = history[-1], history[-2]
    if "rolled_back" in serving:
        # Once more might be meant to go further back, or not to be sure of the first time; never to bring back what was bad.
        raise UserError(
            f"{what}: version {serving['version']} came by a rollback from version {before['version']} already "
            f"({serving['reason']}): name the version with --to; `calltune models history` has them"
        )
    return before


def _champion(what: str, version: str, history: Sequence[ledger.Entry], known: Sequence["ModelVersion"]) -> ledger.Entry:
    served = {found: entry for entry in history if (found := ledger.version_in(known, entry))}
    if version not in served:
        there = ", ".join(sorted(served, key=int))
        raise UserError(f"{what}: version {version} has never served, and a rollback is no way around the gate; there is {there}")
    return served[version]
