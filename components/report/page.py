"""A run as one HTML file: what came out, why, and what the model now says.

Everything here turns the files of the steps before into what `page.html.jinja` prints. No metric is computed anew; only
the differences between base and tuned, with their paired intervals, are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from calltune import stats
from calltune.metrics import LOWER_IS_BETTER, METRICS, names_in
from calltune.pages import plots, render_page
from components.report import beside, breakdown, losses, words
from components.report.costs import SHOWN, costs

ANSWERS_SHOWN = 20
SEVERAL = "several tools"
OTHERS = "other tools"
WRONG_ONES = {SEVERAL: "several, wrong ones", OTHERS: "others, wrong ones"}
SHARE_OF_ITS_OWN = 0.05
"""A combination of tools has a row of its own in the matrix if at least this share of the questions expects it."""
TOOLS_SHOWN = 12


@dataclass(frozen=True)
class Material:
    """What the report is made of: the other steps' JSON files, parsed (the steps' READMEs have their keys)."""

    summary: dict[str, Any]
    """`summary.json`."""
    profile: dict[str, Any]
    """ingest's `profile.json`."""
    stats: dict[str, Any]
    """format's `stats.json`."""
    train: dict[str, Any]
    """train's `metrics.json`."""
    loss: list[dict[str, Any]]
    """The rows of `loss.csv`; numbers may still be text, and empty where a line has only the other loss."""
    base: dict[str, Any]
    """evaluate's `metrics.json` of the base model."""
    candidate: dict[str, Any]
    """The same, of the tuned model."""
    champion: dict[str, Any]
    """The same, of the champion, or `{"present": false}`, or with an `error` and without metrics."""
    base_predictions: list[dict[str, Any]]
    """The rows of the base model's `predictions.jsonl`."""
    candidate_predictions: list[dict[str, Any]]
    """The same, of the tuned model, in the order of the test set."""
    decision: dict[str, Any]
    """gate's `decision.json`."""
    promotion: dict[str, Any]
    """promote's `promotion.json`."""
    notes: list[str] = field(default_factory=list)
    """What Calltune chose where the config says `auto`, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library → version, Calltune's own among them."""


def render(material: Material) -> str:
    """The report's HTML: one self-contained file, every value escaped."""
    models = {"base": material.base, "tuned": material.candidate}
    if "metrics" in material.champion:  # else there is none, or none that could be evaluated
        models["champion"] = material.champion
    outcome, look, why = headline(material)
    return render_page(
        "components.report/page.html.jinja",
        m=material,
        w=words,
        outcome=outcome,
        look=look,
        why=why,
        models=models,
        tiles=_tiles(material),
        numbers=[_number_row(name, models) for name in _metric_names(models)],
        beside=beside.rows(models),
        by_tool=breakdown.by_tool(models),
        by_argument=breakdown.by_argument(models),
        verdict_looks=words.VERDICT_LOOKS,
        loss_plot=losses.curve(material.loss, material.train.get("best_epoch")),
        overfitting=losses.overfitting(material.loss),
        verdict_plot=plots.verdict_bars({name: _verdict_counts(metrics) for name, metrics in models.items()}),
        confusion_plot=plots.confusion_heatmap(folded_confusion(material.candidate["confusion"]))
        if material.candidate["confusion"]
        else None,
        row_plot=_histogram(material.stats["tokens"]["rows"], material.stats["max_tokens"], "tokens of a training row", "rows"),
        supervised_plot=_histogram(
            material.stats["tokens"]["supervised"], None, "supervised tokens of a training row", "supervised"
        ),
        answers=side_by_side(material.base_predictions, material.candidate_predictions),
        costs=costs(material.train),
        told_as_cost=SHOWN,
        strata=_strata(material.stats["strata"]),
        longest_step_s=max((step["seconds"] or 0 for step in material.summary["steps"]), default=0) or 1,
    )


