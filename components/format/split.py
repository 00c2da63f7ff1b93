"""Which rows are for training, for validation and for the final test. The same data gives the same parts."""

import random
from collections import defaultdict
from collections.abc import Sequence

from calltune.records import Record, expected_calls, sha256
from components.format.config import SplitConfig

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def question_key(record: Record) -> str:
    """What makes two rows the same question: the first thing that the user says, whatever its case and spacing.

    Not all that the user says: two conversations that begin alike would teach the answer to the other's first turn.
    """
    said = (" ".join(message["content"].lower().split()) for message in record["messages"] if message["role"] == "user")
    return sha256(next((text for text in said if text), ""))


def stratum(record: Record) -> str:
    """The tools that the row expects, as one label: every part of the split gets its share of each."""
    return " + ".join(sorted(call["name"] for call in expected_calls(record))) or "no call"


def parts_of(records: Sequence[Record], config: SplitConfig) -> list[str]:
    """The part of each record, in order: `train`, `validation` or `test`; rows of one question are in one part."""
    modes = {"exact": exact, "growing": growing}
    return modes[config.mode](records, config.test, config.validation, config.seed)


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
        place = int(sha256([seed, question_key(record)]), 16) / 16**64
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
    labels: dict[str, str] = {}
    for record in records:
        key, label = question_key(record), stratum(record)
        labels[key] = min(label, labels.get(key, label))  # the first row's would make the order of the rows count
    questions: dict[str, list[str]] = defaultdict(list)
    for key, label in labels.items():
        questions[label].append(key)
    # One line of all questions, stratum by stratum, shuffled inside: every stretch of it is a stratified sample, so
    # taking evenly spaced places gives each part its share of each stratum and exactly its share of the whole.
    line: list[str] = []
    for label in sorted(questions):
        keys = sorted(questions[label])
        random.Random(f"{seed} {label}").shuffle(keys)
        line += keys
    part: dict[str, str] = dict.fromkeys(line, TRAIN)
    for key in _evenly(line, round(test * len(line))):
        part[key] = TEST
    rest = [key for key in line if part[key] == TRAIN]
    for key in _evenly(rest, min(len(rest), round(validation * len(line)))):
        part[key] = VALIDATION
    return [part[question_key(record)] for record in records]


def _evenly(line: Sequence[str], count: int) -> list[str]:
    return [line[(2 * index + 1) * len(line) // (2 * count)] for index in range(count)]
