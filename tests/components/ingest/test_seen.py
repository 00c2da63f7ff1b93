import random

import pytest

from calltune.errors import DataError
from calltune.likeness import likeness, words
from components.ingest import seen
from components.ingest.seen import Seen, traits_of

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
TEN = "please tell me who in our office may book room"


def row(question, answer="Yes.", tools=()):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "tools": list(tools)}


def repeats(rows, least=0.9):
    """For each row the number of the row that it repeats, or None."""
    with Seen(least) as before:
        found = [before.repeated(traits_of(record, least < 1), "rows.jsonl", number) for number, record in enumerate(rows)]
    assert not any(one.conflicting for one in found if one)
    return [one.row if one else None for one in found]


def test_a_question_with_one_word_more_is_a_near_duplicate():
    assert repeats([row(f"{TEN} four"), row("Hi?"), row(f"So: {TEN}, four?")]) == [None, None, 0]


def test_nearly_the_same_question_with_another_answer_or_other_tools_is_kept():
    assert repeats([row(f"{TEN} four"), row(f"{TEN} four now", "No."), row(f"{TEN} four so", tools=TOOLS)]) == [None, None, None]


def test_below_the_threshold_and_without_one_rows_are_kept():
    assert repeats([row(f"{TEN} four"), row(f"{TEN} seven today")]) == [None, None]
    assert repeats([row(f"{TEN} four"), row(f"so {TEN} four"), row(f"{TEN}  FOUR")], least=1) == [None, None, 0]


def test_texts_without_a_word_are_not_alike():
    assert repeats([row("?!"), row("..."), row("?!")]) == [None, None, 0]


@pytest.mark.parametrize("least", [0.5, 0.8, 0.9])
def test_what_is_dropped_is_truly_alike_and_what_is_kept_is_not(least):
    draw = random.Random(7)
    texts = []
    for _ in range(60):
        text = draw.choices([f"w{n}" for n in range(400)], k=draw.randint(5, 25))
        texts += [" ".join(text), " ".join([*text[draw.randint(0, 2) :], f"x{draw.randint(0, 9)}"])]
    found = repeats([row(text) for text in texts], least)
    sets = [set(words(text)) for text in texts]
    for at, of in enumerate(found):
        if of is not None:
            assert texts[at] == texts[of] or likeness(sets[at], sets[of]) >= least - 1e-9
        else:
            before = [other for other in range(at) if found[other] is None]
            assert all(likeness(sets[at], sets[other]) < least for other in before)
    assert sum(of is not None for of in found) > 10


def test_no_room_for_what_is_known_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(seen, "_TABLES", "CREATE TABLE kept (id INTEGER PRIMARY KEY); PRAGMA max_page_count = 2;" + seen._TABLES)
    with pytest.raises(DataError, match=r"the temporary folder \(TMPDIR\) cannot hold what is known of the rows: "):
        Seen(1)
