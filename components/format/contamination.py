"""Training rows that ask what the test or the validation asks: found by the user's words, without comparing all with all."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import numpy as np

from calltune.likeness import words
from calltune.records import TURN_WORDS, Record, asked_sha256, number_of, question_sha256, turns_sha256, user_text
from components.format.alike import Pair, Texts, common, near, sharing
from components.format.config import ContaminationConfig
from components.format.split import TRAIN, question_key


class Turns:
    """What users say in their turns, each row's once: 8 bytes for each."""

    def __init__(self) -> None:
        self.numbers, self.rows = array("q"), 0

    def add(self, turns: Iterable[int]) -> None:
        """Count a row's turns, of `numbers_of_turns`."""
        self.numbers.extend(turns)
        self.rows += 1

    def phrases(self) -> frozenset[int]:
        """Those that are phrases of the data, such as a yes in many words: what they ask is what stands before them."""
        turns, rows_with = np.unique(np.asarray(self.numbers), return_counts=True)
        return frozenset(turns[rows_with > common(self.rows)].tolist())


def numbers_of_turns(record: Record) -> list[int]:
    """A number for each thing that the user says in a turn of its own."""
    return sorted({number_of(turn) for turn in turns_sha256(record)})


def told_apart(record: Record, phrases: Collection[int]) -> tuple[set[str], set[str]]:
    """As `turns_sha256`: the turns that training on a record teaches the answer to, and the phrases among them.

    A phrase tells only of a question that is nothing else that training has met it.
    """
    turns = set(turns_sha256(record))
    common = {turn for turn in turns if number_of(turn) in phrases}
    return turns - common, common


class _Asked:
    """What rows ask, by number: 16 bytes for each, however often it is asked."""

    def __init__(self) -> None:
        self.numbers, self.rows = array("q"), array("q")

    def add(self, row: int, digests: Collection[str]) -> None:
        """Note what a row asks."""
        self.numbers.extend(map(number_of, digests))
        self.rows.extend([row] * len(digests))

    def also_in(self, others: "_Asked") -> Iterator[tuple[int, int]]:
        """Yield each row that asks what one of the others asks, with these; a row's first one first."""
        known, first = np.unique(np.asarray(others.numbers), return_index=True)
        if not len(known):
            return
        numbers = np.asarray(self.numbers)
        places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        at = np.flatnonzero(known[places] == numbers)
        rows, asked = np.asarray(self.rows)[at], np.asarray(others.rows)[first[places[at]]]
        # What a row asks is in no order of its own: a set of texts has another one in each process.
        order = np.lexsort((asked, rows))
        yield from zip(rows[order].tolist(), asked[order].tolist(), strict=True)


def contaminated(
    records: Sequence[Record],
    parts: Sequence[str],
    config: ContaminationConfig,
    phrases: Collection[int] = (),
    shortened: Mapping[int, Record] = MappingProxyType({}),
) -> list[Pair]:
    """For each training row that nearly repeats a held-out one the nearest such pair, in the rows' order.

    Args:
        records: all rows; gone through one by one, never all in memory.
        parts: `train`, `validation` or `test` for each of them.
        config: what counts as nearly equal.
        phrases: turns that many of them have, of `Turns`.
        shortened: those of them that are shown without their early turns, as they are shown, by their index.
    """
    training, held = (array("q", (row for row, part in enumerate(parts) if (part == TRAIN) == ours)) for ours in (True, False))
    with Texts() as texts:
        alike, asked = _asked_alike(records, parts, phrases, shortened, texts)
        found = {row: Pair(row, other, "the same first question") for row, other in alike}
        rest = array("q", (row for row in training if row not in found))
        found |= {pair.train: pair for pair in near(texts, rest, held, config.similarity)}
        for pair in chain(asked, sharing(texts, training, held, config.shared_words)):
            found.setdefault(pair.train, pair)
    return [found[row] for row in sorted(found)]


def _asked_alike(
    records: Sequence[Record], parts: Sequence[str], phrases: Collection[int], shortened: Mapping[int, Record], texts: Texts
) -> tuple[list[tuple[int, int]], list[Pair]]:
    """What training rows ask to the letter as held-out ones do; `texts` gets what each row's user says.

    Returns:
        Each training row that begins like a held-out one, whatever their later turns, with this one: only a named test source
        lets them into two parts. And what evaluation would find in the model's list of what it was trained on, and the gate
        refuse.
    """
    begun, begun_held = _Asked(), _Asked()
    learnt, asking, said, whole = _Asked(), _Asked(), _Asked(), _Asked()
    for row, (record, part) in enumerate(zip(records, parts, strict=True)):
        texts.add(user_text(record))
        shown = shortened.get(row, record)
        if part == TRAIN:
            begun.add(row, [question_key(record)])
            for form in [record] if shown is record else [record, shown]:
                own, met = told_apart(form, phrases)
                learnt.add(row, {question_sha256(form), *own})
                said.add(row, met)
        else:
            begun_held.add(row, [question_key(record)])
            whole.add(row, [question_sha256(shown)])
            asking.add(row, asked_sha256(shown))
    later = [Pair(row, other, "a later turn asks the same") for row, other in learnt.also_in(asking)]
    short = [Pair(row, other, "a turn asks the same") for row, other in said.also_in(whole)]
    return list(begun.also_in(begun_held)), later + short


def repeating(training: Iterable[Sequence[str]], asked: Iterable[Sequence[str]], config: ContaminationConfig) -> list[Pair]:
    """For each training row that nearly repeats a question from elsewhere one such pair, in the rows' order.

    A conversation is held against the others as a whole, and by each of its turns that is not short.

    Args:
        training: what the users say in each row, turn by turn; gone through once.
        asked: the same of the questions.
        config: what counts as nearly equal.
    """
    of, wholes = array("q"), array("q")
    with Texts() as texts:

        def forms(rows: Iterable[Sequence[str]]) -> range:
            first = len(texts)
            for number, turns in enumerate(rows):
                wholes.append(len(texts))
                turns_alone = [turn for turn in turns if len(words(turn)) >= TURN_WORDS] if len(turns) > 1 else []
                for text in ("\n".join(turns), *turns_alone):
                    texts.add(text)
                    of.append(number)
            return range(first, len(texts))

        ours, theirs = forms(training), forms(asked)
        found: dict[int, Pair] = {}
        for pair in near(texts, ours, theirs, config.similarity):
            found.setdefault(of[pair.train], Pair(of[pair.train], of[pair.held], pair.why))
        # A turn's run of words is in its conversation's, too, and would count twice.
        rows, questions = ([place for place in wholes if place in forms_of] for forms_of in (ours, theirs))
        for pair in sharing(texts, rows, questions, config.shared_words):
            found.setdefault(of[pair.train], Pair(of[pair.train], of[pair.held], pair.why))
    return [found[row] for row in sorted(found)]
