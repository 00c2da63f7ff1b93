"""The gate: what it passes, what it refuses and why, and the ways to fool it."""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune import stats
from calltune.breakdown import by_tool
from calltune.errors import UserError
from calltune.score import summarise
from components.gate.config import GateConfig
from components.gate.step import Check, Decision, gate, run
from tests.components.gate.conftest import ABSENT, Case, N, call, failing, named, only_failing, results

# What it passes


def test_a_better_model_passes_and_every_check_has_its_reason(case: Case) -> None:
    decision = case.decide()
    assert decision.passed, failing(decision)
    assert [check.name for check in decision.checks] == [
        "candidate: results",
        "candidate: predictions",
        "questions",
        "candidate: test unseen",
        "base: results",
        "base: same test",
        "champion: results",
        "champion: same test",
        "champion: test unseen",
        "threshold: tool_accuracy",
        "threshold: valid_call_rate",
        "maximum: max_length_stop_rate",
        "over base: tool_accuracy",
        "against champion: tool_accuracy",
    ]
    assert all(check.reason.endswith(".") and len(check.reason) > 20 for check in decision.checks)
    assert decision.champion == {"version": "4", "digest": "digest of champion"}
    assert decision.candidate == {"digest": "digest of candidate"}


def test_observed_required_and_interval_are_in_the_checks(case: Case) -> None:
    decision = case.decide()
    right = sum(case.candidate["outcomes"]["tool_accuracy"].values())
    assert right == 94, "of ten wrong answers four have the right tool"
    threshold = named(decision, "threshold: tool_accuracy")
    interval = stats.wilson(94, N)
    assert (threshold.observed, threshold.required, threshold.low, threshold.high) == (0.94, 0.9, interval.low, interval.high)
    assert threshold.reason == "tool_accuracy is 0.94, at least 0.9 is required."
    maximum = named(decision, "maximum: max_length_stop_rate")
    assert (maximum.observed, maximum.required) == (0.02, 0.02)
    assert maximum.reason == "max_length_stop_rate is 0.02, at most 0.02 is required."
    base = named(decision, "over base: tool_accuracy")
    gain = stats.paired_difference(case.candidate["outcomes"]["tool_accuracy"], case.baseline["outcomes"]["tool_accuracy"])
    assert gain.value == pytest.approx(0.94 - 0.2)
    assert (base.observed, base.required, base.low, base.high) == (gain.value, 0.1, gain.low, gain.high)
    assert base.reason == "tool_accuracy gains +0.74 over the base model, at least +0.1 is required."
    champion = named(decision, "against champion: tool_accuracy")
    paired = stats.paired_difference(case.candidate["outcomes"]["tool_accuracy"], case.champion["outcomes"]["tool_accuracy"])
    assert (champion.observed, champion.low, champion.high) == (paired.value, paired.low, paired.high)
    assert champion.required == 0.1
    assert "its interval begins at +0.25 and must begin above +0.1" in champion.reason
    questions = named(decision, "questions")
    assert (questions.observed, questions.required) == (100, 50)


@pytest.mark.parametrize("absent", [ABSENT, {"present": False}])
def test_without_a_champion_the_first_model_passes_and_it_is_said(case: Case, absent: dict[str, Any]) -> None:
    case.champion = absent
    decision = case.decide()
    assert decision.passed, failing(decision)
    assert named(decision, "champion: results").reason == "there is no champion yet: this would be the first."
    assert decision.champion == {"version": None, "digest": None}
    assert not [check for check in decision.checks if check.name.startswith("against champion")]


def test_a_champion_evaluated_when_it_was_a_candidate_will_do(case: Case) -> None:
    case.champion["which"] = "candidate"
    assert case.decide().passed


def test_a_champion_may_have_another_template(case: Case) -> None:
    case.champion["template_sha256"] = "another"
    assert case.decide().passed


def test_without_comparisons_neither_base_nor_champion_is_needed(case: Case) -> None:
    case.config = {"thresholds": {"tool_accuracy": 0.9}}
    case.baseline = case.champion = None
    decision = case.decide()
    assert decision.passed, failing(decision)
    assert "no condition compares with it" in named(decision, "champion: results").reason


@pytest.mark.parametrize(("version", "said"), [(4, "4"), ("4", "4"), (True, None), ([4], None), (None, None)])
def test_a_version_is_named_as_text_and_what_is_none_is_left_out(case: Case, version: Any, said: str | None) -> None:
    case.champion["version"] = version
    assert case.decide().champion == {"version": said, "digest": "digest of champion"}


def test_a_digest_that_is_no_text_is_left_out(case: Case) -> None:
    case.champion["model_digest"] = case.candidate["model_digest"] = 7
    decision = case.decide()
    assert not decision.passed
    assert (decision.candidate, decision.champion["digest"]) == ({"digest": None}, None)


def test_the_candidate_that_is_the_champion_passes_and_changes_nothing(case: Case) -> None:
    case.champion = {**copy.deepcopy(case.candidate), "which": "champion", "version": "4"}
    decision = case.decide()
    assert decision.passed, failing(decision)
    check = named(decision, "against champion: tool_accuracy")
    assert "is the champion itself" in check.reason
    assert (check.observed, check.required) == (0.0, 0.1)


@pytest.mark.parametrize("digest", ["a", "z"])
def test_a_champion_with_any_other_digest_is_another_model(case: Case, digest: str) -> None:
    case.champion = {**copy.deepcopy(case.candidate), "which": "champion", "version": "4", "model_digest": digest}
    check = only_failing(case.decide())
    assert check.name == "against champion: tool_accuracy"
    assert "its interval begins at +0 and must begin above +0.1" in check.reason


@pytest.mark.parametrize("test", ["better", "not_worse"])
def test_an_interval_that_begins_at_the_margin_does_not_lie_above_it(case: Case, test: str) -> None:
    wrong = 0 if test == "better" else 11
    case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in range(20, 20 + wrong)})
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(20, 30)})
    low = stats.paired_difference(case.candidate["outcomes"]["tool_accuracy"], case.champion["outcomes"]["tool_accuracy"]).low
    assert low is not None
    for above, passed in ((0.0, False), (0.001, True)):
        margin = low - above if test == "better" else above - low
        case.config = {"against_champion": {"tool_accuracy": {"test": test, "margin": margin}}}
        assert case.decide().passed is passed


def test_a_gain_of_exactly_the_margin_is_enough_whatever_floats_say(case: Case) -> None:
    case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in range(20, 30)})
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(20, 40)})
    case.config = {"against_champion": {"tool_accuracy": {"test": "point", "margin": 0.1}}}
    assert 0.9 - 0.8 < 0.1
    assert case.decide().passed
    case.config["against_champion"]["tool_accuracy"]["margin"] = 0.11
    assert "gains +0.1 over the champion, at least +0.11" in only_failing(case.decide()).reason


