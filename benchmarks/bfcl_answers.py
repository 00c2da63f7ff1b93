"""Answers to the leaderboard's questions: the gold ones, and gold ones in which one thing has been changed."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from calltune.match import Gold
from calltune.records import Call


@dataclass(frozen=True)
class Row:
    """One question of the leaderboard.

    Attributes:
        id: its id.
        category: its file, by which the checker chooses how to pair calls.
        functions: the tools, in the leaderboard's own form.
        gold: the accepted calls, ``[{"name": str, "arguments": {argument: [accepted values]}}]``.
    """

    id: str
    category: str
    functions: list[dict[str, Any]]
    gold: list[Gold]


def gold(row: Row, draw: random.Random) -> list[Call]:
    """An answer that is right: for each argument one of its accepted values; an optional one may be left out."""
    return [{"name": one["name"], "arguments": _chosen(one["arguments"], draw)} for one in row.gold]


def _chosen(accepted: dict[str, list[Any]], draw: random.Random, nested: bool = False) -> dict[str, Any]:
    chosen = {name: draw.choice(values) for name, values in accepted.items() if values}
    return {name: _plain(value, draw, nested) for name, value in chosen.items() if value != ""}


def _plain(value: Any, draw: random.Random, nested: bool) -> Any:
    """An accepted value as a model would write it: each key of an object has a list of them, but only at the first level."""
    if isinstance(value, dict) and not nested:
        return _chosen(value, draw, nested=True)
    if isinstance(value, list):
        return [_plain(item, draw, nested) for item in value]
    return copy.deepcopy(value)


Place = tuple[Any, Any]
"""A list or an object, and where in it."""


def perturbed(rows: Sequence[Row], count: int, draw: random.Random) -> Iterator[tuple[Row, str, list[Call]]]:
    """`count` changed answers, each kind of change as often as any other where rows allow it."""
    kinds = sorted(CHANGES)
    done = 0
    while done < count:
        kind, row = kinds[done % len(kinds)], draw.choice(rows)
        calls = gold(row, draw)
        if CHANGES[kind](calls, draw):
            done += 1
            yield row, kind, calls


def _places(value: Any, wanted: Callable[[Any], bool]) -> list[Place]:
    """Every place below `value` whose content is wanted."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found = [(value, key) for key in keys if wanted(value[key])]
    return found + [place for key in keys for place in _places(value[key], wanted)]


def _of(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


def _edit(
    wanted: Callable[[Any], bool], edit: Callable[[Any, random.Random], Any]
) -> Callable[[list[Call], random.Random], bool]:
    def change(calls: list[Call], draw: random.Random) -> bool:
        found = [place for call in calls for place in _places(call["arguments"], wanted)]
        if not found:
            return False
        # Deep places are rare, and where checkers differ: half of the draws are among them.
        arguments = [call["arguments"] for call in calls]
        deep = [place for place in found if all(place[0] is not one for one in arguments)]
        inside, key = draw.choice(deep if deep and draw.random() < 0.5 else found)
        inside[key] = edit(inside[key], draw)
        return True

    return change


def _drop(calls: list[Call], draw: random.Random) -> bool:
    found = [place for call in calls for place in [(call["arguments"], name) for name in call["arguments"]]]
    if found:
        inside, key = draw.choice(found)
        del inside[key]
    return bool(found)


def _add(calls: list[Call], draw: random.Random) -> bool:
    draw.choice(calls)["arguments"]["verbosity"] = draw.choice([1, "", "high", True, None])
    return True


def _empty(calls: list[Call], draw: random.Random) -> bool:
    return _edit(lambda value: True, lambda value, draw: draw.choice(["", [], {}, None]))(calls, draw)


def _fewer_keys(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    gone = draw.choice(sorted(value))
    return {key: item for key, item in value.items() if key != gone}


def _punctuated(text: str, draw: random.Random) -> str:
    return draw.choice([text.upper(), text.replace(" ", "-"), f" {text}.", text.swapcase(), text + "!", text.replace('"', "'")])


def _other_name(calls: list[Call], draw: random.Random) -> bool:
    call = draw.choice(calls)
    call["name"] = draw.choice([call["name"].replace(".", "_") + "_", call["name"].upper() + "2", "other"])
    return True


def _twice(calls: list[Call], draw: random.Random) -> bool:
    calls.append(copy.deepcopy(draw.choice(calls)))
    return True


def _one_less(calls: list[Call], draw: random.Random) -> bool:
    calls.pop(draw.randrange(len(calls)))
    return True


def _other_order(calls: list[Call], draw: random.Random) -> bool:
    if len(calls) > 1:
        calls.append(calls.pop(0))
    return len(calls) > 1


def _one_for_another(calls: list[Call], draw: random.Random) -> bool:
    if len(calls) > 1:
        calls[draw.randrange(len(calls))] = copy.deepcopy(draw.choice(calls))
    return len(calls) > 1


def _exchanged(calls: list[Call], draw: random.Random) -> bool:
    arguments = draw.choice(calls)["arguments"]
    if len(arguments) < 2:
        return False
    one, other = draw.sample(sorted(arguments), 2)
    arguments[one], arguments[other] = arguments[other], arguments[one]
    return True


CHANGES: dict[str, Callable[[list[Call], random.Random], bool]] = {
    "a number plus 1": _edit(_of(int, float), lambda value, draw: value + 1),
    "an integer as 5.0": _edit(_of(int), lambda value, draw: float(value)),
    "a number a little off": _edit(_of(int, float), lambda value, draw: value + 1e-9 if value < 1e6 else value + 0.5),
    "5.0 as an integer": _edit(lambda value: type(value) is float and value.is_integer(), lambda value, draw: int(value)),
    "a number as text": _edit(_of(int, float), lambda value, draw: str(value)),
    "text as a number": _edit(_of(str), lambda value, draw: draw.choice([0, 1, 2.5, True])),
    "a boolean turned": _edit(_of(bool), lambda value, draw: not value),
    "a boolean as 0 or 1": _edit(_of(bool), lambda value, draw: int(value)),
    "a boolean as text": _edit(_of(bool), lambda value, draw: str(value).lower()),
    "0 or 1 as a boolean": _edit(lambda value: type(value) is int and value in (0, 1), lambda value, draw: bool(value)),
    "text spelt otherwise": _edit(_of(str), _punctuated),
    "another text": _edit(_of(str), lambda value, draw: value + draw.choice(["s", " 2", " now"])),
    "an empty value": _empty,
    "a list in another order": _edit(lambda value: type(value) is list and len(value) > 1, lambda value, draw: value[::-1]),
    "a list with an item more": _edit(lambda value: type(value) is list and bool(value), lambda value, draw: [*value, value[0]]),
    "a list with an item less": _edit(lambda value: type(value) is list and bool(value), lambda value, draw: value[1:]),
    "a list in a list": _edit(lambda value: True, lambda value, draw: [value]),
    "an item without its list": _edit(lambda value: type(value) is list and bool(value), lambda value, draw: value[0]),
    "an object with a key less": _edit(lambda value: type(value) is dict and bool(value), _fewer_keys),
    "an object with a key more": _edit(_of(dict), lambda value, draw: {**value, "verbosity": 1}),
    "an argument less": _drop,
    "an argument more": _add,
    "arguments exchanged": _exchanged,
    "another tool": _other_name,
    "a call twice": _twice,
    "a call less": _one_less,
    "calls in another order": _other_order,
    "one call for another": _one_for_another,
}
