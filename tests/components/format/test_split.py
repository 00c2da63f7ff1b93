from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from calltune.errors import DataError
from components.format.config import SplitConfig
from components.format.split import (
    TEST,
    TRAIN,
    VALIDATION,
    called_tools,
    exact,
    growing,
    parts_of,
    question_key,
    stratum,
    unseen_tools,
)

MANY = 1000


def record(question, *tools):
    calls = [{"type": "function", "function": {"name": tool, "arguments": {}}} for tool in tools]
    answer = {"role": "assistant", "tool_calls": calls} if calls else {"role": "assistant", "content": "Hi."}
    return {"id": question, "messages": [{"role": "user", "content": question}, answer]}


def records(**counts):
    return [
        record(f"{name} {number}", *([] if name == "none" else [name]))
        for name, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(("test", "validation"), [(0.33, 0.1), (0.5, 0.2), (0.1, 0.0), (0.0, 0.3), (0.0, 0.0), (0.333, 0.333)])
def test_each_part_gets_exactly_its_share(test, validation):
    rows = records(search=70, ticket=29, none=101)
    found = Counter(exact(rows, test, validation, seed=0))
    assert found[TEST] == round(test * 200) and found[VALIDATION] == round(validation * 200)
    assert sum(found.values()) == 200


def test_every_stratum_is_shared_out_like_the_whole():
    rows = records(search=90, ticket=60, book=30, none=20)
    parts = exact(rows, 0.3, 0.1, seed=4)
    by_stratum = defaultdict(Counter)
    for row, part in zip(rows, parts, strict=True):
        by_stratum[stratum(row)][part] += 1
    for label, count in {"search": 90, "ticket": 60, "book": 30, "no call": 20}.items():
        assert abs(by_stratum[label][TEST] - 0.3 * count) <= 1
        assert abs(by_stratum[label][VALIDATION] - 0.1 * count) <= 1.5


def test_the_stratum_is_what_is_expected_in_any_order():
    assert stratum(record("q", "b", "a")) == stratum(record("q", "a", "b")) == "a + b"
    assert stratum({**record("q", "a"), "expected": []}) == "no call"


def test_a_split_is_repeated_by_its_seed_and_changed_by_another():
    rows = records(search=60, none=40)
    assert exact(rows, 0.3, 0.1, seed=1) == exact(rows, 0.3, 0.1, seed=1)
    assert exact(rows, 0.3, 0.1, seed=1) != exact(rows, 0.3, 0.1, seed=2)


def test_the_order_of_the_rows_does_not_matter():
    rows = records(search=60, none=40)
    forward = dict(zip((r["id"] for r in rows), exact(rows, 0.3, 0.1, seed=1), strict=True))
    backward = dict(zip((r["id"] for r in rows[::-1]), exact(rows[::-1], 0.3, 0.1, seed=1), strict=True))
    assert forward == backward


def test_rows_of_one_question_stay_together():
    rows = []
    for number in range(40):
        rows += [
            record(f"Where is room {number}?", "find"),
            record(f"  where IS room {number}? ", "book"),
            record(f"other {number}"),
        ]
    parts = exact(rows, 0.4, 0.2, seed=0)
    assert all(parts[i] == parts[i + 1] for i in range(0, len(rows), 3))
    assert len({question_key(r) for r in rows}) == 80
    assert set(parts) == {TRAIN, VALIDATION, TEST}


def conversation(*questions):
    turns = [record(question, "find")["messages"] for question in questions]
    return {"id": " | ".join(questions), "messages": [message for turn in turns for message in turn]}


@pytest.mark.parametrize("split", [exact, growing])
def test_conversations_that_share_their_first_turn_stay_together_whatever_comes_after(split):
    rows = []
    for number in range(60):
        rows += [conversation(f"Hi, I am {number}.", "Where is Ana?"), conversation(f"hi,  I am {number}.", "Book a room.")]
        rows += [record(f"Hi, I am {number}.")]
    parts = split(rows, 0.4, 0.2, seed=0)
    assert all(len(set(parts[start : start + 3])) == 1 for start in range(0, len(rows), 3))
    assert set(parts) == {TRAIN, VALIDATION, TEST}


def test_a_first_turn_that_says_nothing_is_not_the_question():
    silent = [conversation(" ", "Where is Ana?"), conversation("", "Book a room.")]
    assert question_key(silent[0]) == question_key(record("where is Ana?")) != question_key(silent[1])


def test_a_question_with_several_answers_is_split_the_same_in_any_order_of_its_rows():
    rows = [*records(find=30, none=30), record("both", "find"), record("both", "book"), record("both")]
    forward, backward = exact(rows, 0.3, 0.1, seed=1), exact(rows[::-1], 0.3, 0.1, seed=1)
    assert forward == backward[::-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_growing_moves_no_row_when_more_come(seed):
    config = SplitConfig(mode="growing", test=0.33, validation=0.1, seed=seed)
    rows = records(search=700, ticket=290, none=10)
    more = [record(f"later {number}", "search") for number in range(100)]
    before = parts_of(rows, config)
    mixed = [row for ten in range(100) for row in (more[ten], *rows[10 * ten : 10 * ten + 10])]
    after = dict(zip((row["id"] for row in mixed), parts_of(mixed, config), strict=True))
    assert [after[row["id"]] for row in rows] == before
    assert {after[row["id"]] for row in more} == {TRAIN, VALIDATION, TEST}
    assert parts_of(rows, SplitConfig(mode="exact")) != [part for row, part in after.items() if not row.startswith("later")]


def test_growing_meets_the_shares_on_average_and_follows_the_seed():
    rows = records(search=6000)
    found = Counter(growing(rows, 0.33, 0.1, seed=3))
    assert found[TEST] / 6000 == pytest.approx(0.33, abs=0.02) and found[VALIDATION] / 6000 == pytest.approx(0.1, abs=0.015)
    assert growing(rows, 0.33, 0.1, seed=3) != growing(rows, 0.33, 0.1, seed=4)


def test_growing_gives_the_parts_that_it_has_always_given():
    # Written down: another hash would silently put today's training rows into tomorrow's test.
    was = [TEST, VALIDATION, TEST, TRAIN, TRAIN, TRAIN, TRAIN, TEST]
    assert growing(records(search=8), 0.4, 0.2, seed=0) == was


def test_an_exact_split_gives_the_parts_that_it_has_always_given():
    # Written down, since a test that moves makes two runs' figures different things. The last two rows ask what is there.
    rows = [*records(search=4, book=3, none=3), record("search 0", "book"), record("Book 1", "search")]
    parts = {TRAIN: [1, 5, 6, 7, 8, 11], VALIDATION: [3, 4], TEST: [0, 2, 9, 10]}
    assert [[at for at, part in enumerate(exact(rows, 0.3, 0.2, seed=0)) if part == name] for name in parts] == [*parts.values()]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", ""])), max_size=60),
    st.floats(0, 0.6),
    st.floats(0, 0.39),
    st.integers(0, 9),
)
def test_any_rows_are_split_by_question_with_exact_shares(rows, test, validation, seed):
    made = [record(f"question {number}", *([tool] if tool else [])) for number, tool in rows]
    parts = exact(made, test, validation, seed)
    by_question = defaultdict(set)
    for row, part in zip(made, parts, strict=True):
        by_question[question_key(row)].add(part)
    assert all(len(found) == 1 for found in by_question.values())
    counts = Counter(part for (part,) in by_question.values())
    assert counts[TEST] == round(test * len(by_question))
    assert counts[VALIDATION] == min(round(validation * len(by_question)), len(by_question) - counts[TEST])


@pytest.mark.parametrize(("test", "validation"), [(0.7, 0.3), (0.9, 0.2)])
def test_shares_that_leave_nothing_to_train_on_are_refused(test, validation):
    with pytest.raises(ValidationError, match=f"test {test} and validation {validation} leave no row to train on"):
        SplitConfig(test=test, validation=validation)


@pytest.mark.parametrize(("mode", "seed"), [("exact", 0), ("exact", 3), ("growing", 0), ("growing", 1)])
def test_by_tool_no_tool_of_the_test_is_called_in_training_or_validation(mode, seed):
    rows = [
        *records(**{f"tool{number}": 10 + number for number in range(12)}, none=50),
        record("both", "tool1", "tool2", "tool3"),
    ]
    config = SplitConfig(by="tool", mode=mode, test=0.3, validation=0.1, seed=seed)
    parts, unseen = parts_of(rows, config), unseen_tools(rows, config)
    called = {part: set() for part in (TRAIN, VALIDATION, TEST)}
    for row, part in zip(rows, parts, strict=True):
        called[part] |= called_tools(row)
    assert unseen and not unseen & (called[TRAIN] | called[VALIDATION]) and unseen <= called[TEST]
    quiet = [part for row, part in zip(rows, parts, strict=True) if stratum(row) == "no call"]
    assert set(quiet) == {TRAIN, VALIDATION, TEST}
    if mode == "exact":
        calling = [part for row, part in zip(rows, parts, strict=True) if stratum(row) != "no call"]
        assert 0.2 < calling.count(TEST) / len(calling) <= 0.31 and quiet.count(TEST) == 15
    assert parts == parts_of(rows, config)


def test_by_tool_a_question_goes_whole_and_a_growing_split_moves_no_row():
    rows = [record(f"ask {number}", f"tool{number % 8}") for number in range(80)] + [record("ask 3", "tool4")]
    config = SplitConfig(by="tool", mode="growing", test=0.4, validation=0.1, seed=1)
    parts = parts_of(rows, config)
    assert parts[3] == parts[-1]
    more = [record(f"later {number}", f"tool{number % 8}") for number in range(30)]
    assert parts_of([*rows, *more], config)[: len(rows)] == parts


def test_an_earlier_call_makes_a_tool_seen_too():
    row = conversation("Where is Ana?", "Thanks.")
    row["messages"][-1] = {"role": "assistant", "content": "Bye."}
    assert called_tools(row) == {"find"} and called_tools({**record("q", "a"), "expected": [{"name": "b"}]}) == {"a", "b"}


def test_by_tool_needs_two_tools():
    with pytest.raises(DataError, match="by: tool needs at least two tools that are called; the rows call 1"):
        parts_of(records(search=9, none=3), SplitConfig(by="tool"))
    with pytest.raises(DataError, match=r"growing holds 0 of 2 tools out at test 0\.01"):
        parts_of(records(search=9, book=3), SplitConfig(by="tool", mode="growing", test=0.01))


def from_source(rows, uri):
    return [{**row, "source": {"uri": uri}} for row in rows]


@pytest.mark.parametrize(
    "wanted", ["holdout.jsonl", "s3://data/shop/holdout.jsonl", "s3://data/*/hold*", "./shop/holdout.jsonl", "../shop/hold*"]
)
def test_a_named_source_is_the_test_and_nothing_else_is(wanted):
    rows = from_source(records(search=40), "s3://data/shop/rows.jsonl")
    rows += from_source([record("search 3", "search"), *records(book=9)], "s3://data/shop/holdout.jsonl")
    parts = parts_of(rows, SplitConfig(test_source=wanted, validation=0.25))
    assert parts[40:] == [TEST] * 10 and TEST not in parts[:40]
    assert parts[:40].count(VALIDATION) in (9, 10) and parts[3] == TRAIN


def test_where_the_test_is_a_named_source_its_share_counts_for_nothing():
    rows = from_source(records(search=40), "rows.jsonl") + from_source(records(book=5), "holdout.jsonl")
    parts = parts_of(rows, SplitConfig(test_source="holdout.jsonl", validation=0.7))
    assert (parts[:40].count(VALIDATION), parts.count(TEST)) == (28, 5)
    with pytest.raises(ValidationError, match=r"test 0\.33 and validation 0\.7 leave no row to train on"):
        SplitConfig(validation=0.7)


def test_a_source_that_no_row_has_is_refused_with_those_there_are():
    with pytest.raises(DataError, match=r"test_source: no row comes from 'test.jsonl'; the sources are rows.jsonl"):
        parts_of(from_source(records(search=4), "rows.jsonl"), SplitConfig(test_source="test.jsonl"))
    with pytest.raises(ValidationError, match="leave one of them out"):
        SplitConfig(by="tool", test_source="test.jsonl")


@pytest.mark.parametrize(("rows", "mode"), [(MANY - 1, "exact"), (MANY, "growing")])
def test_auto_lets_no_question_move_once_there_are_many(rows, mode):
    some = [record(f"q{number}", "ab"[number % 2]) for number in range(rows)]
    assert parts_of(some, SplitConfig()) == parts_of(some, SplitConfig(mode=mode))
    by_tool = [parts_of(some, SplitConfig(by="tool", **given)) for given in ({}, {"mode": "exact"})]
    assert by_tool[0] == by_tool[1]
