"""Can the results of an evaluation be believed? Everything in a `metrics.json` must follow from its outcomes.

Whoever edits one number by hand must edit all of them, and the predictions with their checksum.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calltune import stats
from calltune.breakdown import by_tool
from calltune.metrics import MEANS, NO_CALL, PROPORTIONS, ROBUSTNESS, VERDICTS, label_of, names_in
from calltune.records import canonical, once

Outcomes = dict[str, dict[str, int]]
"""Metric → question id → 0 or 1, for the questions that count in the metric."""
ROUNDING = 1e-6
"""By how much a recorded number may differ from the recomputed one."""
LARGEST = 2**53
"""Above it, a JSON reader that uses floats sees another number than we do."""


class Unsound(Exception):
    """Why results cannot be believed, in one sentence."""


@dataclass(frozen=True)
class Evidence:
    """Results that hold together.

    Attributes:
        n: test questions.
        digest: of the evaluated model.
        fingerprint: of the test set.
        settings: of the evaluation, as canonical JSON.
        template: SHA-256 of the chat template.
        outcomes: per metric and question.
        estimates: the metrics, recomputed from the outcomes; the means as recorded. Without a value and with n = 0
            where the settings do not ask for one.
        robustness: the ways in which the questions were asked again.
        questions: tool on offer → questions that expect it, which may be none.
        verdicts: question id → verdict.
        predictions: recorded SHA-256 of the predictions file.
        seen_in_training: ids of the questions that the model was trained on; None where that is not known.
    """

    n: int
    digest: str
    fingerprint: str
    settings: str
    template: str
    outcomes: Outcomes
    estimates: dict[str, stats.Estimate]
    robustness: tuple[str, ...]
    questions: dict[str, int]
    verdicts: dict[str, str]
    predictions: str
    seen_in_training: tuple[str, ...] | None


def read(text: str) -> Any:
    """JSON in which no key stands twice: of two values for one key a reader sees only the last."""
    try:
        found = json.loads(text, object_pairs_hook=once)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair in a reason is what no decision.json can hold
        return found
    except (RecursionError, ValueError) as error:
        # A JSONDecodeError is a ValueError; read_json says the file's name.
        raise json.JSONDecodeError(str(error), text, 0) from None


def examine(results: Any) -> Evidence:
    """Check the content of a `metrics.json` from end to end.

    Raises:
        Unsound: at the first thing that is missing, misspelt, not finite, or does not follow from the rest.
    """
    if not isinstance(results, dict):
        raise Unsound("the results are not a JSON object")
    if "error" in results:
        raise Unsound(f"the evaluation failed: {str(results['error'])[:200]}")
    if results.get("present") is not True:
        raise Unsound('the results do not say "present": true')
    _refuse_non_finite(results)
    digest, fingerprint, template, predictions = (
        _text(results, key) for key in ("model_digest", "test_fingerprint", "template_sha256", "predictions_sha256")
    )
    settings = results.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise Unsound("settings are missing, so nobody can tell how the answers were made")
    verdicts, robustness = _verdicts(results), _robustness(settings)
    asked_for = (*PROPORTIONS, *(ROBUSTNESS[way] for way in robustness))
    outcomes = _outcomes(results, verdicts, asked_for)
    _refuse_contradictions(verdicts, outcomes)
    estimates = _estimates(results, outcomes, len(verdicts))
    questions = _questions(results, verdicts, outcomes)
    _refuse_other_tools(results)
    for metric in ROBUSTNESS.values():
        outcomes.setdefault(metric, {})
        estimates.setdefault(metric, stats.wilson(0, 0))
    return Evidence(
        n=len(verdicts),
        digest=digest,
        fingerprint=fingerprint,
        settings=canonical(settings),
        template=template,
        outcomes=outcomes,
        estimates=estimates,
        robustness=robustness,
        questions=questions,
        verdicts=verdicts,
        predictions=predictions,
        seen_in_training=_seen(results, verdicts),
    )


def _refuse_non_finite(results: Any) -> None:
    stack: list[tuple[str, Any]] = [("", results)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise Unsound(f"{path} is {value}, which is not a number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise Unsound(f"{path} is larger than any count or number that evaluate writes")
        if isinstance(value, dict):
            stack += [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
        if isinstance(value, list):
            stack += [(f"{path}[{index}]", item) for index, item in enumerate(value)]


def _text(results: dict[str, Any], key: str) -> str:
    value = results.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Unsound(f"{key} is missing")
    return value


def _object(results: dict[str, Any], key: str) -> dict[str, Any]:
    value = results.get(key)
    if not isinstance(value, dict):
        raise Unsound(f"{key} is missing")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _verdicts(results: dict[str, Any]) -> dict[str, str]:
    verdicts, n = _object(results, "verdicts"), results.get("n")
    if not verdicts:
        raise Unsound("no question has a verdict")
    if not _is_count(n) or n != len(verdicts):
        raise Unsound(f"there are {len(verdicts)} verdicts and n is {n}")
    for id_, verdict in verdicts.items():
        if verdict not in VERDICTS:
            raise Unsound(f"question {id_!r} has the verdict {verdict!r}, which does not exist")
    return verdicts


def _seen(results: dict[str, Any], verdicts: dict[str, str]) -> tuple[str, ...] | None:
    seen = results.get("seen_in_training", "")
    if seen is None:
        return None
    if not isinstance(seen, list) or any(not isinstance(id_, str) or id_ not in verdicts for id_ in seen):
        raise Unsound("seen_in_training is missing, or names something else than test questions")
    return tuple(seen)


def _robustness(settings: dict[str, Any]) -> tuple[str, ...]:
    ways = settings.get("robustness", [])
    if not isinstance(ways, list) or any(not isinstance(way, str) or way not in ROBUSTNESS for way in ways):
        raise Unsound(f"the settings name {ways!r} as robustness, which are not ways to ask again")
    if len(set(ways)) < len(ways):
        raise Unsound("the settings name a way to ask again twice")
    return tuple(ways)


def _outcomes(results: dict[str, Any], verdicts: dict[str, str], metrics: tuple[str, ...]) -> Outcomes:
    outcomes: Outcomes = {**_object(results, "outcomes")}
    _refuse_other_names("outcomes", outcomes, metrics)
    for metric in metrics:
        for id_, outcome in _object(outcomes, metric).items():
            if id_ not in verdicts:
                raise Unsound(f"{metric} counts question {id_!r}, which has no verdict")
            if not _is_count(outcome) or outcome > 1:
                raise Unsound(f"{metric} of question {id_!r} is {outcome!r}, neither 0 nor 1")
    again = (metric for metric in metrics if metric not in PROPORTIONS)
    for metric in ("tool_accuracy", "call_accuracy", "ast_call_accuracy", "max_length_stop_rate", *again):
        if len(outcomes[metric]) != len(verdicts):
            raise Unsound(f"{metric} counts {len(outcomes[metric])} of {len(verdicts)} questions")
    asked, silent = outcomes["tool_accuracy_calls"].keys(), outcomes["abstention_accuracy"].keys()
    if asked & silent or len(asked | silent) != len(verdicts):
        raise Unsound("tool_accuracy_calls and abstention_accuracy do not share out the questions between them")
    return outcomes


def _refuse_other_names(where: str, found: dict[str, Any], names: tuple[str, ...]) -> None:
    missing, unknown = sorted(set(names) - found.keys()), sorted(found.keys() - set(names))
    if missing:
        raise Unsound(f"{where} lack {missing[0]}" + (f", and {unknown[0]!r} is unknown" if unknown else ""))
    if unknown:
        raise Unsound(f"{where} name {unknown[0]!r}, which is not a metric")


Outcome = int | None
# What a verdict leaves open: (expects a call, tool_accuracy, call_accuracy, valid_call_rate) that can go with it.
_POSSIBLE: dict[str, Callable[[bool, int, int, Outcome], bool]] = {
    "correct": lambda asked, tools, call, valid: tools == 1 and call == 1 and valid == (1 if asked else None),
    "wrong_arguments": lambda asked, tools, call, valid: asked and tools == 1 and call == 0 and valid == 1,
    # The right tool with an argument that the guard rejects is malformed, and right by tool_accuracy.
    "malformed": lambda asked, tools, call, valid: (asked or tools == 0) and call == 0 and valid == 0,
    "unwanted_call": lambda asked, tools, call, valid: not asked and tools == 0 and call == 0 and valid == 1,
    "missing_call": lambda asked, tools, call, valid: asked and tools == 0 and call == 0 and valid in (None, 1),
    "wrong_tool": lambda asked, tools, call, valid: asked and tools == 0 and call == 0 and valid == 1,
    "extra_call": lambda asked, tools, call, valid: asked and tools == 0 and call == 0 and valid == 1,
}


def _refuse_contradictions(verdicts: dict[str, str], outcomes: Outcomes) -> None:
    for id_, verdict in verdicts.items():
        tools, call = outcomes["tool_accuracy"][id_], outcomes["call_accuracy"][id_]
        asked = id_ in outcomes["tool_accuracy_calls"]
        if not _POSSIBLE[verdict](asked, tools, call, outcomes["valid_call_rate"].get(id_)):
            raise Unsound(f"question {id_!r} is {verdict}, and its outcomes say otherwise")
        if outcomes["tool_accuracy_calls" if asked else "abstention_accuracy"][id_] != tools:
            raise Unsound(f"question {id_!r} is counted differently in tool_accuracy and in its part of the questions")
        if outcomes["ast_call_accuracy"][id_] > call:
            raise Unsound(f"question {id_!r} is right by the stricter ast_call_accuracy and wrong by call_accuracy")


def _estimates(results: dict[str, Any], outcomes: Outcomes, n: int) -> dict[str, stats.Estimate]:
    metrics = _object(results, "metrics")
    names = (*outcomes, *MEANS)
    _refuse_other_names("metrics", metrics, names)
    estimates: dict[str, stats.Estimate] = {}
    for metric in names:
        recorded = _object(metrics, metric)
        if metric in outcomes:
            estimate = stats.wilson(sum(outcomes[metric].values()), len(outcomes[metric]))
        else:
            value, low, high = (recorded.get(key) for key in ("value", "low", "high"))
            if not _ordered(low, value, high):
                raise Unsound(f"{metric} is {value} in the interval {low} to {high}, which cannot be")
            estimate = stats.Estimate(value, low, high, n)
        for key, expected in estimate.as_dict().items():
            if key not in recorded or not close(recorded[key], expected):
                raise Unsound(f"{metric}.{key} is {recorded.get(key)}, but {expected} follows from the outcomes")
        estimates[metric] = estimate
    return estimates


def _ordered(*values: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values)
    return numbers and list(values) == sorted(values)


def close(recorded: Any, expected: float | None) -> bool:
    """Whether a recorded number is the expected one, rounding apart; null is only null."""
    if recorded is None or expected is None:
        return recorded is expected
    if isinstance(recorded, bool) or not isinstance(recorded, int | float):
        return False
    return math.isclose(recorded, expected, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _questions(results: dict[str, Any], verdicts: dict[str, str], outcomes: Outcomes) -> dict[str, int]:
    """Questions by tool on offer, from the confusion matrix, which must say the same as the outcomes."""
    confusion = _object(results, "confusion")
    rows = {expected: _object(confusion, expected) for expected in confusion}
    counts = [count for row in rows.values() for count in row.values()]
    if not all(_is_count(count) for count in counts) or sum(counts) != len(verdicts):
        raise Unsound("the confusion matrix does not add up to n")
    if sum(row.get(expected, 0) for expected, row in rows.items()) != sum(outcomes["tool_accuracy"].values()):
        raise Unsound("the confusion matrix has other right answers than tool_accuracy")
    if sum(rows.get(NO_CALL, {}).values()) != len(outcomes["abstention_accuracy"]):
        raise Unsound("the confusion matrix has other questions without a call than abstention_accuracy")
    questions: Counter[str] = Counter()
    for expected, row in rows.items():
        if label_of(names_in(expected)) != expected:
            raise Unsound(f"the confusion matrix expects {expected!r}, which is no label of tools")
        for tool in set(names_in(expected)):
            questions[tool] += sum(row.values())
    untested = results.get("untested_tools")
    if not isinstance(untested, list) or any(not isinstance(tool, str) or tool in questions for tool in untested):
        raise Unsound("untested_tools is missing, or names something else than tools that no question expects")
    return {**questions, **dict.fromkeys(untested, 0)}


def _refuse_other_tools(results: dict[str, Any]) -> None:
    """Refuse numbers by tool that are not those of the confusion matrix, which has been checked."""
    recorded, expected = _object(results, "tools"), by_tool(results["confusion"])
    if recorded.keys() != expected.keys():
        raise Unsound("the numbers by tool are not of the tools that the confusion matrix expects")
    for tool, parts in expected.items():
        for part, estimate in parts.items():
            found = _object(_object(recorded, tool), part)
            for key, value in estimate.items():
                if key not in found or not close(found[key], value):
                    raise Unsound(f"{part}.{key} of {tool} is {found.get(key)}, but {value} follows from the confusion matrix")
