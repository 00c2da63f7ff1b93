"""The gate: may the candidate be promoted? It fails closed: what cannot be judged is refused, and every reason is given."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calltune import stats
from calltune.figures import SAME
from calltune.metrics import ALPHA, LOWER_IS_BETTER, ROBUSTNESS
from calltune.runtime import note, read_json, write_json
from components.gate import suites
from components.gate.check import Check, gained, reaches, told, unjudged
from components.gate.config import AgainstChampion, GateConfig
from components.gate.evidence import Evidence, Unsound, examine, read
from components.gate.questions import enough, fresh, predictions_check, unseen


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        checks: all of them, passed or not.
        candidate: digest of the model that this decision is about, None if its results do not say.
        champion: version and digest of the champion that it was compared with; None where there was none.
        metrics: the candidate's, as they follow from the outcomes, those that have a value; empty where its results
            cannot be believed.
    """

    checks: tuple[Check, ...]
    candidate: dict[str, str | None]
    champion: dict[str, str | None]
    metrics: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The decision as `decision.json` holds it."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "candidate": self.candidate,
            "champion": self.champion,
            "metrics": self.metrics,
        }


def run(
    candidate_path: Path,
    baseline_path: Path | None,
    champion_path: Path | None,
    predictions_path: Path | None,
    config: GateConfig,
    out_path: Path,
    data_age_days: int | None = None,
) -> Decision:
    """Decide from files, and write the decision.

    Args:
        candidate_path: `metrics.json` of the candidate.
        baseline_path: that of the base model.
        champion_path: that of the champion, or ``{"present": false}``.
        predictions_path: `predictions.jsonl` of the candidate; None, and it is refused.
        config: the conditions.
        out_path: where `decision.json` goes.
        data_age_days: whole days since the data was last changed, as look counts them; None where nobody has.

    Raises:
        UserError: a file is absent or is not JSON. No decision is left behind then, and without one nothing is promoted.
    """
    # A pass from an earlier run must not survive a gate that cannot decide.
    out_path.unlink(missing_ok=True)
    candidate = read_json(candidate_path, read)
    baseline = None if baseline_path is None else read_json(baseline_path, read)
    champion = None if champion_path is None else read_json(champion_path, read)
    decision = gate(candidate, baseline, champion, config, predictions_path, data_age_days)
    for check in decision.checks:
        if not check.passed:
            note(f"the gate refuses: {check.name}: {check.reason}")
    write_json(out_path, decision.as_dict())
    return decision


def gate(
    candidate: dict[str, Any],
    baseline: dict[str, Any] | None,
    champion: dict[str, Any] | None,
    config: GateConfig,
    predictions: Path | None = None,
    data_age_days: int | None = None,
) -> Decision:
    """Decide whether the candidate may be promoted.

    Args:
        candidate: content of its `metrics.json`; whatever is in it, the answer is a decision, never an exception.
        baseline: that of the base model, None if it was not evaluated.
        champion: that of the present champion, ``{"present": false}`` if there is none, None if nobody has looked.
        config: the conditions.
        predictions: the candidate's `predictions.jsonl`, to be held against the results; None, and it is refused.
        data_age_days: as in :func:`run`.
    """
    checks: list[Check] = fresh(data_age_days, config)
    ours = _believed("candidate", candidate, checks)
    if ours is not None:
        found, different = predictions_check(ours, predictions, config)
        checks += [found, *enough(ours, different, config), unseen("candidate", ours)]
    base = None
    if baseline is not None:
        base = _comparable("base", baseline, ours, checks)
    elif config.over_baseline:
        checks.append(Check("base: results", False, "a gain over the base model is asked for, and it was not evaluated."))
    best, has_champion = _champion(champion, ours, config, checks)

    conditions = [_threshold(ours, name, least) for name, least in config.thresholds.items()]
    conditions += [_maximum(ours, name, most) for name, most in config.maximum.items()]
    conditions += [_over_baseline(ours, base, name, gain) for name, gain in config.over_baseline.items()]
    if has_champion:
        conditions += [_against_champion(ours, best, name, asked) for name, asked in config.against_champion.items()]
    beside = suites.checks(candidate if ours else None, baseline if base else None, config, alone=not conditions)
    if not conditions and not config.suites:
        reason = "no condition applies: a gate that asks for nothing promotes nothing; set gate.thresholds."
        checks.append(Check("conditions", False, reason, 0, 1))
    return Decision(
        checks=(*checks, *conditions, *beside),
        candidate={"digest": _identity(candidate)["digest"]},
        champion=_identity(champion),
        metrics={} if ours is None else {name: one.value for name, one in ours.estimates.items() if one.value is not None},
    )


def _believed(which: str, results: Any, checks: list[Check]) -> Evidence | None:
    name = f"{which}: results"
    try:
        evidence = examine(results)
        said = results.get("which")
        # A champion's results may be from when it was a candidate.
        if said != which and (which, said) != ("champion", "candidate"):
            raise Unsound(f"they are the results of {said!r}, not of {which!r}")
    except Unsound as error:
        checks.append(Check(name, False, f"{error}."))
        return None
    except RecursionError:
        checks.append(Check(name, False, "they are nested deeper than anything that evaluate writes."))
        return None
    checks.append(Check(name, True, f"all metrics follow from the outcomes of {evidence.n} questions."))
    return evidence