def headline(material: Material) -> tuple[str, str, str]:
    """The outcome in one word, the look of its badge (`good`, `bad`, or empty), and one sentence why."""
    checks, promotion = material.decision["checks"], material.promotion
    target = f"{promotion['model']} version {words.number(promotion['version'])}"
    if promotion.get("unchanged") and promotion.get("promoted"):
        return "unchanged", "", f"The tuned model is the champion already, byte for byte: {target} stays {promotion['alias']}."
    if promotion.get("promoted"):
        before, after = (_tool_accuracy(metrics) for metrics in (material.base, material.candidate))
        best = f", the champion's {_tool_accuracy(material.champion)}" if "metrics" in material.champion else ""
        previous = promotion.get("previous")
        return (
            "promoted",
            "good",
            f"Passed {_all(len(checks))} of the gate: tool accuracy is {after} on {material.candidate['n']} "
            f"held-out questions, the base model's {before}{best}. {target} is now {promotion['alias']}"
            + (f"; before, it was version {words.number(previous)}." if previous is not None else ", the first one."),
        )
    failed = [check for check in checks if not check["passed"]]
    if material.decision["passed"] or not failed:
        return "refused", "bad", f"Passed the gate, but was not promoted: {promotion['reason']}"
    names = words.enumeration([check["name"] for check in failed])
    return (
        "refused",
        "bad",
        f"{len(failed)} of {_all(len(checks), article='')} failed ({names}): {failed[0]['reason'].rstrip('.')}. "
        f"The alias {promotion['alias']} stays where it was.",
    )


