"""Which rows are for training, for validation and for the final test. The same data gives the same parts."""

import random
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase

import numpy as np

from calltune.errors import DataError
from calltune.metrics import label_of
from calltune.records import Record, calls_of, expected_calls, number_of, sha256
from components.format.config import SplitConfig
from components.format.spill import Some

TRAIN, VALIDATION, TEST = "train", "validation", "test"


GROWING_ROWS = 1000
"""From so many on shares are near enough on average, and `auto` lets no question move."""


def decided(config: SplitConfig, rows: int) -> SplitConfig:
    """The settings with what `mode: auto` means for so many rows."""
    if config.mode != "auto":
        return config
    # Of a handful of tools a hash may hold out all or none.
    few = rows < GROWING_ROWS or config.by == "tool"
    return config.model_copy(update={"mode": "exact" if few else "growing"})


def question_key(record: Record) -> str:
    """What makes two rows the same question: the first thing that the user says, whatever its case and spacing.

    Not all that the user says: two conversations that begin alike would teach the answer to the other's first turn.
    """
    said = (" ".join(message["content"].lower().split()) for message in record["messages"] if message["role"] == "user")
    return sha256(next((text for text in said if text), ""))


def stratum(record: Record) -> str:
    """The tools that the row expects, as one label: every part of the split gets its share of each."""
    return label_of([call["name"] for call in expected_calls(record)])


def parts_of(records: Sequence[Record], config: SplitConfig) -> list[str]:
    """The part of each record, in order: `train`, `validation` or `test`; rows of one question are in one part.

    Raises:
        DataError: no row is from the named test source, or no tool can be held out.
    """
    split = {"exact": exact, "growing": growing}[decided(config, len(records)).mode]
    if config.test_source:
        held = _from_source(records, config.test_source)
        parts = _after(records, held, lambda rest: split(rest, 0, config.validation, config.seed))
        # A row that asks what the test asks is no row to stop early by; what is for training is looked through once more.
        asked = {question_key(record) for record, part in zip(records, parts, strict=True) if part == TEST}
        return [
            TRAIN if part == VALIDATION and question_key(record) in asked else part
            for record, part in zip(records, parts, strict=True)
        ]
    if config.by == "tool":
        unseen = unseen_tools(records, config)
        asked = {question_key(record) for record in records if called_tools(record) & unseen}
        silent = {question_key(record) for record in records} - {question_key(r) for r in records if called_tools(r)}

        def rest_of(rest: Sequence[Record]) -> list[str]:
            quiet = [question_key(record) in silent for record in rest]
            asking, telling = ([place for place, no in enumerate(quiet) if no == which] for which in (False, True))
            calling = iter(split(Some(rest, asking), 0, config.validation, config.seed))
            others = iter(split(Some(rest, telling), config.test, config.validation, config.seed))
            return [next(others) if no else next(calling) for no in quiet]

        return _after(records, [question_key(record) in asked for record in records], rest_of)
    return split(records, config.test, config.validation, config.seed)


def called_tools(record: Record) -> set[str]:
    """The tools that a record calls in any turn, or may call in its expected answer."""
    made = {call["name"] for message in record["messages"] for call in calls_of(message)}
    return made | {call["name"] for call in expected_calls(record)}


def unseen_tools(records: Sequence[Record], config: SplitConfig) -> set[str]:
    """The tools that only the test may call, for `by: tool`.

    Raises:
        DataError: fewer than two tools are called, or `growing` holds none or all of them out.
    """
    callers: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name in called_tools(record):
            callers[name].add(question_key(record))
    if len(callers) < 2:
        raise DataError(f"format.split.by: tool needs at least two tools that are called; the rows call {len(callers)}")
    names = sorted(callers)
    if config.mode == "growing":
        held = {name for name in names if _place(config.seed, name) < config.test}
        if not held or len(held) == len(names):
            raise DataError(
                f"format.split: mode growing holds {len(held)} of {len(names)} tools out at test {config.test:g}: "
                "another seed, or mode exact, would be right"
            )
        return held
    random.Random(f"{config.seed} tools").shuffle(names)
    target = round(config.test * len(set().union(*callers.values())))
    held, questions = set(), set[str]()
    for name in names:
        if len(questions | callers[name]) <= target:
            held.add(name)
            questions |= callers[name]
    return held or {min(names, key=lambda name: (len(callers[name]), name))}


