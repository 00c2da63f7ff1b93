"""The promotion ledger: which model serves, since when and why. It decides; the registry's aliases follow it.

Each alias has a ledger of its own, so that a promotion to `staging` never moves `champion`. Each entry is an object
`ledger/<name>/<alias>/<n>.json`, written only if it is new: of two promoters that compared with the same champion exactly
one can write the next entry. MLflow's aliases have no such condition, the last writer wins.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from calltune import runtime, storage, tracking
from calltune.errors import DataError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Entry = dict[str, Any]
"""``{"n", "version", "uri", "digest", "files", "run_id", "fingerprint", "reason", "time"}``; `time` is UTC, ISO 8601.

A rollback's has also ``by``, who asked for it, and ``rolled_back``, the digest of the model that served until then.
"""
PASSES = 10
"""How often healing looks again whether the ledger has gone on meanwhile: once for each promoter that ends just then."""


def entries(name: str, alias: str) -> list[Entry]:
    """All entries of an alias, the first promotion first.

    Raises:
        DataError: one of them is not what :func:`append` wrote.
    """
    store = storage.of_run()
    found = [_read(store, key) for key in store.list(f"ledger/{name}/{alias}/")]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: entry["n"])


def _read(store: storage.Store, key: str) -> Entry | None:
    try:
        entry = store.get_json(key)
        return None if entry is None else {**entry, "n": int(entry["n"])}
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{store.uri}/{key}: damaged, no entry of the promotion ledger: put the object back as it was") from None


def append(name: str, alias: str, entry: Entry) -> None:
    """Write the entry with number `entry["n"]`, and when that is.

    Raises:
        AlreadyThere: somebody else has promoted since.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store, key = storage.of_run(), f"ledger/{name}/{alias}/{entry['n']:06}.json"
    try:
        store.put_json(key, {**entry, "time": now}, only_if_new=True)
    except storage.AlreadyThere:
        # A write whose answer was lost is retried, and then finds itself.
        winner = store.get_json(key)
        if (winner["run_id"], winner["digest"]) != (entry["run_id"], entry["digest"]):
            raise


def rolled_back(history: Sequence[Entry]) -> dict[str, Entry]:
    """Models that somebody has gone back from and nobody to since: digest → the rollback's entry. No run promotes them again."""
    found: dict[str, Entry] = {}
    for entry in history:
        if "rolled_back" in entry:
            found[entry["rolled_back"]] = entry
        found.pop(entry["digest"], None)
    return found


def previous_of(alias: str) -> str:
    """The alias of the version that served before: `previous` beside `champion`, `previous-staging` beside `staging`."""
    return "previous" if alias == "champion" else f"previous-{alias}"


def heal(name: str, alias: str, promoted: bool = False) -> list[Entry]:
    """Make the registry's aliases say what the ledger says: a promotion may have ended between the two, or somebody moved one.

    Args:
        name: the registered model's.
        alias: whose ledger.
        promoted: the caller has just written the last entry: that the aliases move is no repair, and nothing is said of it.

    Returns:
        All entries, the first promotion first; `version` of the last two is what the registry calls them now.
    """
    for _ in range(PASSES):
        history = entries(name, alias)
        # Whoever has moved an alias looks again: another promoter may have written an entry meanwhile, and moved it before.
        if not _moved(name, alias, history, promoted):
            break
    return history


def _moved(name: str, alias: str, history: list[Entry], promoted: bool) -> bool:
    """Let the aliases follow the last two entries, and put the registry's versions into these; whether one had to move."""
    before, moved = tracking.aliases(name), False
    for called, entry in zip((alias, previous_of(alias)), reversed(history), strict=False):
        entry["version"] = _version(name, entry)
        if before.get(called) != entry["version"]:
            tracking.set_alias(name, called, entry["version"])
            moved = True
            if not promoted:
                was = f"version {before[called]}" if called in before else "not set"
                runtime.note(
                    f"registry: {name}@{called} is version {entry['version']}, as the promotion ledger says; it was {was}"
                )
    return moved


def version_in(known: "Sequence[ModelVersion]", entry: Entry) -> str | None:
    """The entry's version in the registry, found by its digest: a registry that was lost counts from 1 again.

    Args:
        known: the registered model's versions.
        entry: of the ledger.

    Returns:
        None where the registry does not have the model.
    """
    found = [str(version.version) for version in known if version.tags.get("digest") == entry["digest"]]
    if str(entry["version"]) in found:
        return str(entry["version"])
    return found[0] if found else None


def _version(name: str, entry: Entry) -> str:
    """The entry's version in the registry, which gets the model again where it has lost it."""
    found = version_in(tracking.versions(name), entry)
    if found is not None:
        return found
    tags = {"run_id": entry["run_id"], "fingerprint": entry["fingerprint"], "decision": "passed"}
    version = tracking.register(name, entry["uri"], entry["digest"], None, tags)
    runtime.note(f"registry: {name} had lost the model of promotion {entry['n']}; it is registered again, as version {version}")
    return version
