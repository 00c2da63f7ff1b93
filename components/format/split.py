"""Which rows are for training, for validation and for the final test. The same data gives the same parts."""

import random
from collections import defaultdict
from collections.abc import Sequence

from calltune.records import Record, expected_calls, sha256, user_text

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def question_key(record: Record) -> str:
    """What makes two rows the same question: the user's words, whatever their case and spacing."""
    return sha256(" ".join(user_text(record).lower().split()))


def stratum(record: Record) -> str:
    """The tools that the row expects, as one label: every part of the split gets its share of each."""
    return " + ".join(sorted(call["name"] for call in expected_calls(record))) or "no call"


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
        labels.setdefault(question_key(record), stratum(record))
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
