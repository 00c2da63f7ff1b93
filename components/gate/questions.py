"""The gate's checks of the questions: that they are the ones in the predictions, enough, none that training has seen; and of the
data's age."""

from collections import Counter
from pathlib import Path

from components.gate.check import Check, unjudged
from components.gate.config import GateConfig
from components.gate.evidence import Evidence, Unsound
from components.gate.predictions import Different, check_predictions

LISTED = 20
"""Ids that a reason names; all of them are in `metrics.json`."""


def predictions_check(ours: Evidence, path: Path | None, config: GateConfig) -> tuple[Check, Different | None]:
    """Whether there are predictions, those of the results, and of enough different questions; and which these are, if so."""
    name = "candidate: predictions"
    if path is None:
        told = "none were given, so that nobody can tell whether the results are theirs"
        said = f"{told}: put predictions.jsonl, which evaluate wrote, beside the candidate's metrics.json."
        return Check(name, False, said), None
    try:
        different = check_predictions(ours, path)
    except Unsound as error:
        return Check(name, False, f"{error}."), None
    if len(different) < min(ours.n, config.min_questions):
        reason = f"only {len(different)} of the {ours.n} questions are different ones, at least {config.min_questions} required."
        return Check(name, False, reason), different
    return Check(name, True, "their checksum is the recorded one, and they say what the results say."), different


def enough(ours: Evidence, different: Different | None, config: GateConfig) -> list[Check]:
    """Whether there are as many questions as the config asks for.

    Args:
        ours: the candidate's evidence.
        different: the questions that are no copies; None where nobody can tell, and the candidate is refused for that.
        config: the conditions.
    """
    asked = {"questions": (ours.n, config.min_questions)}
    if config.min_questions_per_tool:
        of_tool = ours.questions if different is None else Counter(tool for tools in different.values() for tool in tools)
        asked |= {f"questions: {tool}": (of_tool[tool], config.min_questions_per_tool) for tool in sorted(ours.questions)}
    if config.min_questions_per_metric:
        conditions = {*config.thresholds, *config.maximum, *config.over_baseline, *config.against_champion}
        counted = {metric: _counted(metric, ours, different) for metric in sorted(conditions)}
        asked |= {f"questions in {metric}": (n, config.min_questions_per_metric) for metric, n in counted.items()}
    return [
        Check(name, n >= least, f"{n} test question{'s' * (n != 1)}, at least {least} required.", n, least)
        for name, (n, least) in asked.items()
    ]


def _counted(metric: str, ours: Evidence, different: Different | None) -> int:
    """How many questions count in a metric; a mean is of all of them."""
    if different is None:
        return ours.estimates[metric].n
    return len(ours.outcomes.get(metric, ours.verdicts).keys() & different.keys())


def fresh(age_days: int | None, config: GateConfig) -> list[Check]:
    """Whether the data is as young as the config asks for."""
    name, most = "data: age", config.max_data_age_days
    if not most:
        return []
    if age_days is None:
        return [unjudged(name, "nobody has said how old the data is", most)]
    said = f"the newest of the data was changed {age_days} day{'s' * (age_days != 1)} ago, at most {most} are allowed."
    return [Check(name, age_days <= most, said, age_days, most)]


def unseen(which: str, evidence: Evidence) -> Check:
    """Whether the model was trained on none of the test questions."""
    name, seen = f"{which}: test unseen", evidence.seen_in_training
    if seen is None:
        # A champion that has seen the test is only harder to beat; one from before there were such lists must not stay for ever.
        lenient = which == "champion"
        said = "so this was not looked at: it could only be harder to beat" if lenient else "so this cannot be judged"
        return Check(name, lenient, f"the model's folder does not say what it was trained on, {said}.")
    if not seen:
        return Check(name, True, "it was trained on none of the test questions.", 0, 0)
    ids = ", ".join(seen[:LISTED]) + (f" and {len(seen) - LISTED} more" if len(seen) > LISTED else "")
    advice = "with format.split.mode: growing no question moves into the test"
    if which != "champion":
        advice = "where it went on from a champion, train.start_from: base begins anew"
    return Check(name, False, f"it was trained on {len(seen)} of the {evidence.n} test questions: {ids}; {advice}.", len(seen), 0)
