import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.likeness import words
from components.format.config import ContaminationConfig
from components.format.contamination import Turns, contaminated, numbers_of_turns
from components.format.split import TEST, TRAIN, VALIDATION


def record(*texts):
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def found(train, held, **settings):
    rows = [record(text) for text in [*train, *held]]
    parts = [*[TRAIN] * len(train), *[TEST] * len(held)]
    pairs = contaminated(rows, parts, ContaminationConfig(**settings))
    return [(train[pair.train], held[pair.held - len(train)], pair.why) for pair in pairs]


def test_conversations_that_begin_alike_are_one_question_whatever_follows():
    later = ["and now something else entirely", "what would the weather in Oslo be like"]
    rows = [record("Where is Ana?", later[0]), record("where is ana?", later[1]), record("🙂"), record("🙂")]
    pairs = contaminated(rows, [TRAIN, TEST, TRAIN, VALIDATION], ContaminationConfig())
    assert [(pair.train, pair.held, pair.why) for pair in pairs] == [
        (0, 1, "the same first question"),
        (2, 3, "the same first question"),
    ]


def test_what_the_test_asks_last_is_found_in_any_turn_of_a_training_conversation():
    asked = "What is the reimbursement limit for travel meals?"
    rows = [
        record("Who leads the travel desk in Leeds?", asked),
        record("Is Ana in today? And tomorrow, and on Monday?", asked.upper(), "Thanks."),
        record("Which rooms of the London office are free on Friday afternoon?", "Thanks."),
        record(asked),
        record("Book a hotel in York for the second of May.", "Which one has a garage?", f"  {asked}"),
        record("Who repairs the printer of the third floor?", "Thanks."),
    ]
    parts = [TRAIN, TRAIN, TRAIN, TEST, VALIDATION, TEST]
    pairs = contaminated(rows, parts, ContaminationConfig())
    assert [(pair.train, pair.held, pair.why) for pair in pairs] == [
        (0, 3, "a later turn asks the same"),
        (1, 3, "a later turn asks the same"),
    ]
    assert [(pair.train, pair.held) for pair in contaminated(rows, [*parts[:3], TRAIN, *parts[4:]], ContaminationConfig())] == [
        (0, 4), (1, 4), (3, 4),
    ]  # fmt: skip


def test_of_several_questions_that_a_row_asks_the_first_is_named():
    def said(word, row):
        return " ".join(f"{word}{row}{letter}" for letter in "abcdefgh")

    training = [record(said("hello", row), said("one", row), said("two", row)) for row in range(20)]
    asked = [record(said(word, row)) for row in range(20) for word in ("two", "one")]
    pairs = contaminated([*training, *asked], [*[TRAIN] * 20, *[TEST] * 40], ContaminationConfig())
    # A set of texts has them in another order in each process: that all twenty are named by chance is one in a million.
    assert [(pair.train, pair.held) for pair in pairs] == [(row, 20 + 2 * row) for row in range(20)]


def test_a_turn_that_many_rows_have_is_a_phrase_and_a_row_that_asks_nothing_else_is_not():
    yes = "Yes, please go ahead and book that one for me."
    rows = [record(f"a{n} b{n} c{n} d{n} e{n} f{n} g{n} h{n} i{n} j{n} k{n} l{n} m{n}", yes) for n in range(20)]
    parts = [*[TRAIN] * 12, *[TEST] * 8]

    def pairs(rows, parts):
        turns = Turns()
        for row in rows:
            turns.add(numbers_of_turns(row))
        found = contaminated(rows, parts, ContaminationConfig(), turns.phrases())
        return [(pair.train, pair.held, pair.why) for pair in found]

    assert pairs(rows, parts) == []
    assert len(pairs(rows[5:15], parts[5:15])) == 7  # ten rows with it are not too many
    assert pairs([record(yes), *rows], [TRAIN, *parts]) == [(0, 13, "a later turn asks the same")]
    asked = pairs([record(yes), *rows], [TEST, *parts])
    assert asked == [(row, 0, "a turn asks the same") for row in range(1, 13)], "a question that is nothing but the phrase"


