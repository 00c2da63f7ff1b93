"""Whether a called value is an accepted one, and a call an expected one: the Berkeley Function Calling Leaderboard's AST match,
and softer rules.

Ingest holds a row's own answer against its accepted ones with this, so that nothing of statistics is imported. The match of
values follows https://github.com/ShishirPatil/gorilla `bfcl_eval/eval_checker/ast_eval/ast_checker.py`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.guard import types_of
from calltune.records import Call, Tool

Rules = Mapping[str, str]
"""Overrides of the match rule by argument: ``{"tool.argument": "ast" | "any" | "f1>=0.5"}``."""
Gold = dict[str, Any]
"""An expected call: ``{"name": str, "arguments": {argument: [accepted values]}}``."""

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


def answer_matches(
    calls: Sequence[Call], expected: Sequence[Gold], tools: Sequence[Tool], rules: Rules | None, literal: bool
) -> bool:
    """Whether the calls are the expected ones in some order, arguments included.

    Args:
        calls: what was called.
        expected: the accepted calls.
        tools: the tools' schemas, which say each argument's default rule.
        rules: overrides; None: `ast` for every argument, whatever its schema.
        literal: the gold values are an assistant's own, not lists in the Berkeley form: see :func:`ast_match`.
    """
    if len(calls) != len(expected):
        return False
    fits = [[mismatch(call, gold, tools, rules, literal) is None for call in calls] for gold in expected]
    return None not in assigned(fits)


def first_difference(
    calls: Sequence[Call], expected: Sequence[Gold], tools: Sequence[Tool], rules: Rules, literal: bool
) -> str | None:
    """What differs between the first unpaired expected call and an unpaired call of the same tool."""
    differences = [[mismatch(call, gold, tools, rules, literal) for call in calls] for gold in expected]
    paired = assigned([[difference is None for difference in row] for row in differences])
    left = [index for index in range(len(calls)) if index not in paired]
    for gold, call in enumerate(paired):
        if call is None:
            same_tool = [index for index in left if calls[index]["name"] == expected[gold]["name"]]
            return differences[gold][same_tool[0]]
    return None


def assigned(fits: Sequence[Sequence[bool]]) -> list[int | None]:
    """For each expected call the call that it is paired with, so that as many as possible are paired.

    Augmenting paths, because taking the first fitting call for each expected one in turn can leave a later one without.
    """
    owner: dict[int, int] = {}

    def pair(gold: int, tried: set[int]) -> bool:
        for call, fit in enumerate(fits[gold]):
            if fit and call not in tried:
                tried.add(call)
                if call not in owner or pair(owner[call], tried):
                    owner[call] = gold
                    return True
        return False

    for gold in range(len(fits)):
        pair(gold, set())
    calls = {gold: call for call, gold in owner.items()}
    return [calls.get(gold) for gold in range(len(fits))]


def mismatch(call: Call, gold: Gold, tools: Sequence[Tool], rules: Rules | None, literal: bool) -> str | None:
    """How the call differs from the expected one, None if it does not."""
    tool, arguments, accepted = gold["name"], call["arguments"], gold["arguments"]
    if call["name"] != tool:
        return f"called {call['name']} instead of {tool}"
    for name in arguments:
        if name not in accepted:
            return f"{tool}.{name}: is given and was not expected"
    for name, values in accepted.items():
        optional = not literal and "" in values
        if name not in arguments:
            if not optional:
                return f"{tool}.{name}: is expected and missing"
        elif not value_fits(arguments[name], values, rule_of(tool, name, tools, rules), literal):
            return f"{tool}.{name}: {_short(arguments[name])} is not among the accepted {_short(values)}"
    return None


def value_fits(value: Any, accepted: Sequence[Any], rule: str, literal: bool) -> bool:
    """Whether a value is an accepted one by the rule."""
    if ast_match(value, accepted, literal):
        return True
    if rule == "any":
        return not is_empty(value)
    return rule.startswith("f1>=") and token_f1(value, accepted) >= _threshold(rule)


def rule_of(tool: str, argument: str, tools: Sequence[Tool], rules: Rules | None) -> str:
    """The match rule of an argument: the one that was set, or the default for its type; `ast` where `rules` is None."""
    if rules is None:
        return "ast"
    key = f"{tool}.{argument}"
    if key in rules:
        return rules[key]
    by_name = {one["function"]["name"]: one for one in tools}  # the last of a name, as the guard takes it
    return "any" if tool in by_name and _is_free_string(properties(by_name[tool]).get(argument)) else "ast"


def properties(tool: Tool) -> dict[str, Any]:
    """The schemas of a tool's arguments, by name."""
    parameters = tool["function"].get("parameters") or {}
    return dict(parameters.get("properties") or {})


def _is_free_string(schema: Any) -> bool:
    if not isinstance(schema, dict) or _is_fixed(schema):
        return False
    types = types_of(schema)
    return "string" in types and types <= {"string", "null"}


def _is_fixed(schema: dict[str, Any]) -> bool:
    """Whether a schema lists the values that there are, itself or in a choice of its `anyOf`."""
    choices = schema.get("anyOf")
    choices = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return "enum" in schema or "const" in schema or any(map(_is_fixed, choices))


def _threshold(rule: str) -> float:
    return float(rule.removeprefix("f1>="))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
