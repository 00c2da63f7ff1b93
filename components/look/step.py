"""What there is before a run: the data's fingerprint, the champion, and the reason to train, or that there is none.

Never cached: the steps after it take what it found as parameters, so that new data or a new champion makes new cache
keys.
"""

import json
from dataclasses import dataclass
from typing import Any

from calltune import ledger, runtime, storage, tracking
from components.look.config import LookConfig
from components.look.fingerprint import fingerprint


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        fingerprint: of source and tools.
        champion: JSON of the champion's uri, digest, files and version; empty where nothing serves.
        reason: to train; empty where there is none.
    """

    fingerprint: str
    champion: str
    reason: str


def look(config: LookConfig) -> Seen:
    """Look, begin the MLflow run, and say whether to go on.

    Raises:
        DataError: the source does not exist.
    """
    found = fingerprint(config.source, config.tools)
    ledger.heal(config.name, config.alias)
    history = ledger.entries(config.name)
    serving = history[-1] if history else None
    run = tracking.run_of(config.name)
    tracking.log(run, params=flat(config.run), tags={"fingerprint": found})
    reason = _reason(config, found, serving)
    runtime.note(f"look: {reason or 'nothing new since the champion was trained'}")
    if not reason:
        summary = {"run_id": runtime.run_id(), "outcome": "nothing_new", "dataset": {"fingerprint": found}}
        storage.of_run().put_json(f"runs/{runtime.run_id()}/summary.json", summary)
        tracking.end(run, ok=True)
    champion = {key: serving[key] for key in ("uri", "digest", "files", "version")} if serving else None
    return Seen(found, json.dumps(champion, sort_keys=True) if champion else "", reason)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, by dotted name: what MLflow calls params."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            rows |= flat(value, f"{prefix}{key}.")
        else:
            # KFP carries every number as a double; 4 epochs are not to be called 4.0.
            rows[f"{prefix}{key}"] = int(value) if isinstance(value, float) and value.is_integer() else value
    return rows


def _reason(config: LookConfig, found: str, serving: ledger.Entry | None) -> str:
    if config.when == "always":
        return "asked for"
    if serving is None:
        return "no champion yet"
    return "the data has changed" if serving["fingerprint"] != found else ""
