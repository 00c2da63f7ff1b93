"""Answers as they come: a step that is started again finds them, on this machine or another, and skips what is damaged."""

import json

import pytest

from calltune.errors import UserError
from components.evaluate import journal as room
from components.evaluate.journal import Asked, Journal, Written

ANSWERS = {Asked("", str(number)): Written([number, 2], True) for number in range(5)} | {
    Asked("rephrased", "0"): Written([7], False)
}
PLACE = "evaluations/key/answers"


@pytest.fixture
def journal(store, tmp_path):
    return Journal(store, PLACE, tmp_path / "here" / "key.jsonl", "evaluate candidate")


def elsewhere(journal, tmp_path):
    """The same evaluation on another machine."""
    return Journal(journal.store, PLACE, tmp_path / "there" / "key.jsonl", journal.name)


def write(journal, answers=ANSWERS):
    with journal.writing():
        for asked, written in answers.items():
            journal.add(asked, written)


def notes(tmp_path):
    return [json.loads(line)["message"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def test_nothing_was_answered_before_the_first_time(journal, tmp_path):
    assert journal.read() == {}
    assert not (tmp_path / "events.jsonl").exists()


def test_every_answer_is_there_at_once_on_this_machine(journal, tmp_path):
    with journal.writing():
        for count, (asked, written) in enumerate(ANSWERS.items(), 1):
            journal.add(asked, written)
            assert len(Journal(journal.store, PLACE, journal.path, "x").read()) == count
    assert journal.read() == ANSWERS
    assert journal.store.list(PLACE) == [], "the first portion is not due yet"
    assert notes(tmp_path)[-1] == "evaluate candidate: 6 answers were written before; goes on from there"


def test_another_machine_finds_the_portions_that_were_uploaded(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PORTION_S", 0.0)
    write(journal)
    assert len(journal.store.list(PLACE)) == 6
    assert elsewhere(journal, tmp_path).read() == ANSWERS


def test_a_failure_brings_the_rest_into_the_store(journal, tmp_path):
    with pytest.raises(MemoryError), journal.writing():
        journal.add(Asked("", "0"), Written([1], True))
        raise MemoryError
    assert elsewhere(journal, tmp_path).read() == {Asked("", "0"): Written([1], True)}


def test_whoever_takes_the_answers_and_fails_leaves_them_in_the_store(journal, tmp_path):
    def answers():
        with journal.writing():
            for number in range(3):
                journal.add(Asked("", str(number)), Written([number], True))
                yield number

    taken = answers()
    assert next(taken) == 0
    taken.close()  # as Python does when the loop over it raises
    assert elsewhere(journal, tmp_path).read() == {Asked("", "0"): Written([0], True)}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_half_written_line_is_named_and_skipped_and_the_next_one_is_whole(journal, tmp_path, cut):
    write(journal)
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[:-cut])
    found = journal.read()
    # The cut of one byte takes only the last line's end.
    assert found == {asked: written for asked, written in ANSWERS.items() if asked.way == "" or cut == 1}
    if cut > 1:
        assert f"{journal.path}, line 7: damaged or not whole; these questions are asked again" in notes(tmp_path)[-2]
    write(journal, {Asked("", "9"): Written([3], True)})
    assert journal.read() == {**found, Asked("", "9"): Written([3], True)}


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"[1, 2]", b"[1, 3]"),
        lambda line: line[:30] + b"\xff" + line[31:],
        lambda line: b"{}",
        lambda line: b"[" * 100_000,
        lambda line: b"null",
    ],
)
def test_a_damaged_line_in_the_store_is_named_and_its_question_asked_again(journal, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(room, "PORTION_S", 0.0)
    write(journal)
    (key,) = (key for key in journal.store.list(PLACE) if b"[1, 2]" in journal.store.get(key))
    journal.store.put(key, damage(journal.store.get(key)))
    assert elsewhere(journal, tmp_path).read().keys() == ANSWERS.keys() - {Asked("", "1")}
    assert f"{key}, line 1: damaged or not whole" in notes(tmp_path)[-2]


def test_a_store_that_is_away_for_a_while_gets_the_answers_later(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PORTION_S", 0.0)
    put, away = journal.store.put, True

    def sometimes(key, data):
        if away:
            raise UserError("the bucket cannot be reached")
        put(key, data)

    monkeypatch.setattr(journal.store, "put", sometimes)
    with journal.writing():
        journal.add(Asked("", "0"), Written([0, 2], True))
        assert notes(tmp_path)[-1] == "evaluate candidate: 1 answers are on this machine only: the bucket cannot be reached"
        away = False
        journal.add(Asked("", "1"), Written([1, 2], True))
    assert elsewhere(journal, tmp_path).read().keys() == {Asked("", "0"), Asked("", "1")}


def test_when_the_results_are_in_the_store_nothing_of_it_is_left(journal, monkeypatch):
    monkeypatch.setattr(room, "PORTION_S", 0.0)
    write(journal)
    journal.remove()
    assert journal.store.list(PLACE) == [] and not journal.path.exists() and journal.read() == {}