def _from_source(records: Sequence[Record], wanted: str) -> list[bool]:
    uris = [record["source"]["uri"] for record in records]
    there = matching(set(uris), wanted)
    return [uri in there for uri in uris]


def matching(uris: Collection[str], wanted: str) -> set[str]:
    """Those of the rows' files or objects that `test_source` means.

    Raises:
        DataError: none is.
    """
    # A run sees absolute paths, wherever it was started: of a relative one the end is what there is to compare.
    end = re.sub(r"^(\.{1,2}/)+", "", wanted)
    found = {
        uri
        for uri in uris
        if uri in (wanted, end) or uri.endswith(f"/{end}") or fnmatchcase(uri, wanted) or fnmatchcase(uri, f"*/{end}")
    }
    if not found:
        there = ", ".join(sorted(uris)[:5]) or "none"
        raise DataError(f"format.split.test_source: no row comes from {wanted!r}; the sources are {there}")
    return found


def _after(records: Sequence[Record], held: Sequence[bool], split: Callable[[Sequence[Record]], list[str]]) -> list[str]:
    """`test` for what is held out, and what `split` says for the rest."""
    rest = iter(split(Some(records, (place for place, out in enumerate(held) if not out))))
    return [TEST if out else next(rest) for out in held]


def _place(seed: int, key: str) -> float:
    return int(sha256([seed, key]), 16) / 16**64


def growing(records: Sequence[Record], test: float, validation: float, seed: int) -> list[str]:
    """Split by a hash of seed and question, so that more rows later move none of those that are there.

    Args:
        records: the rows; rows of one question stay together.
        test: share of the questions for the test, 0 to 1; met on average.
        validation: share of the questions for validation, 0 to 1; met on average.
        seed: another seed, another split.

    Returns:
        `train`, `validation` or `test` for each record, in order.
    """

    def part(record: Record) -> str:
        place = _place(seed, question_key(record))
        return TEST if place < test else VALIDATION if place < test + validation else TRAIN

    return [part(record) for record in records]


def exact(records: Sequence[Record], test: float, validation: float, seed: int) -> list[str]:
    """Split by question, seeded, stratified by expected tools, with exact shares.

    Args:
        records: the rows; rows of one question stay together.
        test: share of the questions for the test, 0 to 1.
        validation: share of the questions for validation, 0 to 1.
        seed: another seed, another split.

    Returns:
        `train`, `validation` or `test` for each record, in order.
    """
    kinds: dict[str, int] = {}
    asked, expected = array("q"), array("q")
    for record in records:
        asked.append(number_of(question_key(record)))
        expected.append(kinds.setdefault(stratum(record), len(kinds)))
    labels = sorted(kinds)
    places = np.argsort([kinds[label] for label in labels])
    questions, question = np.unique(np.array(asked, np.int64), return_inverse=True)
    label_of_question = np.full(len(questions), len(labels))
    # The least of its rows' labels: the first row's would make the order of the rows count.
    np.minimum.at(label_of_question, question, places[np.array(expected, np.int64)])
    # One line of all questions, stratum by stratum, shuffled inside: every stretch of it is a stratified sample, so
    # taking evenly spaced places gives each part its share of each stratum and exactly its share of the whole.
    line = np.argsort(label_of_question, kind="stable")
    ends = np.cumsum(np.bincount(label_of_question, minlength=len(labels))).tolist()
    for label, start, end in zip(labels, [0, *ends], ends, strict=False):
        stretch = line[start:end].tolist()
        random.Random(f"{seed} {label}").shuffle(stretch)
        line[start:end] = stretch
    part = np.zeros(len(questions), np.int8)
    part[_evenly(line, round(test * len(line)))] = 2
    rest = line[part[line] == 0]
    part[_evenly(rest, min(len(rest), round(validation * len(line))))] = 1
    return [(TRAIN, VALIDATION, TEST)[number] for number in part[question].tolist()]


def _evenly(line: "np.ndarray", count: int) -> "np.ndarray":
    return line[(2 * np.arange(count) + 1) * len(line) // max(1, 2 * count)]
