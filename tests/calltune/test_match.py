"""When a called value is an accepted one."""

from typing import Any

import pytest

from calltune.match import ast_match, is_empty, token_f1


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (5, [5.0]),
        (5.0, [4, 5]),
        (True, [True]),
        (None, [None]),
        ("New York, N.Y.", ["new york ny"]),
        ("a-b_c*d^e/f", ["ABCDEF"]),
        ("it's", ['it"s']),
        ("", ["", "x"]),
        (["A.", 1], [["x"], ["a", 1.0]]),
        ([], [[]]),
        ([[1, "A"]], [[[1, "a"]]]),
        ({"min": 3, "unit": "KM"}, [{"min": [2, 3], "unit": ["km", "m"]}]),
        ({"min": 3}, [{"min": [3], "unit": ["km", ""]}]),
        ({}, [{}]),
        ({"tags": ["x", "y"]}, [{"tags": [["x", "y"]]}]),
        ({"min": 3}, [{"min": 3}]),
        ([{"min": 3}], [[{"min": [2, 3]}]]),
        ({"range": {"min": 3}}, [{"range": [{"min": 3}]}]),
    ],
)
def test_accepted(value: Any, accepted: list[Any]) -> None:
    assert ast_match(value, accepted)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (5, []),
        (5, [6]),
        (5, ["5"]),
        ("5", [5]),
        (True, [1]),
        (1, [True]),
        (0, [False]),
        (False, [None]),
        (None, [0, "", False, []]),
        (0, [None]),
        ("a!b", ["ab"]),
        ("paris", ["london", "rome"]),
        (["b", "a"], [["a", "b"]]),
        (["a"], [["a", "b"]]),
        (["a", "b"], [["a"]]),
        ("a", [["a"]]),
        (["a"], ["a"]),
        ([True], [[1]]),
        ({"min": 4}, [{"min": [2, 3]}]),
        ({"min": 3}, [{"min": [3], "unit": ["km"]}]),
        ({"min": 3, "max": 5}, [{"min": [3]}]),
        ({"min": [3]}, [{"min": [3]}]),
        ({"range": {"min": 3}}, [{"range": [{"min": [3]}]}]),
        ({}, [[]]),
        ({}, [""]),
    ],
)
def test_not_accepted(value: Any, accepted: list[Any]) -> None:
    assert not ast_match(value, accepted)


@pytest.mark.parametrize(
    ("value", "gold", "same"),
    [
        ({"tags": ["x", "y"]}, {"tags": ["X", "y"]}, True),
        ({"tags": "x"}, {"tags": ["x", "y"]}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, True),
        ({"a": 1}, {"a": 1, "b": ""}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([{"a": [1]}], [{"a": [1]}], True),
    ],
)
def test_an_assistants_own_value_means_itself(value: Any, gold: Any, same: bool) -> None:
    assert ast_match(value, [gold], literal=True) is same


def test_what_says_nothing_is_empty() -> None:
    empty: list[Any] = ["", " \n", None, [], {}]
    full: list[Any] = ["x", 0, 0.0, False, [None], {"a": None}]
    assert all(is_empty(value) for value in empty)
    assert not any(is_empty(value) for value in full)


@pytest.mark.parametrize(
    ("value", "accepted", "f1"),
    [
        ("travel meal limit", ["meal limit"], 2 * 2 / 5),
        ("Meal, LIMIT", ["limit meal"], 1.0),
        ("meal meal", ["meal"], 2 / 3),
        ("parking", ["meal limit", "parking rules"], 2 / 3),
        ("parking", ["meal"], 0.0),
        ("", [""], 0.0),
        ("x", [], 0.0),
        (5, [5], 1.0),
    ],
)
def test_token_f1_is_against_the_best_accepted_value(value: Any, accepted: list[Any], f1: float) -> None:
    assert token_f1(value, accepted) == pytest.approx(f1)