@pytest.mark.parametrize(
    ("test", "margin", "wrong", "passed"),
    [
        ("better", 0.0, 10, False),
        ("better", 0.0, 8, False),
        ("better", 0.0, 0, True),
        ("better", 0.2, 0, False),
        ("not_worse", 0.05, 10, True),
        ("not_worse", 0.05, 11, True),
        ("not_worse", 0.01, 11, False),
        ("not_worse", 0.05, 20, False),
        ("point", 0.0, 10, True),
        ("point", 0.0, 11, False),
        ("point", -0.01, 11, True),
    ],
)
def test_tests_against_a_champion_with_ten_wrong(case: Case, test: str, margin: float, wrong: int, passed: bool) -> None:
    case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in range(20, 20 + wrong)})
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(20, 30)})
    case.config = {"against_champion": {"tool_accuracy": {"test": test, "margin": margin}}}
    if (test, wrong) == ("better", 8):
        # Eight won back and six lost elsewhere: two more right, which is noise.
        case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in [*range(28, 30), *range(40, 46)]})
    decision = case.decide()
    assert decision.passed is passed, [check.reason for check in decision.checks]
    assert named(decision, "against champion: tool_accuracy").required == (-margin if test == "not_worse" else margin)


def test_of_a_metric_where_less_is_better_a_lower_one_is_the_gain(case: Case) -> None:
    wrong = {f"q{i}": "unreadable" for i in range(30, 50)}
    worse = case.make("champion", wrong)
    case.config = {"against_champion": {"max_length_stop_rate": {"test": "better", "margin": 0.05}}}
    case.candidate, case.champion = case.make("candidate", {}), worse
    decision = case.decide()
    assert decision.passed
    assert named(decision, "against champion: max_length_stop_rate").observed == pytest.approx(0.2)
    case.candidate, case.champion = case.make("candidate", wrong), case.make("champion", {})
    assert named(case.decide(), "against champion: max_length_stop_rate").observed == pytest.approx(-0.2)


def test_a_condition_that_is_met_exactly_is_met(case: Case) -> None:
    case.config = {
        "thresholds": {"tool_accuracy": 0.94},
        "over_baseline": {"tool_accuracy": 0.74},
        "maximum": {"max_length_stop_rate": 0.02, "prompt_tokens_mean": 549.5},
        "against_champion": {"tool_accuracy": {"test": "point", "margin": 0.34}},
    }
    decision = case.decide()
    assert decision.passed, failing(decision)


@pytest.mark.parametrize(
    ("age", "passed", "reason"),
    [
        (0, True, "the newest of the data was changed 0 days ago, at most 30 are allowed."),
        (30, True, "the newest of the data was changed 30 days ago, at most 30 are allowed."),
        (31, False, "the newest of the data was changed 31 days ago, at most 30 are allowed."),
        (None, False, "cannot be judged: nobody has said how old the data is."),
    ],
)
def test_the_age_of_the_data(case: Case, age: int | None, passed: bool, reason: str) -> None:
    config = GateConfig.model_validate({**case.config, "max_data_age_days": 30})
    decision = gate(case.candidate, case.baseline, case.champion, config, case.predictions, age)
    check = named(decision, "data: age")
    assert (decision.passed, check.passed, check.reason, check.observed, check.required) == (passed, passed, reason, age, 30)
    alone = GateConfig(max_data_age_days=30)
    assert not gate(case.candidate, None, None, alone, case.predictions, age).passed, "young data alone promotes nothing"


KNOWLEDGE = "general.knowledge.acc"


def knowledge(right: int, of: int = 40) -> dict[str, Any]:
    items = {f"knowledge/{number}": float(number < right) for number in range(of)}
    return {KNOWLEDGE: {**stats.of_items(items).as_dict(), "sha256": "a" * 64, "items": items}}


@pytest.mark.parametrize(
    ("suites", "refused"),
    [
        ({"suites": {KNOWLEDGE: 0.75}, "regression": {KNOWLEDGE: 0.05}}, []),
        ({"suites": {KNOWLEDGE: 0.76}}, [f"suite: {KNOWLEDGE}"]),
        ({"regression": {KNOWLEDGE: 0.04}}, [f"regression: {KNOWLEDGE}"]),
    ],
)
def test_what_the_suites_measured_decides_too(case: Case, suites: dict[str, Any], refused: list[str]) -> None:
    case.candidate["suites"], case.baseline["suites"] = knowledge(30), knowledge(32)
    case.config |= suites
    decision = case.decide()
    assert [check.name for check in decision.checks if not check.passed] == refused


def test_a_loss_cannot_be_judged_without_a_base_model_of_the_same_test(case: Case) -> None:
    case.candidate["suites"], case.baseline["suites"] = knowledge(30), knowledge(30)
    case.config |= {"regression": {KNOWLEDGE: 0.05}}
    case.baseline["test_fingerprint"] = "0" * 64
    assert f"regression: {KNOWLEDGE}" in [check.name for check in case.decide().checks if not check.passed]


def test_suites_of_a_candidate_that_is_not_believed_pass_nothing(case: Case) -> None:
    case.candidate["suites"] = knowledge(40)
    case.config |= {"suites": {KNOWLEDGE: 0.75}}
    case.candidate["n"] += 1
    assert not named(case.decide(), f"suite: {KNOWLEDGE}").passed


def test_only_a_gate_without_other_conditions_needs_as_many_items_as_questions(case: Case) -> None:
    case.candidate["suites"] = knowledge(40)
    case.config |= {"suites": {KNOWLEDGE: 0.75}}
    assert case.decide().passed
    case.config = {"suites": {KNOWLEDGE: 0.75}}
    assert only_failing(case.decide()).reason == "40 items, at least 50 required."


# Conditions that are not met


@pytest.mark.parametrize(
    ("config", "name", "reason"),
    [
        ({"thresholds": {"tool_accuracy": 0.95}}, "threshold: tool_accuracy", "is 0.94, at least 0.95"),
        ({"thresholds": {"call_accuracy": 0.91}}, "threshold: call_accuracy", "is 0.9, at least 0.91"),
        ({"maximum": {"max_length_stop_rate": 0.01}}, "maximum: max_length_stop_rate", "is 0.02, at most 0.01"),
        ({"maximum": {"prompt_tokens_mean": 500}}, "maximum: prompt_tokens_mean", "is 549.5, at most 500"),
        ({"over_baseline": {"tool_accuracy": 0.75}}, "over base: tool_accuracy", "at least +0.75"),
        ({"min_questions": 101, "thresholds": {"tool_accuracy": 0.5}}, "questions", "100 test questions, at least 101"),
        (
            {"min_questions_per_tool": 11, "thresholds": {"tool_accuracy": 0.5}},
            "questions: ticket",
            "10 test questions, at least 11 required",
        ),
        ({"over_baseline": {"valid_call_rate": 0.1}}, "over base: valid_call_rate", "has no value on one side"),
    ],
)
def test_a_condition_that_is_not_met_refuses(case: Case, config: dict[str, Any], name: str, reason: str) -> None:
    case.config = config
    check = only_failing(case.decide())
    assert check.name == name
    assert reason in check.reason


def test_each_tool_has_its_own_count(case: Case) -> None:
    case.config["min_questions_per_tool"] = 10
    decision = case.decide()
    assert decision.passed
    assert [named(decision, f"questions: {tool}").observed for tool in ("search", "ticket")] == [70, 10]


def test_a_tool_on_offer_that_no_question_expects_has_too_few(case: Case) -> None:
    case.candidate["untested_tools"] = ["refund"]
    assert case.decide().passed, "nobody asks for questions by tool"
    case.config["min_questions_per_tool"] = 1
    check = only_failing(case.decide())
    assert (check.name, check.reason) == ("questions: refund", "0 test questions, at least 1 required.")


