"""The promotion ledger: which model serves, since when and why. It decides; the registry's aliases follow it.

Each entry is an object `ledger/<name>/<n>.json`, written only if it is new: of two promoters that compared with the
same champion exactly one can write the next entry. MLflow's aliases have no such condition, the last writer wins.
"""

from typing import Any

from calltune import storage, tracking

Entry = dict[str, Any]
"""``{"n", "version", "uri", "digest", "files", "run_id", "fingerprint", "reason"}``."""


def entries(name: str) -> list[Entry]:
    """All entries, the first promotion first."""
    store = storage.of_run()
    found = [store.get_json(key) for key in store.list(f"ledger/{name}/")]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: int(entry["n"]))


def append(name: str, entry: Entry) -> None:
    """Write the entry with number `entry["n"]`.

    Raises:
        AlreadyThere: somebody else has promoted since.
    """
    storage.of_run().put_json(f"ledger/{name}/{entry['n']:06}.json", entry, only_if_new=True)


def heal(name: str, alias: str) -> None:
    """Make the registry's aliases say what the ledger says, in case a promotion ended between the two."""
    history = entries(name)
    if history:
        tracking.set_alias(name, alias, history[-1]["version"])
        if len(history) > 1:
            tracking.set_alias(name, "previous", history[-2]["version"])
