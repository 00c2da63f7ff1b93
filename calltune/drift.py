"""Whether questions have changed: what is asked for and how long it is, as counts, and how far two such counts are apart."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from calltune.records import Record, calls_of, user_text

NO_CALL = ""
"""Stands for a row without a call among the names of the called tools."""


def length_class(record: Record) -> str:
    """The class of a question's length: two for each doubling of its letters, named by the fewest letters in it.

    Classes by ratio, since the lengths of questions are spread so: what doubles the shortest matters as what doubles the longest.
    """
    letters = max(1, len(user_text(record)))
    return str(math.ceil(2 ** (math.floor(2 * math.log2(letters)) / 2)))


def called(record: Record) -> list[str]:
    """The names of the called tools, once for each call; of a row without a call `NO_CALL`."""
    return [call["name"] for message in record["messages"] for call in calls_of(message)] or [NO_CALL]


def counted(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Called tools and lengths of questions: ``{"tools": {"find": 3, "": 1}, "lengths": {"23": 4}}``."""
    tools: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for record in records:
        tools.update(called(record))
        lengths[length_class(record)] += 1
    return {"tools": dict(tools), "lengths": dict(lengths)}


def population_stability(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """The population stability index of two counts over the same classes: 0 where the shares are equal, never below.

    The sum over all classes of (p - q) · ln(p / q). Below 0.1 is usually taken for no change, above 0.25 for a great one. Half
    a count is added to each class, so that one which only one side has is finite, and weighs little where it is rare.
    """
    classes = [name for name in {*before, *now} if before.get(name) or now.get(name)]
    total_before = sum(before.values()) + len(classes) / 2
    total_now = sum(now.values()) + len(classes) / 2
    index = 0.0
    for name in classes:
        p, q = (before.get(name, 0) + 0.5) / total_before, (now.get(name, 0) + 0.5) / total_now
        index += (p - q) * math.log(p / q)
    return index