@pytest.mark.parametrize("untested", [None, "refund", [7], ["search"]])
def test_untested_tools_that_are_none_are_not_believed(case: Case, untested: Any) -> None:
    case.candidate["untested_tools"] = untested
    assert "untested_tools is missing, or names something else" in named(case.decide(), "candidate: results").reason


# Ways to fool it: each edits what a passing gate would read. The value is a part of the reason that it must give.

Fool = Callable[[Case], None]
NAN, INF = float("nan"), float("inf")


def put(*path: Any, value: Any, side: str = "candidate") -> Fool:
    """Overwrite one value in a side's results."""

    def edit(case: Case) -> None:
        target = getattr(case, side)
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return edit


def drop(*path: Any, side: str = "candidate") -> Fool:
    def edit(case: Case) -> None:
        target = getattr(case, side)
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return edit


def rename(metric: str, to: str) -> Fool:
    def edit(case: Case) -> None:
        case.candidate["metrics"][to] = case.candidate["metrics"].pop(metric)

    return edit


def all_outcomes_right(case: Case) -> None:
    """Every outcome and metric is edited to match, but not the verdicts."""
    for metric in ("tool_accuracy", "call_accuracy", "tool_accuracy_calls"):
        counted = case.candidate["outcomes"][metric]
        case.candidate["outcomes"][metric] = dict.fromkeys(counted, 1)
        case.candidate["metrics"][metric] = stats.wilson(len(counted), len(counted)).as_dict()


def all_results_right(case: Case) -> None:
    """A whole, sound set of results with every answer right, beside the predictions of another one."""
    assert case.predictions is not None
    forged = results(case.folder / "forged.jsonl", "candidate", {})
    case.candidate = forged | {"predictions_sha256": case.candidate["predictions_sha256"]}


def forged_checksum_too(case: Case) -> None:
    """Results of nothing but right answers, with the checksum of the true predictions, in which some are wrong."""
    true = results(case.folder / "true.jsonl", "candidate", {"q50": "wrong argument"})
    forged = results(case.folder / "forged.jsonl", "candidate", {})
    case.candidate = forged | {"predictions_sha256": true["predictions_sha256"]}
    case.predictions = case.folder / "true.jsonl"


def edited_row(row: int = 99, **changes: Any) -> Fool:
    """Predictions of which one row says something else, with a checksum that is right for them."""

    def edit(case: Case) -> None:
        assert case.predictions is not None
        rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
        rows[row] |= changes
        write_predictions(case, rows)

    return edit


def write_predictions(case: Case, rows: list[Any]) -> None:
    case.predictions = case.folder / "edited.jsonl"
    case.predictions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    case.candidate["predictions_sha256"] = hashlib.sha256(case.predictions.read_bytes()).hexdigest()


def doubled_row(case: Case) -> None:
    assert case.predictions is not None
    rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
    write_predictions(case, [*rows[:-1], rows[-2]])


def copied_questions(case: Case) -> None:
    """Those without a call are different ones; those with a call, to two tools, all ask the same."""
    assert case.predictions is not None
    rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
    write_predictions(case, [*rows[:20], *(row | {"question": rows[-1]["question"]} for row in rows[20:])])


def the_base_as_the_champion(case: Case) -> None:
    """The base model is easier to beat than the champion."""
    case.champion = {**copy.deepcopy(case.baseline), "version": "4"}


def other_arguments(**arguments: Any) -> Fool:
    return edited_row(calls=[{"name": "search", "arguments": arguments}])


def a_partial_answer_not_counted_as_an_attempt(case: Case) -> None:
    """Of two expected calls one is made; that it was an attempt is left out, in results and predictions that agree."""
    assert case.predictions is not None
    rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
    silent = next(row for row in rows if row["id"] == "q34")
    silent["expected"], silent["calls"] = silent["expected"] * 2, [call("search")]
    confusion = case.candidate["confusion"]
    confusion["search"]["no call"] -= 1
    confusion["search + search"] = {"search": 1}
    case.candidate["tools"] = by_tool(confusion)
    write_predictions(case, rows)


def settings_without_end(case: Case) -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    case.candidate["settings"]["x"] = deep


def luck(case: Case) -> None:
    """Four questions more right than the champion's, none less: as likely as four heads in a row."""
    case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in range(24, 30)})
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(20, 30)})
    case.config = {"against_champion": {"tool_accuracy": {"test": "better", "margin": 0.0}}}


def a_condition_on_few_questions(case: Case) -> None:
    case.config = {"thresholds": {"abstention_accuracy": 0.9}, "min_questions_per_metric": 21}


def not_predictions(case: Case) -> None:
    write_predictions(case, ["q1", "q2"])


def no_predictions_file(case: Case) -> None:
    case.predictions = case.folder / "absent.jsonl"


def no_predictions_given(case: Case) -> None:
    case.predictions = None


def touched_predictions(case: Case) -> None:
    assert case.predictions is not None
    copied = case.folder / "touched.jsonl"
    copied.write_bytes(case.predictions.read_bytes() + b"\n")
    case.predictions = copied


def three_questions(case: Case) -> None:
    case.candidate, case.baseline, case.champion = (case.make(side, {}, n=3) for side in ("candidate", "base", "champion"))
    case.config = {"thresholds": {"tool_accuracy": 1.0}}


def fewer_questions_for_the_champion(case: Case) -> None:
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(40, N)}, n=60)


def other_questions_without_a_call(case: Case) -> None:
    """The champion's results count a question without a call as one with a call."""
    champion = case.champion
    for metric in ("abstention_accuracy", "tool_accuracy_calls"):
        counted = champion["outcomes"][metric]
        if metric == "abstention_accuracy":
            champion["outcomes"]["tool_accuracy_calls"]["q0"] = counted.pop("q0")
            champion["outcomes"]["valid_call_rate"]["q0"] = 1
    champion["confusion"]["search"]["search"] += 1
    champion["confusion"]["no call"]["no call"] -= 1
    champion["tools"] = by_tool(champion["confusion"])
    for metric in ("abstention_accuracy", "tool_accuracy_calls", "valid_call_rate"):
        counted = champion["outcomes"][metric]
        champion["metrics"][metric] = stats.wilson(sum(counted.values()), len(counted)).as_dict()


def exchanged_questions(case: Case) -> None:
    """The champion was asked as many questions of each kind, but of one with a call and one without each was the other there."""
    outcomes = case.champion["outcomes"]
    for metric in ("tool_accuracy_calls", "valid_call_rate"):
        outcomes[metric]["q0"] = outcomes[metric].pop("q99")
    outcomes["abstention_accuracy"]["q99"] = outcomes["abstention_accuracy"].pop("q0")


def no_fingerprint(case: Case) -> None:
    for side in ("candidate", "baseline", "champion"):
        drop("test_fingerprint", side=side)(case)


def no_conditions(case: Case) -> None:
    case.config = {}


def only_a_comparison_with_nobody(case: Case) -> None:
    case.config = {"against_champion": {"tool_accuracy": {"test": "better"}}}
    case.champion = ABSENT


def nobody_looked_for_a_champion(case: Case) -> None:
    case.champion = None


