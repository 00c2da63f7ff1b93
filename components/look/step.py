"""What there is before a run: data and base weights, the champion, and the reason to train, or that there is none.

Never cached: the steps after it take what it found as parameters, so that new data, new weights or a new champion make
new cache keys.
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calltune import exports, ledger, runtime, storage, tools, tracking
from components.look.age import age_days
from components.look.config import LookConfig
from components.look.fingerprint import of_run
from components.look.reason import reason

NOTHING_NEW = "nothing new since the champion was trained"


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        fingerprint: of source, tools and base model.
        champion: JSON of the champion's uri, digest, files and version, and of what the store has of it now; empty where nothing
            serves.
        start: JSON of the champion from whose adapter training is to go on; empty where it is to start from the base model. Apart
            from `champion`, so that a new one trains again only where that is so.
        reason: to train; empty where there is none.
        data_age_days: whole days since the data was last changed; empty where the gate does not ask. The gate is cached: what day
            it is must be said to it, so that it judges anew when a day has passed.
    """

    fingerprint: str
    champion: str
    start: str
    reason: str
    data_age_days: str


def look(config: LookConfig) -> Seen:
    """Look, begin the MLflow run, and say whether to go on.

    Raises:
        DataError: the source does not exist.
        ConfigError: a match rule names a tool or an argument that there is not.
    """
    started = time.monotonic()
    _require_tools_of_rules(config)
    with runtime.phase("read data and base model"):
        found = of_run(config)
    with runtime.phase("open the registry"):
        history = ledger.heal(config.name, config.alias)
        serving = history[-1] if history else None
        run = tracking.run_of(config.name)
        tracking.log(run, params=flat(config.run), tags={"fingerprint": found})
        if config.run:
            # MLflow cuts what is long; promote names this beside the model.
            storage.of_run().put_json(f"runs/{runtime.run_id()}/config.json", flat(config.run))
    why = reason(config, found, history)
    runtime.note(f"look: {why.text if why else NOTHING_NEW}")
    if why is None:
        summary = _nothing_new(found, config.config_sha256, round(time.monotonic() - started, 2))
        storage.of_run().put_json(f"runs/{runtime.run_id()}/summary.json", summary)
        tracking.end(run, ok=True)
    champion = None
    if serving:
        # What the store has of it: after its files were damaged or mended no earlier evaluation of it counts.
        champion = {**{key: serving[key] for key in ("uri", "digest", "files", "version")}, "stored": exports.state(serving)}
    start = start_at(serving) if config.starts_from_champion else ""
    age = str(age_days((config.source, *config.more), datetime.now(UTC))) if config.asks_for_age else ""
    return Seen(found, json.dumps(champion, sort_keys=True) if champion else "", start, why.text if why else "", age)


def start_at(serving: ledger.Entry | None) -> str:
    """The champion as train takes it to go on from: what its weights are, and not which version it has."""
    return json.dumps({key: serving[key] for key in ("digest", "uri")}) if serving else ""


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


def _require_tools_of_rules(config: LookConfig) -> None:
    """Hold the match rules against the tools file here, since evaluation would notice only after hours of training."""
    if not config.rules or not config.tools:
        return
    from calltune.score import check_rules, rules_without_tool

    given = tools.load(config.tools)
    without = rules_without_tool(config.rules, given)
    for rule, how in config.rules.items():
        # A tool's name and an argument's may have dots: the name begins with what is before the first one.
        tool = rule.split(".")[0]
        if rule not in without or not any(_may_bring(source, tool) for source in (config.source, *config.more)):
            check_rules({rule: how}, given)


def _may_bring(source: str, tool: str) -> bool:
    """Whether rows may have such a tool of their own; where only ingest can read the source, that is not known."""
    if "://" in source or source.lower().endswith((".gz", ".zst", ".parquet")):
        return True
    try:
        with Path(source).open("rb") as file:
            return any(tool.encode() in line for line in file)
    except OSError:
        return True  # the fingerprint says what is wrong with the file


def _nothing_new(found: str, config_sha256: str, seconds: float) -> dict[str, Any]:
    """The summary of a run that ends here: all of its keys, so that one reader is enough for every run."""
    return {
        "run_id": runtime.run_id(),
        "outcome": "nothing_new",
        "reason": NOTHING_NEW,
        "config_sha256": config_sha256,
        "dataset": {"fingerprint": found},
        "baseline": None,
        "candidate": None,
        "champion": None,
        "gate": None,
        "promoted": None,
        "steps": [{"name": "look", "seconds": seconds, "peak_rss_mib": runtime.peak_rss_mib(), "cached": False}],
        "artifacts": None,
    }
