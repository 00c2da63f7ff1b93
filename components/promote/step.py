"""The registry: every candidate becomes a version; one that passed the gate becomes the champion."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calltune import exports, ledger, runtime, storage, tracking
from calltune.credentials import line_without_secrets
from components.promote.config import PromoteConfig
from components.promote.decision import Decision, read
from components.promote.push import champion, push

DECISION_BYTES = 60_000
"""A longer decision is no tag: MLflow takes 100,000 characters, and MySQL, where it keeps them, 65,535 bytes."""
CHANGED = "the champion has changed since the gate compared: evaluate and gate again"


@dataclass(frozen=True)
class Promotion:
    """What became of the candidate.

    Attributes:
        model: the registered model's name.
        version: the candidate's version; the champion's where they are the same model.
        alias: what the champion is called.
        previous: the version that served before; None for a first champion or a refused candidate.
        promoted: whether the alias names this model now.
        unchanged: whether it did already.
        reason: one sentence.
        hub: what the Hub has of it, or why not, in one sentence; None where no push is asked for or nothing was promoted.
    """

    model: str
    version: str
    alias: str
    previous: str | None
    promoted: bool
    unchanged: bool
    reason: str
    hub: str | None = None


def promote(model: Path, decision: Path, fingerprint: str, config: PromoteConfig, out: Path) -> Promotion:
    """Register the candidate, and promote it if the gate passed, after every file of it in the store was checked.

    Args:
        model: `model.json`, as export wrote it.
        decision: `decision.json`, as gate wrote it.
        fingerprint: of what it was trained on, as look found it.
        config: the step's settings.
        out: gets `promotion.json`.

    Raises:
        DataError: the decision is not one of the gate about this model; or the store has lost files of the candidate, or has
            others in their place, and this machine has no whole copy of it.
    """
    name, exported = config.name, runtime.read_json(model)
    verdict = read(decision, exported["digest"])
    # Export may have been cached: what it put into the store may have been deleted since.
    exports.require_stored(exported)
    with runtime.phase("register in MLflow"):
        history = ledger.heal(name, config.alias)
        if history and history[-1]["digest"] == exported["digest"]:
            result = _champion_already(name, verdict, history, config)
        else:
            tags = _tags(decision, verdict, fingerprint, config)
            version = tracking.register(name, exported["uri"], exported["digest"], tracking.run_of(name), tags)
            result = _decided(name, version, exported, verdict, fingerprint, history, config)
    if result.promoted and config.push.repo:
        result = replace(result, hub=_pushed(config))
    runtime.write_json(out, asdict(result))
    return result


def _pushed(config: PromoteConfig) -> str:
    """Push the champion, as the ledger has it; the promotion stands, whatever comes of it."""
    try:
        told = str(push(champion(config), config))
    except Exception as problem:  # whatever it is, the model is promoted, and a step that failed would say that it is not
        told = f"not pushed: {line_without_secrets(problem)}"
    runtime.note(told)
    return told


def _tags(path: Path, verdict: Decision, fingerprint: str, config: PromoteConfig) -> dict[str, str]:
    """What the registry says of a version: its metrics, what it was made from and how, and the decision with its address.

    A model's metrics are MLflow's only where MLflow has stored the model itself: here they are tags, each by its name.
    """
    store, place = storage.of_run(), f"runs/{runtime.run_id()}"
    store.upload(path, f"{place}/decision.json")
    addresses = {"decision_uri": f"{store.uri}/{place}/decision.json"}
    if store.list(f"{place}/config.json"):  # look has written it, which a promote by itself has not had before it
        addresses["config_uri"] = f"{store.uri}/{place}/config.json"
    whole = json.dumps(verdict.model_dump(), separators=(",", ":"))
    return {
        "run_id": runtime.run_id(),
        "fingerprint": fingerprint,
        "config_sha256": config.config_sha256,
        "decision": "passed" if verdict.passed else "refused",
        **addresses,
        **({"decision_json": whole} if len(whole) <= DECISION_BYTES else {}),
        **{metric: f"{value:.6g}" for metric, value in verdict.metrics.items()},
        **tracking.git_commit(),
    }


def _champion_already(name: str, verdict: Decision, history: list[ledger.Entry], config: PromoteConfig) -> Promotion:
    version = str(history[-1]["version"])
    if not verdict.passed:  # the conditions have become stricter since it was promoted
        return Promotion(name, version, config.alias, None, False, True, f"{_refusal(verdict)}; it is the champion, and stays it")
    if history[-1]["run_id"] == runtime.run_id():  # this very step promoted it, and then ended before it could say so
        return _promoted(name, version, history[:-1], config)
    return Promotion(name, version, config.alias, None, True, True, "the candidate is the champion: nothing changes")


def _promoted(name: str, version: str, before: list[ledger.Entry], config: PromoteConfig) -> Promotion:
    previous = str(before[-1]["version"]) if before else None
    return Promotion(name, version, config.alias, previous, True, False, "passed the gate")


def _refusal(verdict: Decision) -> str:
    return f"the gate refused: {', '.join(verdict.failed)}"


def _decided(
    name: str,
    version: str,
    exported: dict[str, Any],
    verdict: Decision,
    fingerprint: str,
    history: list[ledger.Entry],
    config: PromoteConfig,
) -> Promotion:
    def left(reason: str) -> Promotion:
        return Promotion(name, version, config.alias, None, False, False, reason)

    if not verdict.passed:
        return left(_refusal(verdict))
    serving = history[-1] if history else None
    if verdict.champion.digest != (serving["digest"] if serving else None):
        return left(CHANGED)
    back = ledger.rolled_back(history).get(exported["digest"])
    if back is not None:
        served = next(entry["version"] for entry in reversed(history) if entry["digest"] == exported["digest"])
        return left(
            f"it was rolled back from ({back['reason']}), so that no run promotes it again; "
            f"`calltune models rollback --to {served}` would"
        )
    # Not only that they are there, as above: the alias is not to name what nobody can load. Each is read, which takes as long as
    # to download it (a minute or two of 16 GB inside a cluster, on a CPU), and only for a model that would now be promoted. What
    # S3 itself knows of an object (a CRC, a size) not every server tells, and nobody has written down with the model.
    exports.require_stored(exported, read=True)
    entry = {
        "n": (serving["n"] if serving else 0) + 1,
        "version": version,
        **{key: exported[key] for key in ("uri", "digest", "files")},
        "run_id": runtime.run_id(),
        "fingerprint": fingerprint,
        "reason": "passed the gate",
    }
    try:
        ledger.append(name, config.alias, entry)
    except storage.AlreadyThere:
        return left(CHANGED)
    ledger.heal(name, config.alias, promoted=True)
    return _promoted(name, version, history, config)
