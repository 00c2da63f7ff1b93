"""Texts that are alike, beside a comparison of all with all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.likeness import likeness, words
from components.format import alike
from components.format.alike import Pair, Texts, common, near, sharing

WHOSE = st.sampled_from(["ours", "theirs", "nobody's"])


def rows_of(letters, most):
    return st.lists(st.tuples(st.lists(st.sampled_from(letters), max_size=most).map(" ".join), WHOSE), max_size=30)


@pytest.fixture(scope="module", autouse=True)
def few_at_once():
    """Several parts and passes, for few texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "TEXTS_AT_ONCE", 4)
        patch.setattr(alike, "RUNS_AT_ONCE", 50)
        patch.setattr(alike, "WORDS_AT_ONCE", 30)
        yield


def of(rows, whose):
    return [at for at, (_, owner) in enumerate(rows) if owner == whose]


def found(search, rows, *options):
    """What one of the two searches finds in rows of a text and whose it is."""
    with Texts() as texts:
        for text, _ in rows:
            texts.add(text)
        return list(search(texts, of(rows, "ours"), of(rows, "theirs"), *options))


@settings(max_examples=300, deadline=None)
@given(
    rows_of("abcdefghijklmnopqrstuvwxyz", 40),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 40))),
    st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 0.9, 1.0]),
)
def test_the_nearest_text_is_found_and_of_two_as_near_the_first(rows, again, least):
    for row, without in again:  # chance alone makes no two long texts alike
        if row < len(rows):
            said = rows[row][0].split()
            rows = [*rows, (" ".join([*said[:without], *said[without + 1 :]]), "ours" if without % 2 else "theirs")]
    sets = [set(words(text)) for text, _ in rows]
    expected = {}
    for row in of(rows, "ours"):
        best = max(((likeness(sets[row], sets[other]), -other) for other in of(rows, "theirs")), default=(0, 0))
        if best[0] >= least - 1e-9:
            expected[row] = -best[1]
    assert {pair.train: pair.held for pair in found(near, rows, least)} == expected


@settings(max_examples=300, deadline=None)
@given(rows_of("abcd", 12), st.sampled_from([1, 3, 5]))
def test_the_first_words_in_a_row_that_another_text_has_are_found(rows, length):
    ours, theirs = of(rows, "ours"), of(rows, "theirs")
    runs = [
        [tuple(said[at : at + length]) for at in range(len(said) - length + 1)] for said in (text.split() for text, _ in rows)
    ]
    having = {}
    for row in sorted([*ours, *theirs]):
        for run in runs[row]:
            having.setdefault(run, set()).add(row)
    expected = []
    for row in ours:
        for run in runs[row]:
            others = having[run] & set(theirs)
            if others and len(having[run]) <= common(len(rows)):
                expected.append(Pair(row, min(others), f"{length} words in a row, {' '.join(run)!r}"))
                break
    assert found(sharing, rows, length) == expected


@pytest.mark.parametrize(("having", "telling"), [(10, True), (11, False)])
def test_what_more_than_ten_texts_have_is_a_phrase(having, telling):
    rows = [("one two three", "theirs"), *[("one two three", "ours")] * (having - 1), *[("x", "ours")] * 20]
    assert [pair.train for pair in found(sharing, rows, 3)] == (list(range(1, having)) if telling else [])


@pytest.mark.parametrize("rows", [[], [("", "ours"), ("???", "theirs")], [("a b c", "ours")], [("a b c", "theirs")]])
def test_where_there_is_nothing_to_compare_nothing_is_found(rows):
    assert found(near, rows, 0.8) == found(sharing, rows, 3) == []
