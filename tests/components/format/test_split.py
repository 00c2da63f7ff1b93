from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.format.config import SplitConfig
from components.format.split import TEST, TRAIN, VALIDATION, exact, question_key, stratum


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