def _comparable(which: str, results: Any, ours: Evidence | None, checks: list[Check]) -> Evidence | None:
    """The other side's evidence, if it is of the same test, taken in the same way."""
    theirs = _believed(which, results, checks)
    if theirs is None or ours is None:
        return None
    name, reason = f"{which}: same test", None
    if theirs.fingerprint != ours.fingerprint:
        reason = f"the test sets differ: {ours.fingerprint[:12]} and {theirs.fingerprint[:12]}"
    elif theirs.settings != ours.settings:
        reason = f"the settings of the evaluations differ: {ours.settings} and {theirs.settings}"
    elif any(ours.outcomes[part].keys() != theirs.outcomes[part].keys() for part in ("tool_accuracy", "abstention_accuracy")):
        reason = "the questions are not the same, although the fingerprints of the test sets are"
    elif which == "base" and theirs.template != ours.template:
        reason = "the base model was asked with another chat template than the candidate"
    checks.append(Check(name, reason is None, f"{reason or 'same questions, same settings'}."))
    return theirs if reason is None else None


def _champion(champion: Any, ours: Evidence | None, config: GateConfig, checks: list[Check]) -> tuple[Evidence | None, bool]:
    """The champion's evidence, and whether there is a champion as far as anyone can tell."""
    if champion is None:
        passed = not config.against_champion
        said = "no condition compares with it" if passed else 'a condition does; if there is none, say {"present": false}'
        checks.append(Check("champion: results", passed, f"no results of a champion were given, and {said}."))
        return None, not passed
    absent = {"present": False, "which": "champion"}
    if isinstance(champion, dict) and champion.get("present") is False and champion.items() <= absent.items():
        checks.append(Check("champion: results", True, "there is no champion yet: this would be the first."))
        return None, False
    best = _comparable("champion", champion, ours, checks)
    if best is not None:
        checks.append(unseen("champion", best))
    return best, True


def _identity(champion: Any) -> dict[str, str | None]:
    found = champion if isinstance(champion, dict) else {}
    version, digest = found.get("version"), found.get("model_digest")
    return {
        "version": str(version) if isinstance(version, str | int) and not isinstance(version, bool) else None,
        "digest": digest if isinstance(digest, str) else None,
    }


def _threshold(ours: Evidence | None, metric: str, least: float) -> Check:
    return _absolute("threshold", ours, metric, least, "at least", above=True)


def _maximum(ours: Evidence | None, metric: str, most: float) -> Check:
    return _absolute("maximum", ours, metric, most, "at most", above=False)


def _absolute(kind: str, ours: Evidence | None, metric: str, limit: float, word: str, above: bool) -> Check:
    name = f"{kind}: {metric}"
    if ours is None:
        return unjudged(name, "the candidate's results cannot be believed", limit)
    found = ours.estimates[metric]
    if found.value is None:
        return unjudged(name, _no_value(metric, ours), limit)
    passed = reaches(found.value, limit) if above else reaches(limit, found.value)
    reason = f"{metric} is {told(found.value, limit)}, {word} {limit:g} is required."
    return Check(name, passed, reason, found.value, limit, found.low, found.high)


def _over_baseline(ours: Evidence | None, base: Evidence | None, metric: str, least: float) -> Check:
    name = f"over base: {metric}"
    if ours is None or base is None:
        return unjudged(name, "there are no results of both to compare", least)
    gain = _gain(ours, base, metric)
    if gain.value is None:
        return unjudged(name, _no_value(metric, ours, base), least)
    reason = f"{metric} gains {gained(gain.value, least)} over the base model, at least {least:+g} is required."
    return Check(name, reaches(gain.value, least), reason, gain.value, least, gain.low, gain.high)


def _against_champion(ours: Evidence | None, best: Evidence | None, metric: str, asked: AgainstChampion) -> Check:
    name = f"against champion: {metric}"
    required = -asked.margin if asked.test == "not_worse" else asked.margin
    if ours is None or best is None:
        return unjudged(name, "there are no results of both to compare", required)
    if ours.digest == best.digest:
        return Check(name, True, "the candidate is the champion itself, so promoting it changes nothing.", 0.0, required)
    gain = _gain(ours, best, metric)
    if gain.value is None:
        return unjudged(name, _no_value(metric, ours, best), required)
    said = f"{metric} gains {gained(gain.value, required)} over the champion"
    if asked.test == "point":
        passed, said = reaches(gain.value, required), f"{said}, at least {required:+g} is required."
    elif gain.low is None:
        return unjudged(name, f"{metric} counts too few questions for an interval", required)
    else:
        passed = gain.low > required + SAME
        said = f"{said}, its interval begins at {gained(gain.low, required)} and must begin above {required:+g}."
        if asked.test == "better":
            chance = stats.mcnemar(ours.outcomes[metric], best.outcomes[metric])
            passed = passed and chance <= ALPHA
            said += (
                f" McNemar's test, whichever of the two is better: p = {told(chance, ALPHA, 2)}, at most {ALPHA:g} is required."
            )
    return Check(name, passed, said, gain.value, required, gain.low, gain.high)


def _gain(ours: Evidence, theirs: Evidence, metric: str) -> stats.Estimate:
    """The paired difference, positive where the candidate is the better one."""
    if metric in LOWER_IS_BETTER:
        return stats.paired_difference(theirs.outcomes[metric], ours.outcomes[metric])
    return stats.paired_difference(ours.outcomes[metric], theirs.outcomes[metric])


def _no_value(metric: str, ours: Evidence, theirs: Evidence | None = None) -> str:
    for way, name in ROBUSTNESS.items():
        if name == metric and not ours.outcomes[name]:
            return f"{metric} was not measured; name {way} in evaluate.robustness"
    if theirs is not None:
        return f"{metric} has no value on one side"
    return f"{metric} has no value, because no question counts in it"
