"""The gate's conditions on what was measured beside the tool questions: what they pass, and that they cannot be fooled."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from calltune import stats
from components.gate import suites
from components.gate.check import Check
from components.gate.config import GateConfig
from components.gate.evidence import Unsound

ACC, LOSS, ROUGE = "general.knowledge.acc", "general.text_loss", "instructions.rouge_l"
Results = dict[str, Any]


def measure(items: dict[str, float], asked: str = "a" * 64) -> dict[str, Any]:
    """As evaluate writes it."""
    return {**stats.of_items(items).as_dict(), "sha256": asked, "items": items}


def shares(right: int, of: int = 40) -> dict[str, float]:
    return {f"knowledge/{number}": float(number < right) for number in range(of)}


@pytest.fixture
def candidate() -> Results:
    """30 of 40 right, 3.1 nats, and a mean of numbers from 0 to 1."""
    return {
        "suites": {
            ACC: measure(shares(30)),
            LOSS: measure({"1": 3.0, "2": 3.2}),
            ROUGE: measure({"a": 0.25, "b": 0.75, "c": 0.5}),
        }
    }


@pytest.fixture
def base() -> Results:
    """32 of 40 right, 3.0 nats."""
    return {"suites": {ACC: measure(shares(32)), LOSS: measure({"1": 2.9, "2": 3.1})}}


def failing(found: list[Check]) -> list[Check]:
    return [check for check in found if not check.passed]


def only_failing(found: list[Check]) -> Check:
    (check,) = failing(found)
    return check


def test_no_failure_is_rounded_away(candidate: Results, base: Results) -> None:
    candidate["suites"][LOSS] = measure({"1": 3.0, "2": 3.200008})
    reason = only_failing(suites.checks(candidate, base, GateConfig(suites={ACC: 0.75}, regression={LOSS: 0.1}))).reason
    assert reason == "general.text_loss is worse than the base model's by 0.100004, at most 0.1 is allowed."


def test_without_suites_and_conditions_there_is_no_check() -> None:
    assert suites.checks({}, {}, GateConfig()) == []
    assert suites.checks({"suites": {}}, None, GateConfig()) == []


def test_conditions_that_are_met_pass_with_their_numbers(candidate: Results, base: Results) -> None:
    config = GateConfig(suites={ACC: 0.75, ROUGE: 0.5}, regression={ACC: 0.05, LOSS: 0.1})
    found = suites.checks(candidate, base, config)
    assert failing(found) == []
    assert [check.name for check in found] == [
        "candidate: suites",
        "base: suites",
        f"suite: {ACC}",
        f"suite: {ROUGE}",
        f"regression: {ACC}",
        f"regression: {LOSS}",
    ]
    reached, _, lost, worse = found[2:]
    assert reached.reason == f"{ACC} is 0.75, at least 0.75 is required."
    assert reached.low is not None and reached.high is not None and reached.low < 0.75 < reached.high
    assert lost.reason == f"{ACC} is worse than the base model's by 0.05, at most 0.05 is allowed."
    assert lost.observed == pytest.approx(0.05)
    assert lost.low is not None and lost.high is not None and lost.low < 0.05 < lost.high
    assert worse.reason == f"{LOSS} is worse than the base model's by 0.1, at most 0.1 is allowed."


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"suites": {ACC: 0.76}}, f"{ACC} is 0.75, at least 0.76 is required."),
        ({"suites": {ROUGE: 0.51}}, f"{ROUGE} is 0.5, at least 0.51 is required."),
        ({"regression": {ACC: 0.04}}, f"{ACC} is worse than the base model's by 0.05, at most 0.04 is allowed."),
        ({"regression": {ACC: 0.0}}, f"{ACC} is worse than the base model's by 0.05, at most 0 is allowed."),
        ({"regression": {LOSS: 0.09}}, f"{LOSS} is worse than the base model's by 0.1, at most 0.09 is allowed."),
    ],
)
def test_a_condition_that_is_not_met_refuses(candidate: Results, base: Results, conditions: Any, reason: str) -> None:
    check = only_failing(suites.checks(candidate, base, GateConfig(**conditions)))
    assert check.reason == reason


def test_a_gate_that_rests_on_suites_alone_needs_as_many_items_as_it_needs_questions(candidate: Results) -> None:
    config = GateConfig(suites={ACC: 0.75})
    check = only_failing(suites.checks(candidate, None, config, alone=True))
    assert check.reason == "40 items, at least 50 required."
    assert failing(suites.checks(candidate, None, config.model_copy(update={"min_questions": 40}), alone=True)) == []


def test_a_gain_is_no_loss_whichever_way_is_better(candidate: Results, base: Results) -> None:
    config = GateConfig(regression={ACC: 0.0, LOSS: 0.0})
    found = suites.checks(base, candidate, config)
    assert failing(found) == []
    assert [check.reason for check in found[2:]] == [f"{name} is no worse than the base model's." for name in (ACC, LOSS)]
    assert [round(check.observed or 0, 9) for check in found[2:]] == [-0.05, -0.1]


def test_a_loss_of_exactly_what_is_allowed_passes_whatever_floats_make_of_it(base: Results) -> None:
    for right, allowed in ((28, 0.1), (26, 0.15), (24, 0.2)):
        found = suites.checks({"suites": {ACC: measure(shares(right))}}, base, GateConfig(regression={ACC: allowed}))
        assert failing(found) == []
        fewer = suites.checks({"suites": {ACC: measure(shares(right - 1))}}, base, GateConfig(regression={ACC: allowed}))
        assert only_failing(fewer).name == f"regression: {ACC}"


# Ways to fool it: each changes the candidate's results, and is refused with its reason.


def put(*path: str, value: Any) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        place = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        place = results
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


ITEM = ("suites", ACC, "items", "knowledge/35")
WAYS: dict[str, tuple[Callable[[Results], None], str]] = {
    "a value edited": (put("suites", ACC, "value", value=0.99), rf"{ACC}.value is 0.99, but 0.75 follows from its items"),
    "an interval edited": (put("suites", ACC, "low", value=0.7), rf"{ACC}.low is 0.7, but 0.5\d+ follows"),
    "an upper end edited": (put("suites", ACC, "high", value=0.7), rf"{ACC}.high is 0.7, but 0.8\d+ follows"),
    "an n edited": (put("suites", ACC, "n", value=400), rf"{ACC}.n is 400, but 40 follows"),
    "an n that is true": (put("suites", ACC, "n", value=True), rf"{ACC}.n is True, but 40 follows"),
    "a value that is NaN": (put("suites", ACC, "value", value=math.nan), rf"{ACC}.value is nan, but 0.75 follows"),
    "a value that is null": (put("suites", ACC, "value", value=None), rf"{ACC}.value is None, but 0.75 follows"),
    "a value that is a text": (put("suites", ACC, "value", value="0.75"), rf"{ACC}.value is 0.75, but 0.75 follows"),
    "an item edited alone": (put(*ITEM, value=1.0), rf"{ACC}.value is 0.75, but 0.775 follows from its items"),
    "an item left out": (drop(*ITEM), rf"{ACC}.value is 0.75, but 0.76\d+ follows from its items"),
    "an item that is NaN": (put(*ITEM, value=math.nan), r"of item 'knowledge/35' is nan, which is not a number"),
    "an item that is infinite": (put(*ITEM, value=math.inf), r"of item 'knowledge/35' is inf, which is not a number"),
    "an item that is true": (put(*ITEM, value=True), r"of item 'knowledge/35' is True, which is not a number"),
    "an item that is a text": (put(*ITEM, value="1"), r"of item 'knowledge/35' is '1', which is not a number"),
    "an item that counts eleven times": (
        put("suites", ACC, value=measure({**shares(30), "knowledge/35": 11.0})),
        r"of item 'knowledge/35' is 11.0, and it is a share",
    ),
    "an item below nothing": (
        put("suites", ROUGE, value=measure({"a": -0.5})),
        rf"{ROUGE} of item 'a' is -0.5, and it is a share",
    ),
    "no items": (put("suites", ACC, value=measure({})), rf"{ACC} has no items"),
    "items that are a list": (put("suites", ACC, "items", value=[1.0]), rf"{ACC} has no items"),
    "no sha256": (drop("suites", ACC, "sha256"), rf"{ACC} does not have high, items, low, n, sha256, value and nothing else"),
    "an empty sha256": (put("suites", ACC, "sha256", value=" "), rf"{ACC} does not say what was asked"),
    "a sha256 that is a number": (put("suites", ACC, "sha256", value=7), rf"{ACC} does not say what was asked"),
    "a field too many": (put("suites", ACC, "passed", value=True), rf"{ACC} does not have .* and nothing else"),
    "a measure that is a number": (put("suites", ACC, value=0.99), rf"{ACC} does not have .* and nothing else"),
    "suites that are a list": (put("suites", value=[ACC]), "suites are not measures by name"),
}


@pytest.mark.parametrize("side", ["candidate", "base"])
@pytest.mark.parametrize("way", WAYS)
def test_it_cannot_be_fooled(way: str, side: str, candidate: Results, base: Results) -> None:
    change, reason = WAYS[way]
    sides = {"candidate": candidate, "base": copy.deepcopy(candidate)}
    change(sides[side])
    with pytest.raises(Unsound, match=reason):
        suites.examine(sides[side])
    config = GateConfig(suites={ACC: 0.5}, regression={ACC: 0.5})
    found = failing(suites.checks(sides["candidate"], sides["base"], config))
    named = {check.name for check in found}
    assert f"{side}: suites" in named, "what cannot be believed is said"
    assert f"regression: {ACC}" in named, "and nothing is judged by it"
    assert (f"suite: {ACC}" in named) == (side == "candidate")


def test_a_measure_edited_by_hand_refuses_where_no_condition_rests_on_it(candidate: Results, base: Results) -> None:
    candidate["suites"][ACC]["value"] = 0.99
    assert only_failing(suites.checks(candidate, base, GateConfig())).name == "candidate: suites"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("suites", ACC), f"cannot be judged: {ACC} was not measured of the base model."),
        (drop("suites"), f"cannot be judged: {ACC} was not measured of the base model."),
        (
            put("suites", ACC, value=measure(shares(32), "b" * 64)),
            f"cannot be judged: base and candidate were not asked the same in {ACC}.",
        ),
        (
            put("suites", ACC, value=measure(shares(3, of=4))),
            f"cannot be judged: base and candidate were not asked the same in {ACC}.",
        ),
        (
            put("suites", ACC, value=measure({f"other/{n}": float(n < 32) for n in range(40)})),
            f"cannot be judged: base and candidate were not asked the same in {ACC}.",
        ),
    ],
)
def test_a_base_that_was_not_asked_the_same_is_no_comparison(
    candidate: Results, base: Results, change: Callable[[Results], None], reason: str
) -> None:
    change(base)
    assert only_failing(suites.checks(candidate, base, GateConfig(regression={ACC: 0.5}))).reason == reason


def test_an_absent_measure_an_absent_base_and_absent_results_refuse(candidate: Results, base: Results) -> None:
    config = GateConfig(suites={"general.knowlege.acc": 0.5})
    assert only_failing(suites.checks(candidate, base, config)).reason == (
        "cannot be judged: general.knowlege.acc was not measured."
    )
    config = GateConfig(regression={ACC: 0.5})
    assert [check.name for check in failing(suites.checks(candidate, None, config))] == ["base: suites", f"regression: {ACC}"]
    config = GateConfig(suites={ACC: 0.5}, regression={ACC: 0.5})
    found = failing(suites.checks(None, base, config))
    assert [check.name for check in found] == ["candidate: suites", f"suite: {ACC}", f"regression: {ACC}"]
    assert found[-1].reason == f"cannot be judged: {ACC} was not measured of the candidate."


def test_three_items_all_right_are_not_enough_where_a_number_is_asked_for(candidate: Results, base: Results) -> None:
    config = GateConfig(suites={ACC: 0.7}, regression={LOSS: 0.2}, min_questions_per_metric=30)
    check = only_failing(suites.checks(candidate, base, config))
    assert (check.name, check.reason) == (f"items in {LOSS}", "2 items, at least 30 required.")
    candidate["suites"][ACC] = measure(shares(3, of=3))
    found = failing(suites.checks(candidate, base, config))
    assert [check.name for check in found] == [f"items in {ACC}", f"items in {LOSS}"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"suites": {LOSS: 3.0}}, "less of it is better: say in gate.regression"),
        ({"suites": {ACC: 75}}, "is a share of the items, and 75 is more than all"),
        ({"suites": {ACC: 0}}, "greater than 0"),
        ({"regression": {ACC: 5}}, "is a share of the items, and 5 is more than all"),
        ({"regression": {ACC: 1}}, "is a share of the items, and 1 is all"),
        ({"regression": {ACC: -0.1}}, "greater than or equal to 0"),
        ({"regression": {ACC: math.nan}}, "finite number"),
        ({"regression": {"tool_accuracy": 0.1}}, r"must be a suite's measure such as general\.gsm8k\.exact_match"),
    ],
)
def test_a_condition_that_no_measure_can_have_is_refused(section: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GateConfig(**section)


def test_a_metric_in_a_unit_of_its_own_may_have_any_limit() -> None:
    config = GateConfig(suites={"general.truthfulqa_gen.bleu_max": 20}, regression={LOSS: 2.5})
    assert config.regression[LOSS] == 2.5
