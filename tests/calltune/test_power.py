"""The smallest difference that a test set can show, against the published formula and against the bounds that it has."""

import math

import pytest

from calltune.power import smallest_difference


@pytest.mark.parametrize(("questions", "discordant"), [(100, 0.2), (340, 0.2), (1000, 0.05), (50, 1.0)])
def test_it_needs_as_many_questions_as_the_formula_says(questions: int, discordant: float) -> None:
    difference = smallest_difference(questions, discordant)
    assert difference is not None
    needed = (1.959964 * math.sqrt(discordant) + 0.841621 * math.sqrt(discordant - difference**2)) ** 2 / difference**2
    assert needed == pytest.approx(questions, rel=1e-4)


def test_more_questions_show_less_and_noisier_models_need_more() -> None:
    found = [smallest_difference(questions, 0.2) or 1.0 for questions in (50, 100, 400, 1600)]
    assert found == sorted(found, reverse=True)
    assert (smallest_difference(400, 0.1) or 1.0) < (smallest_difference(400, 0.2) or 1.0)
    assert found[3] == pytest.approx(2.8 * math.sqrt(0.2 / 1600), rel=0.01)


@pytest.mark.parametrize(("questions", "discordant"), [(5, 0.2), (1, 1.0), (30, 0.1)])
def test_a_test_set_that_could_miss_even_the_largest_difference_shows_none(questions: int, discordant: float) -> None:
    assert smallest_difference(questions, discordant) is None
