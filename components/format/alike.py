"""Texts that have nearly the same words, or many words in a row in common: found without comparing all with all."""

import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

import numpy as np

from calltune.likeness import ROUNDING, likeness, words

COMMON = 0.01
"""What more than this share of all texts have, and more than ten of them, is a phrase of the data."""
RUNS_AT_ONCE = 1_000_000
"""Runs of words in memory at once, about 50 bytes for each; of more, each pass over the texts takes its share."""
WORDS_AT_ONCE = 500_000
"""Words in memory at once, or those of one text: texts have a few words each, or a hundred thousand."""
SHARED = 8
"""Rare words that two texts must share to be compared; fewer, and more are compared; more, and commoner words are looked at."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


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


class Texts:
    """All users' texts as numbers of words, on disk: memory holds the words, each once, and 8 bytes for each text.

    Attributes:
        numbers: the words, by number.
        ends: where each text ends, in words, after a 0.
    """

    def __init__(self) -> None:
        self.numbers: defaultdict[str, int] = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.ends, self.new = array("q", [0]), array("I")
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__

    def add(self, text: str) -> None:
        """Add one text."""
        before = len(self.new)
        self.new.extend(map(self.numbers.__getitem__, words(text)))
        self.ends.append(self.ends[-1] + len(self.new) - before)
        if len(self.new) >= WORDS_AT_ONCE:
            self._write()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, text: int) -> "array[int]":
        return array("I", self.bytes_of(text, text + 1))

    def bytes_of(self, first: int, last: int) -> bytes:
        """The words of a text and of those that follow, before the `last` one, 4 bytes each."""
        if self.new:
            self._write()
        begin, end = self.ends[first], self.ends[last]
        return os.pread(self.file.fileno(), 4 * (end - begin), 4 * begin)

    def _write(self) -> None:
        self.new.tofile(self.file)
        self.file.flush()
        self.new = array("I")

    def __enter__(self) -> "Texts":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()


def common(rows: int) -> float:
    """How many of so many rows may have something before it is a phrase of the data."""
    return max(10, COMMON * rows)


def near(texts: Texts, training: Sequence[int], held: Sequence[int], least: float) -> list[Pair]:
    """Each training text with the held-out one nearest to it, where their sets of words have a Jaccard similarity of `least`.

    Two such sets have `least * size` words of either in common, so that of the rarest `size - ceil(least * size) + k` words of
    each they share k, and few have to be compared (prefix filtering; Bayardo et al. 2007, Wang et al. 2012). Nor have those
    whose sizes are too far apart: all texts of one size look through the same stretch of the others, which stand by size.
    """
    sizes, rarity = _measured(texts)
    ours, others = (some[np.argsort(sizes[some], kind="stable")] for some in map(_numbers, (training, held)))
    sizes_of_others = sizes[others]
    size = np.arange(sizes.max(initial=0) + 1)
    in_common = np.ceil(least * size - ROUNDING).astype(np.int64)
    shared = np.minimum(SHARED, in_common)
    rest = in_common - shared
    rarest = size - rest
    places, begins = _having(texts, others, rarity, rarest[sizes_of_others])
    lowest, found = least - ROUNDING, []
    for own in np.unique(sizes[ours]).tolist():
        first = np.searchsorted(sizes_of_others, lowest * own, "left")
        last = np.searchsorted(sizes_of_others, own / lowest, "right")
        if not own or first == last:
            continue
        inside = (places >= first) & (places < last)
        stretch, starts = places[inside], np.cumsum(np.concatenate([[False], inside]), dtype=np.int32)[begins]
        stretch -= first
        enough = shared[own]
        alike = ours[slice(*np.searchsorted(sizes[ours], [own, own + 1]))]
        for at, of, ranks in _words_of(texts, alike, rarity, np.full(len(alike), rarest[own])):
            bounds = np.searchsorted(of, np.arange(of[-1] + 2)).tolist()
            from_where, to_where = starts[ranks].tolist(), starts[ranks + 1].tolist()
            for text, (i, j) in zip(alike[at : at + of[-1] + 1].tolist(), pairwise(bounds), strict=True):
                having = [stretch[start:end] for start, end in zip(from_where[i:j], to_where[i:j], strict=True) if start < end]
                if having:
                    each = np.sort(np.concatenate(having))
                    often = each[enough - 1 :][each[enough - 1 :] == each[: max(0, len(each) - enough + 1)]]
                    if len(often):
                        often = often[np.diff(often, prepend=-1) != 0]
                        times = np.searchsorted(each, often, "right") - np.searchsorted(each, often)
                        # Any other word of both is commoner than all those looked at of one of them: among the rest of that one.
                        beside = sizes_of_others[first + often]
                        most = times + np.maximum(rest[own], rest[beside])
                        often = often[most >= lowest * (own + beside - most)]
                        found += _nearest(texts, text, others[first + often].tolist(), lowest)
    return sorted(found, key=lambda pair: pair.train)


def _nearest(texts: Texts, text: int, others: list[int], lowest: float) -> list[Pair]:
    """The text and the nearest of some others, if there is one that is near enough."""
    best, nearest, own = lowest, None, set(texts[text])
    for other in sorted(others):
        alike = likeness(own, set(texts[other]))
        if alike > best:
            best, nearest = alike, other
        if best == 1:  # none is nearer, and of those as near this is the first
            break
    if nearest is None:
        return []
    return [Pair(text, nearest, "the same words" if texts[text] == texts[nearest] else f"{best:.0%} of the words of both")]


def _measured(texts: Texts) -> "tuple[np.ndarray, np.ndarray]":
    """How many words each text has, each once; and each word's place among all of them, the rarest first."""
    numbers = np.arange(len(texts.numbers), dtype=np.uint32)
    sizes, texts_with = np.zeros(len(texts), np.int64), np.zeros(len(numbers), np.int64)
    for first, of, found in _words_of(texts, np.arange(len(texts)), numbers):
        each = np.bincount(of)  # without the last ones, where these have no words
        sizes[first : first + len(each)] = each
        texts_with += np.bincount(found, minlength=len(numbers))
    rarity = np.empty_like(numbers)
    rarity[np.argsort(texts_with, kind="stable")] = numbers
    return sizes, rarity


