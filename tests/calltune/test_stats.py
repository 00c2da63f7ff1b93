"""Intervals and paired tests, against known values and against their definition."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from calltune import stats

NOTHING = (None, None, None)


def parts(estimate: stats.Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def outcomes(text: str) -> dict[str, int]:
    return {str(index): int(character) for index, character in enumerate(text) if character != "-"}


def test_wilson_of_a_known_case() -> None:
    # By hand: (8 + z²/2) / (10 + z²) ± z/(10 + z²) · sqrt(8·2/10 + z²/4), z = 1.959964
    estimate = stats.wilson(8, 10)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.49016, abs=1e-5)
    assert estimate.high == pytest.approx(0.94331, abs=1e-5)
    assert estimate.n == 10


def test_intervals_and_tests_are_those_of_scipy_stats() -> None:
    for n in (1, 2, 7, 30, 200, 5_001):
        for right in {0, 1, n // 3, n // 2, n - 1, n}:
            theirs = binomtest(right, n)
            estimate = stats.wilson(right, n)
            assert (estimate.low, estimate.high) == pytest.approx(theirs.proportion_ci(method="wilson"), rel=1e-12, abs=1e-12)
            ours, other = ({str(row): int((row < right) == side) for row in range(n)} for side in (True, False))
            assert stats.mcnemar(ours, other) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_wilson_at_the_ends_stays_within_0_and_1() -> None:
    assert stats.wilson(0, 5).low == pytest.approx(0, abs=1e-12)
    assert stats.wilson(5, 5).high == pytest.approx(1, abs=1e-12)
    assert (stats.wilson(5, 5).low or 0) < 0.6, "five of five is no proof of a high rate"


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (math.nan, 5), (math.inf, 5), (-1, 5), (6, 5), (1, -3)])
def test_what_is_no_count_gives_none(successes: float, n: int) -> None:
    estimate = stats.wilson(successes, n)
    assert parts(estimate) == NOTHING
    assert estimate.n == max(n, 0)


def test_mean_has_an_interval_that_a_seed_repeats() -> None:
    draw = random.Random(1)
    values = [draw.gauss(100, 10) for _ in range(200)]
    one, again, other = stats.mean(values), stats.mean(values), stats.mean(values, seed=1)
    assert one == again
    assert one != other
    assert one.value == pytest.approx(sum(values) / len(values))
    assert one.low is not None and one.high is not None
    # The bootstrap of a mean is close to the normal interval: ± 1.96 · 10 / sqrt(200)
    assert one.high - one.low == pytest.approx(2 * 1.96 * 10 / math.sqrt(200), rel=0.2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_a_mean_of_nothing_or_of_no_numbers_is_none(values: list[float]) -> None:
    assert parts(stats.mean(values)) == NOTHING


def test_a_mean_of_many_values_does_not_take_many_times_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = np.random.default_rng, []

    class Dice:
        def __init__(self, seed: int) -> None:
            self.dice = real(seed)

        def integers(self, high: int, size: tuple[int, int]) -> np.ndarray:
            drawn.append(size)
            return self.dice.integers(high, size=size)

    monkeypatch.setattr(stats, "_DRAWS_AT_ONCE", 1_000_000)
    monkeypatch.setattr(np.random, "default_rng", Dice)
    estimate = stats.mean([1.0, 3.0] * 1000)
    assert sum(rows for rows, _ in drawn) == stats.DRAWS and max(rows * n for rows, n in drawn) <= 1_000_000
    assert estimate.value == 2.0
    assert estimate.n == 2000


def test_paired_difference_is_ours_minus_theirs() -> None:
    difference = stats.paired_difference(outcomes("1" * 60 + "0" * 40), outcomes("1" * 40 + "0" * 60))
    assert difference.value == pytest.approx(0.2)
    assert difference.n == 100
    assert difference.low == pytest.approx(0.12, abs=0.021)
    assert difference.high == pytest.approx(0.28, abs=0.021)
    assert stats.paired_difference(outcomes("01"), outcomes("11")).value == -0.5


def test_pairing_makes_the_interval_narrower_than_the_same_rates_unpaired() -> None:
    ours, theirs = "1" * 60 + "0" * 40, "1" * 50 + "0" * 50
    paired = stats.paired_difference(outcomes(ours), outcomes(theirs))
    shuffled = stats.paired_difference(outcomes(ours), outcomes(theirs[::-1]))
    assert paired.value == shuffled.value == pytest.approx(0.1)
    assert paired.low is not None and shuffled.low is not None
    assert paired.low > 0 > shuffled.low


def test_equal_outcomes_differ_by_exactly_nothing() -> None:
    difference = stats.paired_difference(outcomes("110" * 30), outcomes("110" * 30))
    assert parts(difference) == (0.0, 0.0, 0.0)


def test_the_order_of_the_questions_does_not_matter() -> None:
    ours, theirs = outcomes("110100111"), outcomes("010100101")
    backwards = dict(reversed(ours.items()))
    assert stats.paired_difference(ours, theirs) == stats.paired_difference(backwards, theirs)


def test_another_seed_draws_another_interval() -> None:
    draw = random.Random(2)
    ours, theirs = ({str(index): draw.randrange(2) for index in range(997)} for _ in range(2))
    one, other = (stats.paired_difference(ours, theirs, seed) for seed in (0, 1))
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_questions_that_count_on_one_side_only_count_there() -> None:
    difference = stats.paired_difference(outcomes("11--" * 20), outcomes("1-0-" * 20))
    assert difference.value == pytest.approx(1.0 - 0.5)
    assert difference.n == 60


@pytest.mark.parametrize(("ours", "theirs"), [({}, {}), ({"a": 1}, {}), ({}, {"a": 1}), ({"a": 2}, {"a": 1})])
def test_nothing_to_compare_gives_none(ours: dict[str, int], theirs: dict[str, int]) -> None:
    assert parts(stats.paired_difference(ours, theirs)) == NOTHING


def test_no_interval_where_draws_would_have_nothing_to_count() -> None:
    difference = stats.paired_difference(outcomes("1---"), outcomes("0111"))
    assert difference.value == pytest.approx(1 - 0.75)
    assert difference.low is None
    assert difference.high is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_a_difference_lies_in_its_interval_and_turns_with_the_sides(pairs: list[tuple[int, int]]) -> None:
    ours = {str(index): pair[0] for index, pair in enumerate(pairs)}
    theirs = {str(index): pair[1] for index, pair in enumerate(pairs)}
    difference, turned = stats.paired_difference(ours, theirs), stats.paired_difference(theirs, ours)
    assert difference.value is not None and difference.low is not None and difference.high is not None
    assert difference.low - 1e-12 <= difference.value <= difference.high + 1e-12
    assert turned.value == -difference.value
    assert difference.value == pytest.approx((sum(ours.values()) - sum(theirs.values())) / len(pairs))


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [
        ("1111", "0000", 2 * 0.5**4),
        ("111111", "000000", 2 * 0.5**6),
        ("110", "001", 1.0),
        ("1100", "1100", 1.0),
        ("1111100000", "0000011110", 1.0),
        ("11111111--00", "000000001110", 2 * (1 + 9) / 2**9),
    ],
)
def test_mcnemar_is_the_chance_of_such_a_split_of_a_fair_coin(ours: str, theirs: str, p: float) -> None:
    assert stats.mcnemar(outcomes(ours), outcomes(theirs)) == pytest.approx(p)
    assert stats.mcnemar(outcomes(theirs), outcomes(ours)) == pytest.approx(p)


def test_without_a_question_that_tells_them_apart_mcnemar_says_1() -> None:
    assert stats.mcnemar({}, {}) == 1.0
    assert stats.mcnemar({"a": 1}, {"b": 0}) == 1.0


def test_a_measure_of_noughts_and_ones_is_a_share_and_any_other_a_mean():
    items = {"c": 1.0, "a": 0.0, "b": 1, "d": 1.0}
    assert stats.of_items(items) == stats.wilson(3, 4)
    assert stats.of_items({"a": 0.5, "b": 1.0}) == stats.mean([0.5, 1.0])
    assert stats.of_items({}) == stats.Estimate(None, None, None, 0)
    assert stats.of_items({"a": math.nan}).value is None


def test_the_order_of_the_items_changes_nothing():
    items = {str(number): number % 7 / 7 for number in range(50)}
    backwards = dict(reversed(items.items()))
    assert stats.of_items(items) == stats.of_items(backwards)
    other = {id_: 0.5 for id_ in items}
    assert stats.mean_difference(items, other) == stats.mean_difference(backwards, other)


def test_a_mean_difference_is_paired_by_item():
    ours, theirs = ({str(n): n + shift for n in range(30)} for shift in (0.25, 0.0))
    found = stats.mean_difference(ours, theirs)
    assert (found.value, found.low, found.high, found.n) == (0.25, 0.25, 0.25, 30)
    del theirs["7"]
    assert stats.mean_difference(ours, theirs) == stats.Estimate(None, None, None, 29)
    assert stats.mean_difference({}, {}) == stats.Estimate(None, None, None, 0)
