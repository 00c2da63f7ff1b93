"""Texts that are alike, beside a comparison of all with all."""

import random
import resource
import tracemalloc

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


def test_texts_made_by_one_pattern_are_not_read_to_see_that_they_are_too_far_apart(monkeypatch):
    compared = []
    monkeypatch.setattr(alike, "likeness", lambda one, two: compared.append((one, two)) or likeness(one, two))
    short = [(f"what is the weather like in city{n} on day{n}", "ours" if n % 2 else "theirs") for n in range(40)]
    long = " ".join(f"word{n}" for n in range(16))
    rows = [*short, *((f"{text} {long}", whose) for text, whose in short[:20]), (f"no {short[1][0]}", "theirs")]
    assert [(pair.train, pair.held) for pair in found(near, rows, 0.9)] == [(1, len(rows) - 1)]
    assert len(compared) == 1
    assert len(found(near, [("0 1 0", "theirs")] * 20 + [("1 0", "ours")] * 5, 0.9)) == 5
    assert len(compared) == 6, "none is nearer than the first"


@pytest.mark.parametrize("long", [[f"w{n}" for n in range(5_000)], ["0"]], ids=["words", "zeros"])
def test_long_texts_take_no_more_memory_at_once_than_short_ones(monkeypatch, long):
    monkeypatch.setattr(alike, "RUNS_AT_ONCE", 20_000)
    monkeypatch.setattr(alike, "WORDS_AT_ONCE", 20_000)

    def peak(rows, some_words, words_of_each):
        with Texts() as texts:
            for row in range(rows):
                texts.add(" ".join(random.Random(row).choices(some_words, k=words_of_each)))
            held, ours = range(0, rows, 50), [row for row in range(rows) if row % 50]
            tracemalloc.start()
            try:
                list(sharing(texts, ours, held, 13))
                list(near(texts, [], held, 0.8))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert peak(200, long, 2_000) < 4 * peak(200, [f"w{n}" for n in range(5_000)], 95)


def test_words_that_the_disk_has_room_for_in_part_are_an_error():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Texts() as texts:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # as on a full disk, the first bytes are still written
        try:
            with pytest.raises(OSError, match="File too large"):
                texts.add(" ".join("a" * 31))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