def _having(texts: Texts, others: "np.ndarray", rarity: "np.ndarray", rarest: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """The places of the texts that have each word among their rarest, word after word, in order; and where each word's begin."""
    both, end = np.empty(rarest.sum(), np.int64), 0  # 8 bytes a word: filled and sorted in place, it is there once
    for first, of, ranks in _words_of(texts, others, rarity, rarest):
        both[end : end + len(of)] = ranks << 32 | (first + of)
        end += len(of)
    both.sort()
    begins = np.searchsorted(both, np.arange(len(rarity) + 1) << 32)
    both &= 0xFFFFFFFF
    return both.astype(np.int32), begins


def _words_of(
    texts: Texts, chosen: "np.ndarray", rarity: "np.ndarray", rarest: "np.ndarray | None" = None
) -> "Iterator[tuple[int, np.ndarray, np.ndarray]]":
    """Yield the words of some texts as their `rarity`, each text's once, the rarest first; `WORDS_AT_ONCE` at a time.

    Args:
        texts: all texts.
        chosen: which ones.
        rarity: of each word.
        rarest: of each of them, how many words are wanted; without it, all are.

    Yields:
        The place of the first text in `chosen`; the texts that the words are of, counted from it; and the words.
    """
    ends = np.asarray(texts.ends)
    counts = ends[chosen + 1] - ends[chosen]
    for first, last in _stretches(counts):
        of = np.repeat(np.arange(last - first), counts[first:last])
        flat = np.frombuffer(b"".join(texts.bytes_of(text, text + 1) for text in chosen[first:last].tolist()), np.uint32)
        both = np.sort(of << 32 | rarity[flat])  # np.unique would look them up in a hash table, twenty times as slowly
        both = both[np.diff(both, prepend=-1) != 0]
        of, ranks = both >> 32, both & 0xFFFFFFFF
        if rarest is not None:
            wanted = np.arange(len(of)) - np.searchsorted(of, of) < rarest[first + of]
            of, ranks = of[wanted], ranks[wanted]
        yield first, of, ranks


def _numbers(some: Sequence[int]) -> "np.ndarray":
    return np.array(some, np.int64)


def _stretches(counts: "np.ndarray") -> Iterator[tuple[int, int]]:
    """Yield from where to where texts of so many words have `WORDS_AT_ONCE` together, or one text has more; at least once."""
    ends, first = np.cumsum(counts), 0
    while True:
        before = ends[first - 1] if first else 0
        last = min(len(ends), max(first + 1, int(np.searchsorted(ends, before + WORDS_AT_ONCE, "right"))))
        yield first, last
        if last == len(ends):
            return
        first = last


def sharing(texts: Texts, training: Sequence[int], held: Sequence[int], length: int) -> Iterator[Pair]:
    """For each training text that has `length` words in a row from a held-out one, no phrase of all, the first such words.

    Nothing is missed, and the memory is that of `RUNS_AT_ONCE` and `WORDS_AT_ONCE`, however many texts there are.
    """
    is_held, looked_at = np.zeros((2, len(texts)), np.bool_)
    is_held[_numbers(held)] = looked_at[_numbers(held)] = looked_at[_numbers(training)] = True
    found: dict[int, list[int]] = {}
    passes = 1 + texts.ends[-1] // RUNS_AT_ONCE
    for number in range(passes):
        places, rows, runs = map(np.concatenate, zip(*_runs(texts, looked_at, length, number, passes), strict=True))
        order = np.argsort(runs, kind="stable")  # of each run the texts in order
        places, rows, runs = places[order], rows[order], runs[order]
        known, first, counts = np.unique(runs, return_index=True, return_counts=True)
        if not len(known):
            continue
        first_held = np.minimum.reduceat(np.where(is_held[rows], rows, len(texts)), first)
        telling = np.repeat((first_held < len(texts)) & (counts <= common(len(texts))), counts) & ~is_held[rows]
        nearest = np.repeat(first_held, counts)
        for row, *where in zip(*(column[telling].tolist() for column in (rows, places, nearest)), strict=True):
            found[row] = min(found.get(row, where), where)
    names = list(texts.numbers)
    for row in sorted(found):
        place, other = found[row]
        start = place - texts.ends[row]
        shown = " ".join(names[number] for number in texts[row][start : start + length])[:80]
        yield Pair(row, other, f"{length} words in a row, {shown!r}")


def _runs(
    texts: Texts, looked_at: "np.ndarray", length: int, number: int, passes: int
) -> "Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]":
    """Yield where the runs of one pass begin, the texts that they are in, and their 64-bit hashes: texts after texts.

    Of a text each run once, where it is first: a text may have nothing but zeros.
    """
    ends = np.asarray(texts.ends)
    counts = np.diff(ends)
    for first, last in _stretches(counts):
        row_of = np.repeat(np.arange(first, last, dtype=np.int32), counts[first:last])
        count = max(0, len(row_of) - length + 1)
        mixed = _mixed(np.frombuffer(texts.bytes_of(first, last), np.uint32).astype(np.uint64))
        runs = np.zeros(count, np.uint64)
        for at in range(length):
            runs = runs * _MULTIPLIER + mixed[at : at + count]
        runs = _mixed(runs)
        whole = row_of[:count] == row_of[len(row_of) - count :]
        places = np.flatnonzero(whole & looked_at[row_of[:count]] & (runs % np.uint64(passes) == number))
        places = places[np.argsort(runs[places], kind="stable")]
        new = np.ones(len(places), np.bool_)
        new[1:] = (np.diff(runs[places]) != 0) | (np.diff(row_of[places]) != 0)
        places = places[new]
        yield places + ends[first], row_of[places], runs[places]


def _mixed(numbers: "np.ndarray") -> "np.ndarray":
    """Other numbers of 64 bits, which look like chance (SplitMix64; Steele, Lea and Flood 2014)."""
    numbers = (numbers + np.uint64(1)) * _MULTIPLIER
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