def side_by_side(base: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to twenty questions with both models' answers: the tuned model's wrong ones first, then what tuning changed.

    Returns:
        `{"id", "question", "expected": [str], "base": answer or None, "tuned": answer}`, an answer being
        `{"verdict", "calls": [str], "text", "reason", "cut"}`.
    """
    before = {row["id"]: row for row in base}

    def interest(row: dict[str, Any]) -> tuple[bool, bool]:
        return row["verdict"] == "correct", before.get(row["id"], row)["verdict"] == row["verdict"]

    return [
        {
            "id": row["id"],
            "question": row["question"],
            "expected": [words.accepted_call(wanted) for wanted in row["expected"]],
            "base": _answer(before[row["id"]]) if row["id"] in before else None,
            "tuned": _answer(row),
        }
        for row in sorted(tuned, key=interest)[:ANSWERS_SHOWN]
    ]


def folded_confusion(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The confusion matrix with rare combinations of tools as one row and column, so that it can be read.

    A question that expects one combination and gets another is not on the diagonal: its column says so.

    Args:
        confusion: expected names → called names → questions, as evaluate writes it.
    """
    labels = {label for row in confusion.values() for label in row} | set(confusion)
    expected: Counter[str] = Counter({label: sum(row.values()) for label, row in confusion.items()})
    enough = SHARE_OF_ITS_OWN * expected.total()
    singles = [label for label, _ in sorted(expected.items(), key=lambda item: (-item[1], item[0])) if not _combined(label)]
    shown = {label for label in labels if _combined(label) and expected[label] >= enough}
    called: Counter[str] = Counter()
    for row in confusion.values():
        called.update(row)
    # Called but never expected: these columns say what goes wrong; a model may invent any number of names.
    foreign = [label for label in labels if not _combined(label) and label not in expected]
    foreign.sort(key=lambda label: (-called[label], label))
    shown |= {*singles[:TOOLS_SHOWN], *foreign[:TOOLS_SHOWN]}

    def folded(label: str) -> str:
        return label if label in shown else SEVERAL if _combined(label) else OTHERS

    rows: dict[str, Counter[str]] = {}
    for label in sorted(confusion, key=lambda name: (name not in shown, _combined(name), -expected[name], name)):
        cells = rows.setdefault(folded(label), Counter())
        for other, count in confusion[label].items():
            same = other == label or folded(other) != folded(label)
            cells[folded(other) if same else WRONG_ONES[folded(other)]] += count
    return {label: dict(cells) for label, cells in rows.items()}


def _combined(label: str) -> bool:
    """Whether a label of the confusion matrix names several calls: see :func:`calltune.metrics.label_of`."""
    return len(names_in(label)) > 1


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    calls = [words.call(made) for made in row["calls"]]
    return {
        "verdict": row["verdict"],
        "calls": calls,
        # Without a call the text is the answer; malformed calls are only to be seen in the text.
        "text": words.shortened(row["text"]) if not calls or row["verdict"] == "malformed" else "",
        "reason": row.get("reason") if row["verdict"] != "correct" else None,
        "cut": row["stop"] == "length",
    }


def _all(count: int, article: str = "all ") -> str:
    return f"{article if count != 1 else ''}{count} check{'s' if count != 1 else ''}"


def _metric_names(models: Mapping[str, dict[str, Any]]) -> list[str]:
    """The known metrics in their order, then any others."""
    found = {name for metrics in models.values() for name in metrics["metrics"]}
    return [name for name in METRICS if name in found] + sorted(found - set(METRICS))


def _number_row(name: str, models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One line of the numbers table: a cell is (value, interval), a change (difference, interval paired by question, look).

    n is the tuned model's; a cell that counts another number of questions says so.
    """
    none = {"value": None, "low": None, "high": None, "n": 0}
    of_model = {model: metrics["metrics"].get(name, none) for model, metrics in models.items()}
    n = of_model["tuned"]["n"]
    cells = {}
    for model, found in of_model.items():
        spread = words.interval(name, found["low"], found["high"])
        cells[model] = (words.metric(name, found["value"]), words.small_print(spread, found["n"], n))
    changes = {}
    for model in models.keys() - {"tuned"}:
        ours, theirs = (models[side]["outcomes"].get(name, {}) for side in ("tuned", model))
        paired = stats.paired_difference(ours, theirs)
        changes[model] = (
            words.difference(name, of_model[model]["value"], of_model["tuned"]["value"]),
            words.interval(name, paired.low, paired.high),
            words.look(paired.low, paired.high, name in LOWER_IS_BETTER),
        )
    return {
        "name": name,
        "meaning": words.MEANINGS.get(name, ""),
        "cells": cells,
        "changes": changes,
        "n": n,
    }


def _tiles(material: Material) -> list[dict[str, str]]:
    """The four numbers that a reader looks for first."""
    tuned = material.candidate["metrics"]
    others = {"base": material.base, "champion": material.champion}
    tiles = []
    for name, label in (
        ("tool_accuracy", "Tool accuracy"),
        ("call_accuracy", "Call accuracy"),
        ("valid_call_rate", "Valid calls"),
    ):
        found = tuned[name]
        spread = words.interval(name, found["low"], found["high"])
        # The interval stands first: behind another model's number it would be read as that one's.
        told = [f"95 % interval {spread}"] if spread else []
        told += [
            f"{model} {words.metric(name, other['metrics'][name]['value'])}"
            for model, other in others.items()
            if "metrics" in other
        ]
        tiles.append({"label": label, "value": words.metric(name, found["value"]), "sub": " · ".join(told)})
    steps = material.summary["steps"]
    peak = max((step["peak_rss_mib"] for step in steps if step["peak_rss_mib"] is not None), default=None)
    return [
        *tiles,
        {
            "label": "Time of the steps",
            "value": words.duration(sum(step["seconds"] or 0 for step in steps)),
            "sub": f"peak memory {words.memory(peak)}",
        },
    ]


def _tool_accuracy(metrics: Mapping[str, Any]) -> str:
    return words.metric("tool_accuracy", metrics["metrics"]["tool_accuracy"]["value"])


def _verdict_counts(metrics: Mapping[str, Any]) -> dict[str, int]:
    counts = Counter(metrics["verdicts"].values())
    return {verdict: counts[verdict] for verdict in words.VERDICT_LOOKS}


def _histogram(lengths: Sequence[int], limit: int | None, what: str, name: str) -> Markup | None:
    return plots.token_histogram(lengths, limit, what, name) if lengths else None


def _strata(strata: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Rows per expected tool and split, combinations of tools together: `{"label", "counts": {split: rows}}`."""
    folded: dict[str, Counter[str]] = {}
    for split, labels in strata.items():
        for label, count in labels.items():
            folded.setdefault(SEVERAL if _combined(label) else label, Counter())[split] += count
    rows = sorted(folded.items(), key=lambda item: (item[0] == SEVERAL, -item[1].total(), item[0]))
    return [{"label": label, "counts": {split: counts[split] for split in strata}} for label, counts in rows]
