"""Training rows that ask what the test or the validation asks: found by the user's words, without comparing all with all."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import numpy as np

from calltune.likeness import ROUNDING, likeness, words
from calltune.records import TURN_WORDS, Record, asked_sha256, question_sha256, turns_sha256, user_text
from components.format.config import ContaminationConfig
from components.format.split import TRAIN, question_key

COMMON = 0.01
"""Words in a row, or a turn, that more than this share of all rows have, and more than ten rows, are a phrase of the data."""


@dataclass(frozen=True)
class Pair:
    """A training row and the held-out row that it nearly repeats.

    Attributes:
        train: index of the training row.
        held: index of the row in test or validation.
        why: what they share, in words.
    """

    train: int
    held: int
    why: str


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
        turns, rows_with = np.unique(np.array(self.numbers, np.int64), return_counts=True)
        return frozenset(turns[rows_with > _common(self.rows)].tolist())


def numbers_of_turns(record: Record) -> list[int]:
    """A number for each thing that the user says in a turn of its own."""
    return sorted({_number(turn) for turn in turns_sha256(record)})


def told_apart(record: Record, phrases: Collection[int]) -> tuple[set[str], set[str]]:
    """As `turns_sha256`: the turns that training on a record teaches the answer to, and the phrases among them.

    A phrase tells only of a question that is nothing else that training has met it.
    """
    turns = set(turns_sha256(record))
    common = {turn for turn in turns if _number(turn) in phrases}
    return turns - common, common


class _Texts:
    """All users' texts as numbers of words, one after the other: a few bytes for each word, whatever its length.

    Attributes:
        names: the words, by number.
        rows_with: in how many texts each word is, by number.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.flat, self.ends = array("I"), array("q", [0])
        self.rows_with = array("I")

    def add(self, text: str) -> None:
        found = [self.numbers.setdefault(word, len(self.numbers)) for word in words(text)]
        self.rows_with.extend([0] * (len(self.numbers) - len(self.rows_with)))
        for number in set(found):
            self.rows_with[number] += 1
        self.flat.extend(found)
        self.ends.append(len(self.flat))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> "array[int]":
        return self.flat[self.ends[row] : self.ends[row + 1]]


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
    texts, keys, learnt, asking = _Texts(), array("q"), array("q"), dict[int, int]()
    learnt_of, said, said_in, whole = array("q"), array("q"), array("q"), dict[int, int]()
    for row, (record, part) in enumerate(zip(records, parts, strict=True)):
        texts.add(user_text(record))
        keys.append(_number(question_key(record)))
        shown = shortened.get(row, record)
        if part == TRAIN:
            forms = [record] if shown is record else [record, shown]
            taught, met = set[int](), set[int]()
            for form in forms:
                own, common = told_apart(form, phrases)
                taught |= {_number(one) for one in (question_sha256(form), *own)}
                met |= {_number(one) for one in common}
            learnt.extend(taught)
            learnt_of.extend([row] * len(taught))
            said.extend(met)
            said_in.extend([row] * len(met))
        else:
            whole.setdefault(_number(question_sha256(shown)), row)
            for one in asked_sha256(shown):
                asking.setdefault(_number(one), row)
    training = array("q", (row for row, part in enumerate(parts) if part == TRAIN))
    held = array("q", (row for row, part in enumerate(parts) if part != TRAIN))
    asked = {keys[row]: row for row in reversed(held)}
    # Conversations that begin alike, whatever their later turns; only a named test source lets them into two parts.
    found = {row: Pair(row, asked[keys[row]], "the same first question") for row in training if keys[row] in asked}
    for pair in _near(texts, [row for row in training if row not in found], held, config.similarity).values():
        found[pair.train] = pair
    # What evaluation would find in the model's list of what it was trained on, and the gate refuse.
    for row, number in zip(learnt_of, learnt, strict=True):
        if number in asking:
            found.setdefault(row, Pair(row, asking[number], "a later turn asks the same"))
    for row, number in zip(said_in, said, strict=True):
        if number in whole:
            found.setdefault(row, Pair(row, whole[number], "a turn asks the same"))
    for pair in _sharing(texts, training, held, config.shared_words):
        found.setdefault(pair.train, pair)
    return [found[row] for row in sorted(found)]


