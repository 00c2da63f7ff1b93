"""Texts through parser and guard: 2,000 here, 100,000 by `python -m benchmarks.fuzz`."""

from collections import Counter

import pytest

from benchmarks import fuzz
from calltune.parse import PARSERS


@pytest.mark.parametrize("seed", [0, 1])
def test_no_text_raises_and_no_accepted_call_breaks_its_schema(seed: int) -> None:
    counted: Counter[str] = Counter()
    for text in fuzz.texts(1000, seed):
        fuzz.through(text, counted)
    # A fuzz in which nothing is accepted, rejected, coerced or malformed would show nothing.
    assert counted["hermes: accepted"] > 50
    assert counted["hermes: rejected"] > 50
    assert counted["hermes: malformed"] > 200
    assert all(counted[f"{syntax}: {verdict}"] for syntax in PARSERS for verdict in ("accepted", "rejected", "malformed"))
    assert {kind.split(":")[0] for kind in counted} == set(PARSERS)


@pytest.mark.parametrize(
    ("before", "after", "lossless"),
    [
        ({"x": "5"}, {"x": 5}, True),
        ({"x": "1e3"}, {"x": 1000.0}, True),
        ({"x": ["true"]}, {"x": [True]}, True),
        ({"x": 5.0}, {"x": 5}, True),
        ({"x": "5.5"}, {"x": 5}, False),
        ({"x": "1"}, {"x": True}, False),
        ({"x": 5}, {}, False),
        ({"x": 5}, {"x": "5"}, False),
        ({"x": True}, {"x": 1}, False),
    ],
)
def test_the_fuzz_knows_a_loss_when_it_sees_one(before: dict, after: dict, lossless: bool) -> None:
    assert fuzz._lossless(before, after) is lossless


def test_the_fuzz_finds_a_call_that_should_not_have_been_accepted() -> None:
    wrong = {"name": "book_room", "arguments": {"day": "tomorrow"}}
    with pytest.raises(fuzz.Broken, match="not what the tool takes"):
        fuzz._refuse_broken(wrong, wrong, "a text")
