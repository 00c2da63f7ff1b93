"""Training rows that ask what the test or the validation asks: found by the user's words, without comparing all with all."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from calltune.likeness import ROUNDING, likeness, words
from calltune.records import Record, user_text
from components.format.config import ContaminationConfig
from components.format.split import TRAIN, question_key

COMMON = 0.01
"""Words in a row that more than this share of all rows have, and more than ten rows, are a phrase of the data."""


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


def contaminated(records: Sequence[Record], parts: Sequence[str], config: ContaminationConfig) -> list[Pair]:
    """For each training row that nearly repeats a held-out one the nearest such pair, in the rows' order.

    Args:
        records: all rows.
        parts: `train`, `validation` or `test` for each of them.
        config: what counts as nearly equal.
    """
    texts = [words(user_text(record)) for record in records]
    training = [row for row, part in enumerate(parts) if part == TRAIN]
    held = [row for row, part in enumerate(parts) if part != TRAIN]
    asked = {question_key(records[row]): row for row in reversed(held)}
    # Conversations that begin alike, whatever their later turns; only a named test source lets them into two parts.
    found = {
        row: Pair(row, asked[key], "the same first question")
        for row in training
        for key in [question_key(records[row])]
        if key in asked
    }
    for pair in _near(texts, [row for row in training if row not in found], held, config.similarity).values():
        found[pair.train] = pair
    for pair in _sharing(texts, training, held, config.shared_words):
        found.setdefault(pair.train, pair)
    return [found[row] for row in sorted(found)]


def _near(texts: Sequence[list[str]], training: Sequence[int], held: Sequence[int], least: float) -> dict[int, Pair]:
    """Pairs with a Jaccard similarity of their sets of words of at least `least`.

    Two such sets share a word among the rarest `size - ceil(least * size) + 1` of each, so that only rows with a rare word in
    common are compared (prefix filtering; Chaudhuri et al. 2006, Bayardo et al. 2007).
    """
    sets = [set(text) for text in texts]
    counts = Counter(word for one in sets for word in one)

    def rarest(row: int) -> list[str]:
        size = len(sets[row])
        return sorted(sets[row], key=lambda word: (counts[word], word))[: size - math.ceil(least * size - ROUNDING) + 1]

    having = defaultdict(list)
    for row in held:
        for word in rarest(row):
            having[word].append(row)
    found = {}
    for row in training:
        best, nearest = least - ROUNDING, None
        for other in sorted({other for word in rarest(row) for other in having[word]}):
            alike = likeness(sets[row], sets[other])
            if alike > best:
                best, nearest = alike, other
        if nearest is not None:
            why = "the same words" if texts[row] == texts[nearest] else f"{best:.0%} of the words of both"
            found[row] = Pair(row, nearest, why)
    return found


def _sharing(texts: Sequence[list[str]], training: Sequence[int], held: Sequence[int], length: int) -> list[Pair]:
    """Pairs that share `length` words in a row which are no phrase of the whole data."""
    first: dict[str, int] = {}
    rows_with: Counter[str] = Counter()
    for row in held:
        for run in _runs(texts[row], length):
            first.setdefault(run, row)
            rows_with[run] += 1
    shared = {row: [run for run in _runs(texts[row], length) if run in first] for row in training}
    for runs in shared.values():
        rows_with.update(runs)
    most = max(10, COMMON * len(texts))
    pairs = []
    for row, runs in shared.items():
        telling = [run for run in runs if rows_with[run] <= most]
        if telling:
            pairs.append(Pair(row, first[telling[0]], f"{length} words in a row, {telling[0][:80]!r}"))
    return pairs


def _runs(text: list[str], length: int) -> list[str]:
    return list(dict.fromkeys(" ".join(text[at : at + length]) for at in range(len(text) - length + 1)))