def repeating(training: Iterable[Sequence[str]], asked: Iterable[Sequence[str]], config: ContaminationConfig) -> list[Pair]:
    """For each training row that nearly repeats a question from elsewhere one such pair, in the rows' order.

    A conversation is held against the others as a whole, and by each of its turns that is not short.

    Args:
        training: what the users say in each row, turn by turn; gone through once.
        asked: the same of the questions.
        config: what counts as nearly equal.
    """
    texts, of, wholes = _Texts(), array("q"), array("q")

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
    for pair in _near(texts, ours, theirs, config.similarity).values():
        found.setdefault(of[pair.train], Pair(of[pair.train], of[pair.held], pair.why))
    # A turn's run of words is in its conversation's, too, and would count twice.
    rows, questions = ([place for place in wholes if place in forms_of] for forms_of in (ours, theirs))
    for pair in _sharing(texts, rows, questions, config.shared_words):
        found.setdefault(of[pair.train], Pair(of[pair.train], of[pair.held], pair.why))
    return [found[row] for row in sorted(found)]


def _common(rows: int) -> float:
    """How many of so many rows may have something before it is a phrase of the data."""
    return max(10, COMMON * rows)


def _number(digest: str) -> int:
    """A digest in 8 bytes."""
    return int(digest[:15], 16)


def _near(texts: _Texts, training: Sequence[int], held: Sequence[int], least: float) -> dict[int, Pair]:
    """Pairs with a Jaccard similarity of their sets of words of at least `least`.

    Two such sets have `least * size` words of either in common, so that of the rarest `size - ceil(least * size) + k` words of
    each they share k: with k = 2 few rows have to be compared (prefix filtering; Bayardo et al. 2007, Wang et al. 2012).
    """

    sizes = array("I", [0]) * len(texts)

    def rarest(row: int) -> tuple[list[int], int]:
        unique = set(texts[row])
        sizes[row] = len(unique)
        common = math.ceil(least * len(unique) - ROUNDING)
        shared = min(2, common)
        return sorted(unique, key=lambda word: (texts.rows_with[word], word))[: len(unique) - common + shared], shared

    having: dict[int, array[int]] = defaultdict(lambda: array("q"))
    tiny: set[int] = set()
    for row in held:
        rare, shared = rarest(row)
        for word in rare:
            having[word].append(row)
        if shared < 2:
            tiny.add(row)
    found = {}
    for row in training:
        best, nearest, own = least - ROUNDING, None, set(texts[row])
        rare, shared = rarest(row)
        others = Counter(chain.from_iterable(having[word] for word in rare if word in having))
        smallest, largest = best * len(own), len(own) / best
        for other in sorted(other for other, times in others.items() if times >= shared or other in tiny):
            if not smallest <= sizes[other] <= largest:
                continue
            alike = likeness(own, set(texts[other]))
            if alike > best:
                best, nearest = alike, other
        if nearest is not None:
            why = "the same words" if texts[row] == texts[nearest] else f"{best:.0%} of the words of both"
            found[row] = Pair(row, nearest, why)
    return found


def _sharing(texts: _Texts, training: Sequence[int], held: Sequence[int], length: int) -> list[Pair]:
    """Pairs that share `length` words in a row which are no phrase of the whole data."""
    of_held, held_runs = _runs(texts, held, length)
    known, first, counts = np.unique(held_runs, return_index=True, return_counts=True)
    if not len(known):
        return []
    of_training, runs = _runs(texts, training, length)
    places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    hits = known[places] == runs
    rows_with = counts + np.bincount(places[hits], minlength=len(known))
    telling = hits & (rows_with[places] <= _common(len(texts)))
    # Of each training row the first one: its runs stand together, in order.
    rows, at = np.unique(of_training[telling], return_index=True)
    names = list(texts.numbers)
    pairs = []
    for row, place, run in zip(rows.tolist(), places[telling][at].tolist(), runs[telling][at].tolist(), strict=True):
        text = texts[row]
        start = next(start for start in range(len(text)) if hash(text[start : start + length].tobytes()) == run)
        shown = " ".join(names[number] for number in text[start : start + length])[:80]
        pairs.append(Pair(row, int(of_held[first[place]]), f"{length} words in a row, {shown!r}"))
    return pairs


def _runs(texts: _Texts, rows: Sequence[int], length: int) -> "tuple[np.ndarray, np.ndarray]":
    """Each row's runs of words, each once, as 64-bit hashes, beside the rows that they are of."""
    of, found = array("q"), array("q")
    for row in rows:
        text = texts[row]
        unique = dict.fromkeys(hash(text[at : at + length].tobytes()) for at in range(len(text) - length + 1))
        found.extend(unique)
        of.extend([row] * len(unique))
    return np.array(of, np.int64), np.array(found, np.int64)
