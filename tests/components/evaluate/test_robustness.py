"""Questions asked again: what changes, what stays, and that it is always the same."""

import random

import pytest

from components.evaluate.robustness import STRANGERS, WAYS, in_other_words

SEED = 0


def tool(name):
    return {"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}}


HELP = [tool(name) for name in ("search_web", "find_employee", "create_ticket", "book_room")]


def record(id_, text, tools=HELP):
    answer = {"role": "assistant", "content": "Which one?"}
    return {"id": id_, "messages": [{"role": "user", "content": text}, answer], "tools": tools}


RECORDS = [record("1", "Who is Ana Souza in Finance?"), record("2", "Please open a ticket about the broken projector")]


def names(row):
    return [one["function"]["name"] for one in row["tools"]]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_asks_the_same_and_another_something_else(way):
    many = [record(str(number), f"Where can I find document number {number}, please?") for number in range(20)]
    assert WAYS[way](many, SEED) == WAYS[way](many, SEED)
    assert any(WAYS[way](many, SEED) != WAYS[way](many, seed) for seed in range(1, 9))
    backwards = list(reversed(many))
    assert WAYS[way](backwards, SEED) == list(reversed(WAYS[way](many, SEED)))


@pytest.mark.parametrize("way", WAYS)
def test_answers_and_ids_stay_and_the_records_are_not_touched(way):
    before = [dict(row) for row in RECORDS]
    again = WAYS[way](RECORDS, SEED)
    assert before == RECORDS
    assert [row["id"] for row in again] == ["1", "2"]
    assert [row["messages"][-1] for row in again] == [row["messages"][-1] for row in RECORDS]


@pytest.mark.parametrize("way", ["shuffled_tools", "distractor"])
def test_rows_with_the_same_tools_keep_the_same_tools_so_that_their_prefix_is_shared(way):
    one, two = WAYS[way](RECORDS, SEED)
    assert one["tools"] == two["tools"] != HELP
    assert [row["messages"] for row in (one, two)] == [row["messages"] for row in RECORDS]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_another_order_is_another_one(count):
    for seed in range(30):
        (row,) = WAYS["shuffled_tools"]([record("1", "?", HELP[:count])], seed)
        assert row["tools"] != HELP[:count] and sorted(names(row)) == sorted(names({"tools": HELP[:count]}))


def test_a_single_tool_or_none_has_no_other_order():
    rows = [record("1", "?", HELP[:1]), record("2", "?", []), record("3", "?", [HELP[0], HELP[0]])]
    assert WAYS["shuffled_tools"](rows, SEED) == rows


def test_the_distractor_is_one_tool_more_that_no_question_mentions():
    asked = [f"Something about {word}" for word in ("currency", "the weather", "music", "an alarm clock", "my parcel")]
    rows = [record(str(number), text) for number, text in enumerate(asked)]
    for seed in range(10):
        (more,) = {name for row in WAYS["distractor"](rows, seed) for name in names(row)} - set(names({"tools": HELP}))
        assert more == "translate_sentence"
    assert all(len(row["tools"]) == 5 for row in WAYS["distractor"](rows, SEED))


def test_the_distractor_is_another_rows_tool_where_there_is_one_that_shares_no_word():
    rows = [record("1", "?", [tool("search_web")]), record("2", "?", [tool("search_files"), tool("order_pizza")])]
    one, two = WAYS["distractor"](rows, SEED)
    assert sorted(names(one)) == ["order_pizza", "search_web"]
    assert len(two["tools"]) == 3 and set(names(two)) & set(STRANGERS)


def test_rephrased_says_the_same_with_courtesy_a_typo_or_small_letters():
    text = "What is the reimbursement limit for Ana_Souza@corp.example in ROOM-12b/floor?"
    for seed in range(40):
        said = in_other_words(text, seed)
        assert said != text
        kept = said if said != said.lower() else said + text  # small letters change names, too
        assert "Ana_Souza@corp.example" in kept and "ROOM-12b/floor" in kept
        without = said.lower()
        assert sorted(without) != sorted(text.lower()), "a greeting or thanks"
        assert abs(len(said) - len(text)) < 25
    assert any("reimbursement" not in in_other_words(text, seed).lower() for seed in range(40)), "a typo"
    assert any(said == said.lower() for said in (in_other_words(text, seed) for seed in range(40)))


def test_a_text_without_a_word_for_a_typo_gets_courtesy_only():
    for text in ("Hi", "", "12 34", "aaaaaa"):
        said = in_other_words(text, random.randrange(1000))
        assert text.lower() in said.lower() and said.lower() != text.lower()


def test_only_the_last_user_turn_is_rephrased():
    turns = [{"role": "user", "content": "First question"}, {"role": "assistant", "content": "Yes."}, *RECORDS[0]["messages"]]
    (row,) = WAYS["rephrased"]([{**RECORDS[0], "messages": turns}], SEED)
    assert [one == other for one, other in zip(row["messages"], turns, strict=True)] == [True, True, False, True]