def test_conversations_that_ask_the_same_once_they_are_shortened_are_found_though_it_is_short():
    whole = [record("Where is the printer of the London office?", "Yes, please."), record("Book me a room.", "Yes, please.")]
    shown = record("yes, please.")
    for shortened in ({}, {0: shown}, {1: shown}):
        assert contaminated(whole, [TRAIN, TEST], ContaminationConfig(), (), shortened) == []
    (pair,) = contaminated(whole, [TRAIN, TEST], ContaminationConfig(), (), {0: shown, 1: shown})
    assert (pair.train, pair.held, pair.why) == (0, 1, "a later turn asks the same")


def test_case_spacing_and_punctuation_do_not_hide_a_question():
    assert found(["Where is ROOM 12?", "Who is Bo?"], ["where is  room 12"]) == [
        ("Where is ROOM 12?", "where is  room 12", "the same words")
    ]


def test_one_changed_word_of_nine_is_nearly_equal_and_the_nearest_is_named():
    asked = "please book the large room for monday at nine"
    near, nearer = asked.replace("nine", "ten"), asked + " please"
    assert found([near], ["please call", asked]) == [(near, asked, "80% of the words of both")]
    assert found([nearer], [near, asked])[0][1:] == (asked, "100% of the words of both")
    assert found([near], [asked], similarity=0.81) == []


def test_a_long_run_of_words_is_enough_in_another_text():
    run = "the blinking red light on the second printer of the third floor kitchen corner"
    train, held = f"Since Monday I see {run}, what now? It is in Leeds.", f"Anna asks: {run}. Who repairs printers in York?"
    assert found([train], [held], similarity=0.9) == [(train, held, f"13 words in a row, {run[:-7]!r}")]
    assert found([train], [held], similarity=0.9, shared_words=15) == []


def test_a_phrase_that_many_rows_have_is_not_the_question():
    phrase = "you are speaking with a customer of our shop and must always answer in french"
    rows = [f"{phrase}: a{number} b{number} c{number} d{number} e{number} f{number} g{number} h{number}" for number in range(30)]
    assert found(rows[:20], rows[20:]) == []
    assert len(found(rows[:3], rows[20:23])) == 3


def test_a_later_user_turn_counts_and_an_answer_does_not():
    rows = [record("Hi", "Where is Ana?"), record("Hi where", "is ana"), record("Bye")]
    rows[2]["messages"].append({"role": "assistant", "content": "Hi, where is Ana?"})
    assert [(p.train, p.held) for p in contaminated(rows, [TRAIN, VALIDATION, TRAIN], ContaminationConfig())] == [(0, 1)]


def test_texts_without_words_or_spaces_are_compared_too():
    assert found(["???", ""], ["!!!"]) == []
    assert words("你好 Ana, 京都へ3") == ["你", "好", "ana", "京", "都", "へ", "3"]
    assert found(["明日の会議室を予約してください"], ["明日の会議室を予約して下さい"], similarity=0.75)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join), max_size=12),
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join), max_size=12),
    st.sampled_from([0.5, 0.6, 2 / 3, 0.75, 0.8, 1.0]),
)
def test_no_pair_is_missed_and_none_invented(train, held, least):
    def likeness(one, two):
        return len({*one.split()} & {*two.split()}) / len({*one.split(), *two.split()})

    rows = [record(text) for text in [*train, *held]]
    pairs = contaminated(rows, [TRAIN] * len(train) + [TEST] * len(held), ContaminationConfig(similarity=least))
    expected = {i: max((likeness(text, h) for h in held), default=0) for i, text in enumerate(train)}
    assert {pair.train for pair in pairs} == {i for i, best in expected.items() if best >= least - 1e-9}
    for pair in pairs:
        assert likeness(train[pair.train], held[pair.held - len(train)]) == pytest.approx(expected[pair.train])
