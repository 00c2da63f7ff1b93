"""Whether a called value is an accepted one: the Berkeley Function Calling Leaderboard's AST match, and softer rules.

Follows the checks of https://github.com/ShishirPatil/gorilla `bfcl_eval/eval_checker/ast_eval/ast_checker.py`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_IGNORED = re.compile(r"[ ,./\-_*^]")


def ast_match(value: Any, accepted: Sequence[Any], literal: bool = False) -> bool:
    """Whether `value` equals one of the accepted values.

    Numbers are equal by value, but a boolean is no number. Strings are equal whatever their case, their spaces, their
    ``,./-_*^`` and their kind of quotes. Lists are compared item by item in order, objects key by key.

    Args:
        value: what the model gave.
        accepted: the accepted values, ``[5, 6]``.
        literal: the accepted values are an assistant's own. Else they have the leaderboard's form, where the values of
            an object (or of objects in a list) are lists of accepted ones in turn, ``{"min": [3, ""]}``, with "" for a
            key that may be absent.
    """
    return any(_equal(value, gold, literal) for gold in accepted)


def _equal(value: Any, gold: Any, literal: bool) -> bool:
    if isinstance(value, bool) or isinstance(gold, bool):
        return value is gold
    if isinstance(value, int | float) and isinstance(gold, int | float):
        return value == gold
    if isinstance(value, str) and isinstance(gold, str):
        return standardised(value) == standardised(gold)
    if isinstance(value, list) and isinstance(gold, list):
        return len(value) == len(gold) and all(_equal(*pair, literal) for pair in zip(value, gold, strict=True))
    if isinstance(value, dict) and isinstance(gold, dict):
        return _equal_objects(value, gold, literal)
    return value is None and gold is None


def _equal_objects(value: dict[str, Any], gold: dict[str, Any], literal: bool) -> bool:
    if literal:
        return value.keys() == gold.keys() and all(_equal(value[key], gold[key], True) for key in gold)
    if not value.keys() <= gold.keys():
        return False
    for key, options in gold.items():
        # A value that is not a list is what somebody wrote who does not know the form: it can only mean itself.
        options = options if isinstance(options, list) else [options]
        # The form has one level of such lists: what lies deeper is literal.
        if not (ast_match(value[key], options, literal=True) if key in value else "" in options):
            return False
    return True


def plain_values(accepted: Any) -> list[Any]:
    """The values that an accepted one stands for, the first of each of its choices first.

    ``{"min": [3, 4], "max": [9, ""]}`` stands for ``{"min": 3, "max": 9}`` and ``{"min": 4, "max": 9}``; each choice is in one of
    the values, not each combination of them. One level deep, as :func:`ast_match` reads it.
    """
    if isinstance(accepted, dict):
        listed = {key: options if isinstance(options, list) else [options] for key, options in accepted.items()}
        choices = {key: [option for option in options if option != ""] for key, options in listed.items()}
        choices = {key: options for key, options in choices.items() if options}
        first = {key: options[0] for key, options in choices.items()}
        return [first, *({**first, key: option} for key, options in choices.items() for option in options[1:])]
    if isinstance(accepted, list):
        items = [plain_values(item) for item in accepted]
        first_items = [values[0] for values in items]
        others = [(place, value) for place, values in enumerate(items) for value in values[1:]]
        return [first_items, *([*first_items[:place], value, *first_items[place + 1 :]] for place, value in others)]
    return [accepted]


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, a blank string, an empty list or object. 0 and false say something."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or value == {}


def token_f1(value: Any, accepted: Sequence[Any]) -> float:
    """The best F1 of words shared between the value and an accepted one, 0 to 1, whatever their order and case."""
    return max((_f1(_words(value), _words(gold)) for gold in accepted), default=0.0)


def _f1(one: Counter[str], other: Counter[str]) -> float:
    shared = (one & other).total()
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def _words(value: Any) -> Counter[str]:
    return Counter(re.findall(r"\w+", str(value).casefold()))


def standardised(text: str) -> str:
    """Text without what `ast` does not look at."""
    return _IGNORED.sub("", text).lower().replace("'", '"')
