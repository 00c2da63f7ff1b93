"""The gate's checks of what was measured beside the tool questions. They fail closed, as all of them do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calltune import stats
from calltune.metrics import TEXT_LOSS, is_share
from components.gate.check import Check, reaches, told, unjudged
from components.gate.config import GateConfig
from components.gate.evidence import Unsound, close

FIELDS = {"value", "low", "high", "n", "sha256", "items"}


@dataclass(frozen=True)
class Measured:
    """A measure that holds together.

    Attributes:
        items: a number by item id.
        asked: SHA-256 of what was asked.
        estimate: recomputed from the items.
    """

    items: Mapping[str, float]
    asked: str
    estimate: stats.Estimate


def examine(results: Mapping[str, Any]) -> dict[str, Measured]:
    """Check `suites` of a `metrics.json`; none in results from before there were suites.

    Raises:
        Unsound: at the first thing that is missing, or does not follow from the items.
    """
    suites = results.get("suites", {})
    if not isinstance(suites, dict):
        raise Unsound("suites are not measures by name")
    return {measure: _examined(measure, found) for measure, found in suites.items()}


def _examined(measure: str, found: Any) -> Measured:
    if not isinstance(found, dict) or found.keys() != FIELDS:
        raise Unsound(f"{measure} does not have {', '.join(sorted(FIELDS))} and nothing else")
    items, asked = found["items"], found["sha256"]
    if not isinstance(items, dict) or not items:
        raise Unsound(f"{measure} has no items")
    if not isinstance(asked, str) or not asked.strip():
        raise Unsound(f"{measure} does not say what was asked")
    for id_, number in items.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise Unsound(f"{measure} of item {id_!r} is {number!r}, which is not a number")
        if is_share(measure) and not 0 <= number <= 1:
            raise Unsound(f"{measure} of item {id_!r} is {number!r}, and it is a share")
    estimate = stats.of_items(items)
    for key, expected in estimate.as_dict().items():
        if not close(found[key], expected):
            raise Unsound(f"{measure}.{key} is {found[key]}, but {expected} follows from its items")
    return Measured(items, asked, estimate)


def checks(candidate: Any, baseline: Any, config: GateConfig, alone: bool = False) -> list[Check]:
    """The checks of both sides' measures, and the conditions on them; none where there is neither.

    Args:
        candidate: its `metrics.json`; None where that cannot be believed.
        baseline: that of the base model; None where it was not evaluated, cannot be believed, or is of another test.
        config: the gate's conditions.
        alone: whether there are no others; what the decision then rests on has to be as many items as it needs questions.
    """
    found: list[Check] = []
    ours = _believed("candidate", candidate, bool(config.suites or config.regression), found)
    theirs = _believed("base", baseline, bool(config.regression), found)
    least = max(config.min_questions_per_metric, config.min_questions if alone else 0)
    if least:
        for measure in sorted({*config.suites, *config.regression}):
            n = ours[measure].estimate.n if measure in ours else 0
            found.append(Check(f"items in {measure}", n >= least, f"{n} items, at least {least} required.", n, least))
    found += [_at_least(measure, ours.get(measure), least) for measure, least in config.suites.items()]
    return found + [_kept(measure, ours.get(measure), theirs.get(measure), most) for measure, most in config.regression.items()]


def _believed(which: str, results: Any, needed: bool, found: list[Check]) -> dict[str, Measured]:
    """A side's measures; empty where there are none to believe, which a check then says if a condition needs them."""
    name = f"{which}: suites"
    if results is None:
        if needed:
            found.append(Check(name, False, "there are no results of it that can be believed."))
        return {}
    try:
        measures = examine(results)
    except Unsound as error:
        found.append(Check(name, False, f"{error}."))
        return {}
    if measures or needed:
        found.append(Check(name, True, f"{len(measures)} measure{'s' * (len(measures) != 1)} follow from their items."))
    return measures


def _at_least(measure: str, ours: Measured | None, least: float) -> Check:
    name = f"suite: {measure}"
    if ours is None:
        return unjudged(name, f"{measure} was not measured", least)
    found = ours.estimate
    if found.value is None:
        return unjudged(name, f"{measure} has no value", least)
    reason = f"{measure} is {told(found.value, least)}, at least {least:g} is required."
    return Check(name, reaches(found.value, least), reason, found.value, least, found.low, found.high)


def _kept(measure: str, ours: Measured | None, base: Measured | None, most: float) -> Check:
    name = f"regression: {measure}"
    if ours is None or base is None:
        return unjudged(name, f"{measure} was not measured of {'the candidate' if ours is None else 'the base model'}", most)
    if ours.items.keys() != base.items.keys() or ours.asked != base.asked:
        return unjudged(name, f"base and candidate were not asked the same in {measure}", most)
    sides = (ours.items, base.items) if measure == TEXT_LOSS else (base.items, ours.items)
    loss = stats.mean_difference(*sides)
    if loss.value is None:
        return unjudged(name, f"{measure} has no value", most)
    reason = f"{measure} is worse than the base model's by {told(loss.value, most)}, at most {most:g} is allowed."
    if loss.value <= 0:
        reason = f"{measure} is no worse than the base model's."
    return Check(name, reaches(most, loss.value), reason, loss.value, most, loss.low, loss.high)
