"""The report's table of what was measured beside the tool questions, each number in the unit that a reader knows."""

import math
from collections.abc import Mapping
from typing import Any

from calltune import stats
from calltune.metrics import TEXT_LOSS, is_share
from components.report import words

EXPONENT_MAX = 700.0
"""Nats whose exponential is still a number; of a model that has diverged there can be more."""
NONE: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0, "items": {}, "sha256": None}
ENDS = ("low", "high")
MEANINGS = {
    TEXT_LOSS: "perplexity on the held-out text; lower is better, a difference is in per cent of the other model's",
    "instructions.rouge_l": "words shared with the reference answer, in its order (F1)",
    "instructions.exact_match": "answers that are the reference answer, but for case and spaces",
    "instructions.win_rate": "answers that the judge prefers to the reference answer in both orders; undecided ones count half",
    "instructions.judge_agreement": "of the judge: answers with the same verdict in both orders",
    "instructions.verdict_rate": "of the judge: answers with a verdict in both orders",
    "execution.success": "questions to which the model called something, and each call was valid and ran to its end",
    "execution.finished": "questions that end in an answer in words",
    "execution.retrieved": "questions to which a search found the relevant document",
    "execution.answered": "questions whose final answer has in it what it should",
}


def rows(models: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each measure, as `numbers` of page.py has them:

    `{"name", "meaning", "cells": {model: (value, interval)}, "changes": {other model: (difference, interval, look)}, "n"}`.

    Args:
        models: `metrics.json` of each model, by its name in the report: `base`, `tuned`, and `champion` where there is one.
    """
    found = {model: metrics.get("suites", {}) for model, metrics in models.items()}
    names = dict.fromkeys(name for measures in (found["tuned"], *found.values()) for name in measures)
    return [_row(name, {model: measures.get(name, NONE) for model, measures in found.items()}) for name in names]


def _row(name: str, of_model: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    tuned = of_model["tuned"]
    return {
        "name": name,
        "meaning": MEANINGS.get(name, ""),
        "cells": {
            model: (
                _shown(name, one["value"]),
                words.small_print(_span(*(_shown(name, one[e]) for e in ENDS)), one["n"], tuned["n"]),
            )
            for model, one in of_model.items()
        },
        "changes": {model: _change(name, tuned, one) for model, one in of_model.items() if model != "tuned"},
        "n": tuned["n"],
    }


def _change(name: str, tuned: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str]:
    same = other["sha256"] == tuned["sha256"]
    change = stats.mean_difference(tuned["items"], other["items"]) if same else stats.Estimate(None, None, None, 0)
    value, low, high = (_difference(name, end) for end in (change.value, change.low, change.high))
    return value, _span(low, high), words.look(change.low, change.high, name == TEXT_LOSS)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return words.NOTHING
    if name == TEXT_LOSS:
        return words.number(float(f"{math.exp(value):.4g}")) if value < EXPONENT_MAX else "∞"
    return f"{100 * value:.1f} %" if is_share(name) else words.number(value)


def _difference(name: str, value: float | None) -> str:
    """In percentage points for a share, in per cent for a perplexity, else in the measure's own unit."""
    if value is None:
        return words.NOTHING
    if name == TEXT_LOSS:
        return f"{words.difference('', 0.0, math.expm1(value))} %" if value < EXPONENT_MAX else "∞"
    return words.difference("", 0.0, value) if is_share(name) else f"{value:+.3g}".replace("-", "−")


def _span(low: str, high: str) -> str:
    return "" if words.NOTHING in (low, high) else f"{low.removesuffix(' %')} to {high.removesuffix(' %')}"