def no_baseline(case: Case) -> None:
    case.baseline = None


def empty(case: Case) -> None:
    case.candidate |= summarise({})


def swapped(case: Case) -> None:
    """The base model's results as the candidate's, the candidate's as the base model's."""
    case.candidate, case.baseline = case.baseline, case.candidate
    case.predictions = None
    case.config = {"maximum": {"max_length_stop_rate": 0.02}}


def the_champion_as_the_candidate(case: Case) -> None:
    """The champion has been let through once."""
    case.candidate = case.champion
    case.predictions = None
    case.config = {"thresholds": {"tool_accuracy": 0.5}}


def an_invalid_call_counted_as_valid(case: Case) -> None:
    valid = case.candidate["outcomes"]["valid_call_rate"]
    valid.update(dict.fromkeys(valid, 1))
    case.candidate["metrics"]["valid_call_rate"] = stats.wilson(len(valid), len(valid)).as_dict()


def a_bad_answer_not_counted_as_an_attempt(case: Case) -> None:
    valid = case.candidate["outcomes"]["valid_call_rate"]
    valid = case.candidate["outcomes"]["valid_call_rate"] = {id_: 1 for id_, outcome in valid.items() if outcome}
    case.candidate["metrics"]["valid_call_rate"] = stats.wilson(len(valid), len(valid)).as_dict()


def a_part_counted_otherwise_than_the_whole(case: Case) -> None:
    case.candidate["outcomes"]["tool_accuracy_calls"]["q30"] = 1
    counted = case.candidate["outcomes"]["tool_accuracy_calls"]
    case.candidate["metrics"]["tool_accuracy_calls"] = stats.wilson(sum(counted.values()), len(counted)).as_dict()


def stricter_but_higher(case: Case) -> None:
    case.candidate["outcomes"]["ast_call_accuracy"]["q30"] = 1


def a_number_where_results_should_be(case: Case) -> None:
    case.candidate = 1  # type: ignore[assignment]


