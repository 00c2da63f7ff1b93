"""The promotion ledger: which model serves, since when and why. It decides; the registry's aliases follow it.

Each entry is an object `ledger/<name>/<n>.json`, written only if it is new: of two promoters that compared with the
same champion exactly one can write the next entry. MLflow's aliases have no such condition, the last writer wins.
"""

from datetime import UTC, datetime
from typing import Any

from calltune import runtime, storage, tracking

Entry = dict[str, Any]
"""``{"n", "version", "uri", "digest", "files", "run_id", "fingerprint", "reason", "time"}``; `time` is UTC, ISO 8601."""


def entries(name: str) -> list[Entry]:
    """All entries, the first promotion first."""
    store = storage.of_run()
    found = [store.get_json(key) for key in store.list(f"ledger/{name}/")]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: int(entry["n"]))


def append(name: str, entry: Entry) -> None:
    """Write the entry with number `entry["n"]`, and when that is.

    Raises:
        AlreadyThere: somebody else has promoted since.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    storage.of_run().put_json(f"ledger/{name}/{entry['n']:06}.json", {**entry, "time": now}, only_if_new=True)


def heal(name: str, alias: str) -> list[Entry]:
    """Make the registry's aliases say what the ledger says, in case a promotion ended between the two.

    Returns:
        All entries, the first promotion first; `version` of the last two is what the registry calls them now.
    """
    history = entries(name)
    for called, entry in zip((alias, "previous"), reversed(history), strict=False):
        entry["version"] = _version(name, entry)
        tracking.set_alias(name, called, entry["version"])
    return history


def _version(name: str, entry: Entry) -> str:
    """The entry's version in the registry, found by its digest: a registry that was lost counts from 1 again."""
    found = [str(version.version) for version in tracking.versions(name) if version.tags.get("digest") == entry["digest"]]
    if str(entry["version"]) in found:
        return str(entry["version"])
    if found:
        return found[0]
    tags = {"run_id": entry["run_id"], "fingerprint": entry["fingerprint"], "decision": "passed"}
    version = tracking.register(name, entry["uri"], entry["digest"], None, tags)
    runtime.note(f"registry: {name} had lost the model of promotion {entry['n']}; it is registered again, as version {version}")
    return version