WAYS: dict[str, tuple[Fool, str]] = {
    "NaN as the value": (put("metrics", "tool_accuracy", "value", value=NAN), "metrics.tool_accuracy.value is nan"),
    "NaN in an interval": (put("metrics", "call_accuracy", "low", value=NAN), "metrics.call_accuracy.low is nan"),
    "+inf as the value": (put("metrics", "tool_accuracy", "value", value=INF), "metrics.tool_accuracy.value is inf"),
    "-inf for a limit": (put("metrics", "max_length_stop_rate", "value", value=-INF), "max_length_stop_rate.value is -inf"),
    "NaN in a list of the settings": (put("settings", "x", value=[NAN]), "settings.x[0] is nan"),
    "NaN as the base model's value": (put("metrics", "tool_accuracy", "value", value=NAN, side="baseline"), "is nan"),
    "NaN as the champion's value": (put("metrics", "tool_accuracy", "value", value=NAN, side="champion"), "is nan"),
    "null as the value": (put("metrics", "tool_accuracy", "value", value=None), "tool_accuracy.value is None, but 0.94"),
    "a string as the value": (put("metrics", "tool_accuracy", "value", value="0.94"), "tool_accuracy.value is 0.94, but"),
    "true as the value": (put("metrics", "abstention_accuracy", "value", value=True), "abstention_accuracy.value is True"),
    "a value too large for a float": (put("metrics", "tool_accuracy", "value", value=10**400), "is larger than any count"),
    "a missing metric": (drop("metrics", "tool_accuracy"), "metrics lack tool_accuracy"),
    "a misspelt metric": (rename("tool_accuracy", "tool_acuracy"), "metrics lack tool_accuracy, and 'tool_acuracy' is unknown"),
    "a metric that nobody knows": (put("metrics", "quality", value={}), "metrics name 'quality', which is not a metric"),
    "a metric that is a bare number": (put("metrics", "tool_accuracy", value=0.99), "tool_accuracy is missing"),
    "a metric without its n": (drop("metrics", "tool_accuracy", "n"), "tool_accuracy.n is None, but 100"),
    "missing metrics": (drop("metrics"), "metrics is missing"),
    "missing outcomes": (drop("outcomes"), "outcomes is missing"),
    "missing outcomes of a metric": (drop("outcomes", "call_accuracy"), "outcomes lack call_accuracy"),
    "a value edited by hand": (put("metrics", "tool_accuracy", "value", value=0.99), "0.99, but 0.94 follows"),
    "an n edited by hand": (put("metrics", "tool_accuracy", "n", value=10000), "tool_accuracy.n is 10000, but 100 follows"),
    "an interval edited by hand": (put("metrics", "tool_accuracy", "low", value=0.93), "tool_accuracy.low is 0.93, but"),
    "a champion made worse by hand": (
        put("metrics", "tool_accuracy", "value", value=0.1, side="champion"),
        "tool_accuracy.value is 0.1, but 0.6 follows",
    ),
    "a base model made worse by hand": (
        put("metrics", "tool_accuracy", "value", value=0.0, side="baseline"),
        "tool_accuracy.value is 0.0, but 0.2 follows",
    ),
    "an outcome edited by hand": (put("outcomes", "tool_accuracy", "q30", value=1), "'q30' is wrong_tool, and its outcomes say"),
    "outcomes and metrics edited by hand": (all_outcomes_right, "is wrong_tool, and its outcomes say otherwise"),
    "a verdict edited by hand": (put("verdicts", "q30", value="correct"), "'q30' is correct, and its outcomes say otherwise"),
    "a verdict that does not exist": (put("verdicts", "q30", value="fine"), "verdict 'fine', which does not exist"),
    "a verdict that is a list": (put("verdicts", "q30", value=[]), "verdict [], which does not exist"),
    "an outcome of 2": (put("outcomes", "tool_accuracy", "q50", value=2), "'q50' is 2, neither 0 nor 1"),
    "an outcome of -1": (put("outcomes", "max_length_stop_rate", "q50", value=-1), "'q50' is -1, neither 0 nor 1"),
    "an outcome of true": (put("outcomes", "tool_accuracy", "q50", value=True), "'q50' is True, neither 0 nor 1"),
    "an outcome of 0.99": (put("outcomes", "tool_accuracy", "q50", value=0.99), "neither 0 nor 1"),
    "an outcome left out": (drop("outcomes", "tool_accuracy", "q30"), "tool_accuracy counts 99 of 100 questions"),
    "a stop left out": (drop("outcomes", "max_length_stop_rate", "q33"), "max_length_stop_rate counts 99 of 100"),
    "an outcome of no question": (put("outcomes", "valid_call_rate", "q999", value=1), "'q999', which has no verdict"),
    "a question in neither part": (drop("outcomes", "tool_accuracy_calls", "q30"), "do not share out the questions"),
    "a question in both parts": (put("outcomes", "abstention_accuracy", "q30", value=0), "do not share out the questions"),
    "a part counted otherwise than the whole": (a_part_counted_otherwise_than_the_whole, "'q30' is counted differently"),
    "ast right where any is wrong": (stricter_but_higher, "right by the stricter ast_call_accuracy"),
    "an invalid call counted as valid": (an_invalid_call_counted_as_valid, "is malformed, and its outcomes say otherwise"),
    "bad answers not counted as attempts": (a_bad_answer_not_counted_as_an_attempt, "is malformed, and its outcomes"),
    "a verdict left out": (drop("verdicts", "q30"), "there are 99 verdicts and n is 100"),
    "an n that is not the verdicts'": (put("n", value=5000), "there are 100 verdicts and n is 5000"),
    "an n of null": (put("n", value=None), "there are 100 verdicts and n is None"),
    "a confusion matrix that does not add up": (put("confusion", "search", "search", value=99), "does not add up to n"),
    "a confusion matrix with other right answers": (
        put("confusion", value={"search": {"search": 80}, "no call": {"no call": 20}}),
        "the confusion matrix has other right answers than tool_accuracy",
    ),
    "a confusion matrix without silent questions": (
        put("confusion", value={"search": {"search": 94, "no call": 6}}),
        "other questions without a call",
    ),
    "a negative count": (put("confusion", "search", "x", value=-1), "does not add up to n"),
    "no question at all": (empty, "no question has a verdict"),
    "three questions, all right": (three_questions, "3 test questions, at least 50 required"),
    "another test set for the champion": (
        put("test_fingerprint", value="easier" * 8, side="champion"),
        "the test sets differ: fedcba98fedc and easiereasier.",
    ),
    "another test set, later in the alphabet": (put("test_fingerprint", value="zzz", side="champion"), "the test sets differ"),
    "another test set for the base": (put("test_fingerprint", value="harder", side="baseline"), "the test sets differ"),
    "no fingerprint on either side": (
        no_fingerprint,
        "test_fingerprint is missing",
    ),
    "other settings for the champion": (put("settings", "max_new_tokens", value=8, side="champion"), "the settings of the"),
    "other settings for the base": (put("settings", "max_new_tokens", value=1, side="baseline"), "the settings of the"),
    "no settings": (put("settings", value={}), "settings are missing"),
    "a base asked with another template": (put("template_sha256", value="other", side="baseline"), "another chat template"),
    "a base asked with another template, later in the alphabet": (
        put("template_sha256", value="zzz", side="baseline"),
        "another chat template",
    ),
    "a champion asked fewer questions": (fewer_questions_for_the_champion, "the questions are not the same"),
    "a champion asked other questions": (other_questions_without_a_call, "the questions are not the same"),
    "a champion asked other questions, as many of each kind": (exchanged_questions, "the questions are not the same"),
    "no digest": (drop("model_digest"), "model_digest is missing"),
    "an empty digest": (put("model_digest", value=""), "model_digest is missing"),
    "no checksum of the predictions": (drop("predictions_sha256"), "predictions_sha256 is missing"),
    "predictions with another checksum": (touched_predictions, "the predictions have SHA-256"),
    "no predictions": (no_predictions_given, "none were given, so that nobody can tell whether the results are theirs: put pred"),
    "predictions that are not there": (no_predictions_file, "the predictions cannot be read: No such file"),
    "sound results beside other predictions": (all_results_right, "'q30' is wrong_tool in the predictions and correct"),
    "one wrong answer forged with its checksum": (forged_checksum_too, "'q50' is wrong_arguments in the predictions and"),
    "predictions with another verdict": (edited_row(verdict="wrong_tool"), "'q99' is wrong_tool in the predictions"),
    "predictions that ended otherwise": (edited_row(stop="length"), "'q99' does not end in the predictions as"),
    "predictions that call another tool": (edited_row(calls=[call("ticket")]), "'q99' calls other tools"),
    "predictions that call the right tool after all": (edited_row(30, calls=[call("search")]), "'q30' calls other tools"),
    "malformed predictions that call another tool": (edited_row(32, calls=[call("ticket")]), "'q32' calls other tools"),
    "predictions that call nothing": (edited_row(calls=[], expected=[]), "'q99' expects another answer"),
    "predictions that expect another tool": (
        edited_row(calls=[call("ticket")], expected=[{"name": "ticket", "arguments": {"query": ["x"], "limit": [3]}}]),
        "expect other tools than the confusion matrix",
    ),
    "predictions with other prompts": (edited_row(prompt_tokens=9), "prompt_tokens_mean does not follow from the predictions"),
    "predictions without prompt tokens": (edited_row(prompt_tokens=None), "are not what evaluate writes: TypeError"),
    "predictions with half a surrogate pair": (edited_row(verdict="\ud800"), "are not what evaluate writes: UnicodeEncodeError"),
    "predictions with a row twice": (doubled_row, "not of the questions that have a verdict, each once"),
    "questions that are copies of one": (copied_questions, "only 22 of the 100 questions are different ones, at least 50"),
    "predictions with another number": (
        other_arguments(query="x", limit=4),
        "'q99' has other arguments in the predictions than ast",
    ),
    "predictions with another text": (
        other_arguments(query="y", limit=3),
        "has other arguments in the predictions than ast_call",
    ),
    "predictions that leave out an argument": (other_arguments(query="x"), "has other arguments in the predictions than"),
    "a partial answer not counted as an attempt": (
        a_partial_answer_not_counted_as_an_attempt,
        "'q34' is counted in valid_call_rate other than its calls in the predictions say",
    ),
    "the base model's results as the champion's": (the_base_as_the_champion, "they are the results of 'base', not of 'champion'"),
    "the champion's results as the candidate's": (
        the_champion_as_the_candidate,
        "they are the results of 'champion', not of 'candidate'",
    ),
    "the results of something else as the champion's": (
        put("which", value="teacher", side="champion"),
        "they are the results of 'teacher', not of 'champion'",
    ),
    "settings nested without end": (settings_without_end, "nested deeper than anything that evaluate writes"),
    "a digest of blanks": (put("model_digest", value=" "), "model_digest is missing"),
    "luck on four questions": (
        luck,
        "its interval begins at +0.01 and must begin above +0. "
        "McNemar's test, whichever of the two is better: p = 0.12, at most 0.05 is required",
    ),
    "a condition that few questions count in": (a_condition_on_few_questions, "20 test questions, at least 21 required"),
    "predictions that are no predictions": (not_predictions, "the predictions are not what evaluate writes"),
    "no conditions": (no_conditions, "no condition applies"),
    "only a comparison with nobody": (only_a_comparison_with_nobody, "no condition applies"),
    "nobody looked for a champion": (nobody_looked_for_a_champion, 'if there is none, say {"present": false}'),
    "a champion that could not be evaluated": (
        lambda case: setattr(case, "champion", {"present": True, "which": "champion", "version": "4", "error": "no such model"}),
        "the evaluation failed: no such model",
    ),
    "a champion that failed, said to be absent": (
        lambda case: setattr(case, "champion", {**ABSENT, "error": "no such model"}),
        "the evaluation failed: no such model",
    ),
    "a champion with results, said to be absent": (put("present", value=False, side="champion"), 'do not say "present": true'),
    "a champion that is null inside": (lambda case: setattr(case, "champion", {"present": None}), 'do not say "present": true'),
    "a champion that is absent by 0": (lambda case: setattr(case, "champion", {"present": 0}), 'do not say "present": true'),
    "a champion that is a list": (lambda case: setattr(case, "champion", []), "the results are not a JSON object"),
    "a champion that is empty": (lambda case: setattr(case, "champion", {}), 'do not say "present": true'),
    "a base that is absent": (lambda case: setattr(case, "baseline", {"present": False}), 'do not say "present": true'),
    "a base that was not evaluated": (no_baseline, "a gain over the base model is asked for, and it was not evaluated"),
    "a candidate that is absent": (put("present", value=False), 'the results do not say "present": true'),
    "a candidate that failed": (put("error", value="out of memory"), "the evaluation failed: out of memory"),
    "a candidate that is no object": (a_number_where_results_should_be, "the results are not a JSON object"),
    "candidate and base swapped": (swapped, "they are the results of 'base', not of 'candidate'"),
    "a number by tool edited by hand": (
        put("tools", "search", "recall", "value", value=1.0),
        "recall.value of search is 1.0, but",
    ),
    "a tool left out of the numbers by tool": (drop("tools", "ticket"), "numbers by tool are not of the tools"),
    "numbers by tool left out": (drop("tools"), "tools is missing"),
    "a champion that was trained on the test": (
        put("seen_in_training", value=["q3", "q7"], side="champion"),
        "it was trained on 2 of the 100 test questions: q3, q7; with format.split.mode: growing",
    ),
    "a candidate that was trained on the test": (
        put("seen_in_training", value=[f"q{i}" for i in range(30)]),
        "q18, q19 and 10 more; where it went on from a champion, train.start_from: base begins anew",
    ),
    "a candidate that does not say what it was trained on": (put("seen_in_training", value=None), "this cannot be judged"),
    "a list of what training saw that is left out": (drop("seen_in_training"), "seen_in_training is missing"),
    "one that names no questions": (
        put("seen_in_training", value=["q999"], side="champion"),
        "something else than test questions",
    ),
    "a prompt length of 0": (put("metrics", "prompt_tokens_mean", "value", value=0), "prompt_tokens_mean is 0 in the interval"),
    "a prompt length outside its interval": (put("metrics", "prompt_tokens_mean", "high", value=1.0), "which cannot be"),
    "a prompt length over fewer questions": (put("metrics", "prompt_tokens_mean", "n", value=3), "prompt_tokens_mean.n is 3"),
    "a shorter prompt length": (
        put("metrics", "prompt_tokens_mean", value={"value": 9, "low": 8, "high": 10, "n": 100}),
        "prompt_tokens_mean does not follow from the predictions",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_cannot_be_fooled_by(case: Case, way: str) -> None:
    edit, reason = WAYS[way]
    edit(case)
    decision = case.decide()
    assert not decision.passed
    assert any(reason in check.reason for check in failing(decision)), [check.reason for check in failing(decision)]
    assert {type(check.passed) for check in decision.checks} == {bool}, "null in a decision says nothing"
    json.dumps(decision.as_dict(), allow_nan=False)


AGAIN = "tool_accuracy_rephrased"


def right_when_asked_again(case: Case) -> None:
    """Outcomes and metric are edited to match, and the predictions are as they were."""
    counted = case.candidate["outcomes"][AGAIN] = dict.fromkeys(case.candidate["outcomes"][AGAIN], 1)
    case.candidate["metrics"][AGAIN] = stats.wilson(len(counted), len(counted)).as_dict()


def said_again(**changes: Any) -> Fool:
    return edited_row(
        robustness={way: {"calls": [call("search")], "verdict": "correct"} | changes for way in ("rephrased", "distractor")}
    )


WAYS_AGAIN: dict[str, tuple[Fool, str]] = {
    "an outcome edited by hand": (put("outcomes", AGAIN, "q30", value=1), f"{AGAIN}.value is 0.94, but 0.95 follows"),
    "outcomes and metric edited by hand": (right_when_asked_again, f"calls other tools in the predictions than {AGAIN} says"),
    "outcomes left out": (drop("outcomes", AGAIN), f"outcomes lack {AGAIN}"),
    "an outcome left out": (drop("outcomes", AGAIN, "q30"), f"{AGAIN} counts 99 of 100 questions"),
    "a metric left out": (drop("metrics", AGAIN), f"metrics lack {AGAIN}"),
    "NaN": (put("metrics", AGAIN, "value", value=NAN), f"metrics.{AGAIN}.value is nan"),
    "a way that the settings do not name": (put("settings", "robustness", value=["distractor"]), f"outcomes name '{AGAIN}'"),
    "a way that nobody knows": (put("settings", "robustness", value=["louder"]), "which are not ways to ask again"),
    "ways that are no list": (put("settings", "robustness", value="rephrased"), "which are not ways to ask again"),
    "a way twice": (put("settings", "robustness", value=["rephrased", "distractor"] * 2), "a way to ask again twice"),
    "a champion that was not asked again": (
        lambda case: setattr(case, "champion", results(case.folder / "c.jsonl", "champion", {}) | {"version": "4"}),
        "the settings of the evaluations differ",
    ),
    "predictions without it": (
        edited_row(robustness={}),
        "was asked again in other ways in the predictions than the settings say",
    ),
    "predictions that call another tool": (said_again(calls=[call("ticket")]), "'q99' calls other tools in the predictions than"),
    "predictions with no such verdict": (said_again(verdict="fine"), "'q99' calls other tools in the predictions than"),
    "predictions without calls": (said_again(calls=None), "are not what evaluate writes: TypeError"),
}


@pytest.mark.parametrize("way", WAYS_AGAIN)
def test_where_questions_were_asked_again_cannot_be_fooled_by(asked_again: Case, way: str) -> None:
    edit, reason = WAYS_AGAIN[way]
    edit(asked_again)
    decision = asked_again.decide()
    assert any(reason in check.reason for check in failing(decision)), failing(decision)


@pytest.mark.parametrize(
    ("condition", "name", "required"),
    [
        ({"thresholds": {AGAIN: 0.1}}, "threshold", 0.1),
        ({"over_baseline": {AGAIN: 0.2}}, "over base", 0.2),
        ({"against_champion": {AGAIN: {"test": "point", "margin": -1.0}}}, "against champion", -1.0),
    ],
)
def test_a_condition_on_what_was_not_measured_refuses(case: Case, condition: dict[str, Any], name: str, required: float) -> None:
    case.config = {**condition, "min_questions_per_metric": 1}
    questions, check = failing(case.decide())
    assert questions.reason == "0 test questions, at least 1 required."
    assert (check.name, check.observed, check.required) == (f"{name}: {AGAIN}", None, required)
    assert check.reason == f"cannot be judged: {AGAIN} was not measured; name rephrased in evaluate.robustness."


def test_of_what_training_has_seen_all_is_counted_and_twenty_are_named(case: Case) -> None:
    unseen = named(case.decide(), "candidate: test unseen")
    assert (unseen.observed, unseen.required) == (0, 0)
    for side, advice in (
        ("candidate", "; where it went on from a champion, train.start_from: base begins anew."),
        ("champion", "; with format.split.mode: growing no question moves into the test."),
    ):
        for number, more in ((20, ""), (21, " and 1 more"), (30, " and 10 more")):
            getattr(case, side)["seen_in_training"] = [f"q{i}" for i in range(number)]
            check = named(case.decide(), f"{side}: test unseen")
            assert (check.passed, check.observed, check.required) == (False, number, 0)
            assert check.reason.endswith(f", q18, q19{more}{advice}")


@pytest.mark.parametrize(("different", "least", "passed"), [(50, 50, True), (49, 50, False), (100, 101, True)])
def test_questions_that_are_copies_do_not_count_towards_the_least_number(
    case: Case, different: int, least: int, passed: bool
) -> None:
    assert case.predictions is not None
    rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
    # The last ones all expect the same search.
    write_predictions(case, [row | {"question": f"{min(number, different - 1)}?"} for number, row in enumerate(rows)])
    case.config["min_questions"] = least
    decision = case.decide()
    assert named(decision, "candidate: predictions").passed is passed
    assert named(decision, "questions").passed is (least <= N)


@pytest.mark.parametrize("spelling", ["the same?", "The  SAME? "])
def test_copies_count_once_for_a_tool_and_for_a_metric_too(case: Case, spelling: str) -> None:
    assert case.predictions is not None
    rows = [json.loads(line) for line in case.predictions.read_text().splitlines()]
    # Two of the twenty that expect no call, and two of the ten that expect a ticket.
    copies = {3: "the same?", 4: spelling, 25: "the same?", 26: spelling}
    write_predictions(case, [row | {"question": copies.get(number, row["question"])} for number, row in enumerate(rows)])
    case.config |= {"min_questions_per_tool": 10, "min_questions_per_metric": 20, "min_questions": 98}
    case.config["thresholds"]["abstention_accuracy"] = 0.9
    case.config["maximum"]["prompt_tokens_mean"] = 1000
    decision = case.decide()
    assert [check.name for check in failing(decision)] == ["questions: ticket", "questions in abstention_accuracy"]
    observed = [named(decision, f"questions{what}").observed for what in (": search", ": ticket", " in abstention_accuracy")]
    assert observed == [70, 9, 19]
    assert named(decision, "questions in prompt_tokens_mean").observed == 98
    case.config["min_questions"] = 99
    assert "only 98 of the 100 questions are different ones" in named(case.decide(), "candidate: predictions").reason


def test_one_question_is_not_two(case: Case) -> None:
    case.candidate, case.config["min_questions"] = case.make("candidate", {}, n=1), 2
    assert named(case.decide(), "questions").reason == "1 test question, at least 2 required."


def test_a_champion_from_before_there_were_lists_of_training_rows_can_be_replaced(case: Case) -> None:
    case.champion["seen_in_training"] = None
    decision = case.decide()
    assert decision.passed, failing(decision)
    assert "was not looked at" in named(decision, "champion: test unseen").reason


def test_five_more_right_and_none_less_is_chance_six_is_not(case: Case) -> None:
    # Two-sided exact McNemar: 2 * 0.5 ** 5 is 0.0625, 2 * 0.5 ** 6 is 0.031.
    case.champion = case.make("champion", {f"q{i}": "other tool" for i in range(20, 30)})
    case.config = {"against_champion": {"tool_accuracy": {"test": "better", "margin": 0.0}}}
    for wins, passed in ((5, False), (6, True)):
        case.candidate = case.make("candidate", {f"q{i}": "other tool" for i in range(20 + wins, 30)})
        decision = case.decide()
        assert decision.passed is passed
        reason = named(decision, "against champion: tool_accuracy").reason
        assert (": p = 0.062, at most 0.05" if wins == 5 else ": p = 0.031, at most 0.05") in reason


def test_a_loose_match_rule_allows_other_words_in_the_predictions(case: Case) -> None:
    """Where `any` is the rule, call_accuracy may be 1 and ast_call_accuracy 0: nothing is wrong with that."""
    outcomes, metrics = case.candidate["outcomes"]["ast_call_accuracy"], case.candidate["metrics"]
    outcomes["q99"] = 0
    metrics["ast_call_accuracy"] = stats.wilson(sum(outcomes.values()), N).as_dict()
    edited_row(calls=[{"name": "search", "arguments": {"query": "y", "limit": 3}}])(case)
    assert case.decide().passed, failing(case.decide())
    edited_row(calls=[{"name": "search", "arguments": {"query": " ", "limit": 3}}])(case)
    assert "than call_accuracy says" in only_failing(case.decide()).reason


def test_each_metric_with_a_condition_has_its_own_count(case: Case) -> None:
    case.config["min_questions_per_metric"] = 20
    decision = case.decide()
    assert decision.passed, failing(decision)
    names = [check.name for check in decision.checks if check.name.startswith("questions in")]
    assert names == [f"questions in {metric}" for metric in ("max_length_stop_rate", "tool_accuracy", "valid_call_rate")]


def test_a_metric_that_no_question_counts_in_cannot_meet_a_condition(case: Case) -> None:
    case.config = {"thresholds": {"valid_call_rate": 0.1}}
    case.candidate = case.make("candidate", {f"q{i}": "silent" for i in range(20, N)})
    check = only_failing(case.decide())
    assert check.reason == "cannot be judged: valid_call_rate has no value, because no question counts in it."
    assert (check.name, check.observed, check.required) == ("threshold: valid_call_rate", None, 0.1)


def test_too_few_questions_for_an_interval_are_not_judged(case: Case) -> None:
    attempts = {f"q{i}": "silent" for i in range(22, N)}
    case.candidate, case.champion = case.make("candidate", attempts), case.make("champion", {**attempts, "q20": "silent"})
    case.config = {"against_champion": {"valid_call_rate": {"test": "not_worse", "margin": 0.5}}}
    check = only_failing(case.decide())
    assert "counts too few questions for an interval" in check.reason
    assert (check.name, check.observed, check.required) == ("against champion: valid_call_rate", None, -0.5)


def test_results_that_cannot_be_believed_refuse_every_condition_on_them(case: Case) -> None:
    drop("verdicts")(case)
    checks = {check.name: check for check in failing(case.decide())}
    assert checks.pop("candidate: results").reason == "verdicts is missing."
    unbelieved, uncompared = "the candidate's results cannot be believed", "there are no results of both to compare"
    assert {name: (check.reason, check.observed, check.required) for name, check in checks.items()} == {
        "threshold: tool_accuracy": (f"cannot be judged: {unbelieved}.", None, 0.9),
        "threshold: valid_call_rate": (f"cannot be judged: {unbelieved}.", None, 0.9),
        "maximum: max_length_stop_rate": (f"cannot be judged: {unbelieved}.", None, 0.02),
        "over base: tool_accuracy": (f"cannot be judged: {uncompared}.", None, 0.1),
        "against champion: tool_accuracy": (f"cannot be judged: {uncompared}.", None, 0.1),
    }


@pytest.mark.parametrize(("side", "condition"), [("baseline", "over base"), ("champion", "against champion")])
def test_a_comparison_with_a_side_that_never_calls_names_the_metric_and_what_was_asked(
    case: Case, side: str, condition: str
) -> None:
    setattr(case, side, case.make("base" if side == "baseline" else side, {f"q{i}": "silent" for i in range(20, N)}))
    asked: dict[str, Any] = {"baseline": 0.1, "champion": {"test": "point", "margin": 0.1}}
    case.config = {"over_baseline" if side == "baseline" else "against_champion": {"valid_call_rate": asked[side]}}
    check = only_failing(case.decide())
    assert (check.name, check.observed, check.required) == (f"{condition}: valid_call_rate", None, 0.1)
    assert "has no value on one side" in check.reason


def test_sides_that_cannot_be_compared_are_not_compared(case: Case) -> None:
    case.baseline["test_fingerprint"] = case.champion["test_fingerprint"] = "another"
    decision = case.decide()
    for name in ("over base: tool_accuracy", "against champion: tool_accuracy"):
        check = named(decision, name)
        assert (check.passed, check.observed, check.required) == (False, None, 0.1)


def test_a_base_that_was_not_evaluated_refuses_what_compares_with_it(case: Case) -> None:
    case.baseline = None
    assert [check.name for check in failing(case.decide())] == ["base: results", "over base: tool_accuracy"]


def test_results_nested_without_end_are_named(case: Case) -> None:
    settings_without_end(case)
    assert "nested deeper" in named(case.decide(), "candidate: results").reason


def test_a_comparison_with_a_champion_that_nobody_looked_for_is_a_refused_condition(case: Case) -> None:
    case.champion = None
    check = named(case.decide(), "against champion: tool_accuracy")
    assert not check.passed
    assert check.required == 0.1


def test_no_condition_is_none_of_at_least_one(case: Case) -> None:
    case.config = {}
    check = only_failing(case.decide())
    assert (check.name, check.observed, check.required) == ("conditions", 0, 1)


def test_an_unsound_base_refuses_even_where_no_condition_needs_it(case: Case) -> None:
    case.config = {"thresholds": {"tool_accuracy": 0.5}}
    drop("verdicts", side="baseline")(case)
    assert only_failing(case.decide()).name == "base: results"


def test_a_malformed_answer_may_name_the_right_tools_or_not(case: Case) -> None:
    case.candidate = case.make("candidate", {"q40": "invalid argument", "q41": "unreadable", "q1": "unreadable"})
    assert case.candidate["outcomes"]["tool_accuracy"]["q40"] == 1
    assert case.decide().passed


# Files


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def written_files(case: Case, folder: Path) -> list[Path]:
    return [write(folder / f"{name}.json", getattr(case, name)) for name in ("candidate", "baseline", "champion")]


def test_run_writes_the_decision_as_the_contract_has_it(case: Case, tmp_path: Path) -> None:
    config, out = GateConfig.model_validate(case.config), tmp_path / "gate" / "decision.json"
    paths = written_files(case, tmp_path)
    decision = run(paths[0], paths[1], paths[2], case.predictions, config, out)
    written = json.loads(out.read_text())
    assert named(decision, "candidate: predictions").reason.startswith("their checksum is the recorded one")
    assert decision.passed
    assert written == decision.as_dict()
    assert set(written) == {"passed", "checks", "candidate", "champion", "metrics"}
    assert written["metrics"] == {metric: row["value"] for metric, row in case.candidate["metrics"].items()}
    assert written["passed"] is True
    assert set(written["checks"][0]) == {"name", "passed", "observed", "required", "reason", "low", "high"}


def test_run_knows_the_champion_in_the_candidates_place(case: Case, tmp_path: Path) -> None:
    case.champion = case.candidate | {"which": "champion"}
    paths = written_files(case, tmp_path)
    decision = run(*paths, case.predictions, GateConfig.model_validate(case.config), tmp_path / "decision.json")
    assert decision.passed, failing(decision)
    assert "is the champion itself" in named(decision, "against champion: tool_accuracy").reason


def test_run_judges_the_age_that_it_is_told(case: Case, tmp_path: Path) -> None:
    config = GateConfig.model_validate({**case.config, "max_data_age_days": 30})
    for age, passed in ((30, True), (31, False)):
        decision = run(*written_files(case, tmp_path), case.predictions, config, tmp_path / "decision.json", age)
        assert decision.passed is passed


@pytest.mark.parametrize("place", [0, 1, 2])
def test_run_refuses_a_key_that_stands_twice_on_every_side(case: Case, tmp_path: Path, place: int) -> None:
    paths = written_files(case, tmp_path)
    text = paths[place].read_text()
    paths[place].write_text(text.replace("{", '{"present": false, ', 1))
    with pytest.raises(UserError, match=f"{paths[place].name}: not a JSON file: the key .present. stands twice"):
        run(*paths, case.predictions, GateConfig.model_validate(case.config), tmp_path / "decision.json")


def test_a_decision_without_checks_is_no_pass_and_none_can_be_changed() -> None:
    decision = Decision((), {"digest": "x"}, {"version": None, "digest": None}, {})
    assert not decision.passed
    with pytest.raises(FrozenInstanceError):
        decision.checks = (Check("questions", True, "enough."),)  # type: ignore[misc]


def test_run_says_what_it_refuses(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))
    path = write(tmp_path / "metrics.json", case.candidate)
    config = GateConfig(thresholds={"tool_accuracy": 0.999})
    decision = run(path, None, None, case.predictions, config, tmp_path / "decision.json")
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert not decision.passed
    assert event["message"].startswith("the gate refuses: threshold: tool_accuracy: tool_accuracy is 0.94, at least 0.999")


def test_a_nan_in_the_file_is_read_and_refused(case: Case, tmp_path: Path) -> None:
    case.candidate["metrics"]["tool_accuracy"]["value"] = NAN
    path, out = write(tmp_path / "candidate.json", case.candidate), tmp_path / "decision.json"
    assert "NaN" in path.read_text()
    decision = run(
        path, None, absent_file(tmp_path), None, GateConfig.model_validate({"thresholds": {"tool_accuracy": 0.5}}), out
    )
    assert "metrics.tool_accuracy.value is nan" in failing(decision)[0].reason
    assert json.loads(out.read_text())["passed"] is False


def absent_file(folder: Path) -> Path:
    return write(folder / "absent.json", ABSENT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not a JSON file"),
        ('{"a": 0, "n": 1, "n": 2}', "the key 'n' stands twice in one object"),
        ('{"present": true, "model_digest": "\\ud800"}', "not a JSON file: 'utf-8' codec can't encode character"),
        ('{"n": ' + "1" * 5000 + "}", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_no_decision_behind(tmp_path: Path, content: str | None, message: str) -> None:
    path, out = tmp_path / "candidate.json", write(tmp_path / "decision.json", {"passed": True, "checks": []})
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        run(path, None, None, None, GateConfig(thresholds={"tool_accuracy": 0.5}), out)
    assert not out.exists(), "the pass of an earlier run must not be taken for this one's"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_random_edit_of_one_number_gets_a_better_model_through(made: Case, data: st.DataObject) -> None:
    """One recorded number that counts is replaced: the gate passes only if the number is the same."""
    candidate = copy.deepcopy(made.candidate)
    metric = data.draw(st.sampled_from(sorted(candidate["metrics"])))
    key = data.draw(st.sampled_from(["value", "low", "high", "n"]))
    before = candidate["metrics"][metric][key]
    after = data.draw(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(before))
    candidate["metrics"][metric][key] = after
    decision = gate(candidate, made.baseline, made.champion, GateConfig.model_validate(made.config), made.predictions)
    near = not isinstance(after, bool) and isinstance(after, int | float) and abs(after - before) < 0.001
    inside = metric == "prompt_tokens_mean" and key in ("low", "high")
    assert not decision.passed or near or inside
    assert decision.passed or after != before or isinstance(after, bool)
