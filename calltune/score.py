"""Verdicts per question, and the metrics that follow from them, as DESIGN.md names them.

>>> verdict(record, parse_hermes(text), rules={"search_web.query": "f1>=0.5"}).verdict
'wrong_tool'
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calltune import stats
from calltune.errors import ConfigError
from calltune.guard import check_all, types_of
from calltune.match import ast_match, is_empty, token_f1
from calltune.metrics import MEANS, PROPORTIONS, ROBUSTNESS, UNREADABLE, label_of
from calltune.parse import Parsed
from calltune.records import Call, Record, Tool, expected_calls

Rules = Mapping[str, str]
"""Overrides of the match rule by argument: ``{"tool.argument": "ast" | "any" | "f1>=0.5"}``."""
Gold = dict[str, Any]
"""An expected call: ``{"name": str, "arguments": {argument: [accepted values]}}``."""

_F1 = re.compile(r"f1>=(0\.\d*[1-9]\d*|1(\.0+)?)")


@dataclass(frozen=True)
class Scored:
    """What is to be said of one answer.

    Attributes:
        verdict: one of :data:`calltune.metrics.VERDICTS`.
        reason: what is wrong, None if nothing is.
        outcomes: 0 or 1 for each proportion in which the question counts (`max_length_stop_rate` is not known here).
        expected: label of the expected tools in the confusion matrix.
        called: label of the called ones.
    """

    verdict: str
    reason: str | None
    outcomes: dict[str, int]
    expected: str
    called: str


@dataclass(frozen=True)
class Answer:
    """One scored answer and what its generation says.

    Attributes:
        scored: its verdict.
        stop: `stop`, or `length` if `max_new_tokens` ended it.
        prompt_tokens: tokens of the prompt.
    """

    scored: Scored
    stop: str
    prompt_tokens: int


def check_rules(rules: Rules, tools: Sequence[Tool], where: str = "evaluate.arguments") -> None:
    """Check overrides against the tools that they name.

    Args:
        rules: the overrides.
        tools: of several with one name, as rows of different sources may bring, one with the argument is enough.
        where: the overrides are from.

    Raises:
        ConfigError: a rule is none of `ast`, `any`, `f1>=x` with 0 < x <= 1, or no tool has such an argument.
    """
    known = _arguments_of(tools)
    for argument, rule in rules.items():
        if argument not in known:
            tool = argument.rpartition(".")[0]
            own = [one for one in known if one.rpartition(".")[0] == tool]
            raise ConfigError(f"{where}: {argument!r} is no tool's argument; there is {', '.join(own or known)}")
        if rule not in ("ast", "any") and not _F1.fullmatch(rule):
            raise ConfigError(f"{where}: {argument}: {rule!r} is not a rule; use ast, any, or f1>=x with 0 < x <= 1")


def rules_without_tool(rules: Rules, tools: Sequence[Tool]) -> list[str]:
    """The arguments for which a rule is set and whose tool is none of these: a tool's name, too, may have dots."""
    names, known = {tool["function"]["name"] for tool in tools}, _arguments_of(tools)
    return [argument for argument in rules if argument not in known and argument.rpartition(".")[0] not in names]


def verdict(record: Record, parsed: Parsed, rules: Rules, coerce: bool = False) -> Scored:
    """Judge one answer.

    Args:
        record: the question, with its tools and its accepted answer.
        parsed: what the model answered.
        rules: overrides of the match rules; see :func:`check_rules`.
        coerce: let the guard coerce values without loss before they are compared.
    """
    expected, literal = expected_calls(record), "expected" not in record
    guarded = check_all(parsed.calls, record["tools"], coerce)
    calls = [one.call for one in guarded]
    rejected = parsed.malformed or next((one.reason for one in guarded if one.reason is not None), None)
    wanted_names, called_names = [gold["name"] for gold in expected], [str(call["name"]) for call in calls]
    readable = parsed.malformed is None
    same_tools = readable and sorted(wanted_names) == sorted(called_names)
    valid = rejected is None
    arguments_right = same_tools and valid and answer_matches(calls, expected, record["tools"], rules, literal)
    ast_right = same_tools and valid and answer_matches(calls, expected, record["tools"], None, literal)

    outcomes = {"tool_accuracy": same_tools, "call_accuracy": arguments_right, "ast_call_accuracy": ast_right}
    outcomes["tool_accuracy_calls" if expected else "abstention_accuracy"] = same_tools
    if parsed.attempted:
        outcomes["valid_call_rate"] = valid

    named, reason = _named(wanted_names, called_names)
    if rejected is not None:
        named, reason = "malformed", rejected
    elif reason is None and not arguments_right:
        named, reason = "wrong_arguments", _first_difference(calls, expected, record["tools"], rules, literal)
    return Scored(
        verdict=named,
        reason=reason,
        outcomes={metric: int(outcome) for metric, outcome in outcomes.items()},
        expected=label_of(wanted_names),
        called=label_of(called_names) if readable else UNREADABLE,
    )


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


def summarise(
    answers: Mapping[str, Answer], seed: int = 0, again: Mapping[str, Mapping[str, Scored]] | None = None
) -> dict[str, Any]:
    """The metrics of an evaluation: `n`, `metrics`, `verdicts`, `outcomes` and `confusion` of `metrics.json`.

    Args:
        answers: by question id.
        seed: of the bootstrap of the means.
        again: for each way in which the questions were asked again (of :data:`calltune.metrics.ROBUSTNESS`) the
            scored answers, by question id.
    """
    outcomes: dict[str, dict[str, int]] = {metric: {} for metric in PROPORTIONS}
    confusion: dict[str, Counter[str]] = {}
    for id_, answer in answers.items():
        for metric, outcome in answer.scored.outcomes.items():
            outcomes[metric][id_] = outcome
        outcomes["max_length_stop_rate"][id_] = int(answer.stop == "length")
        confusion.setdefault(answer.scored.expected, Counter())[answer.scored.called] += 1
    for way, scored in (again or {}).items():
        outcomes[ROBUSTNESS[way]] = {id_: one.outcomes["tool_accuracy"] for id_, one in scored.items()}
    metrics = {metric: stats.wilson(sum(counted.values()), len(counted)) for metric, counted in outcomes.items()}
    (prompt_tokens_mean,) = MEANS
    metrics[prompt_tokens_mean] = stats.mean([answer.prompt_tokens for answer in answers.values()], seed)
    return {
        "n": len(answers),
        "metrics": {metric: estimate.as_dict() for metric, estimate in metrics.items()},
        "verdicts": {id_: answer.scored.verdict for id_, answer in answers.items()},
        "outcomes": outcomes,
        "confusion": {expected: dict(called) for expected, called in sorted(confusion.items())},
    }


def _named(wanted: Sequence[str], called: Sequence[str]) -> tuple[str, str | None]:
    """The verdict by the names alone, and what is wrong, if anything is."""
    missing, beyond = _without(wanted, called), _without(called, wanted)
    if called and not wanted:
        return "unwanted_call", f"called {label_of(list(called))} where no call was expected"
    if len(called) < len(wanted):
        return "missing_call", f"{len(called)} of {len(wanted)} expected calls: no {label_of(missing)}"
    if missing:
        return "wrong_tool", f"called {label_of(beyond)} instead of {label_of(missing)}"
    if beyond:
        return "extra_call", f"called {label_of(beyond)} beyond what was expected"
    return "correct", None


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return list((Counter(names) - Counter(others)).elements())


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


def _first_difference(
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
    return "any" if tool in by_name and _is_free_string(_properties(by_name[tool]).get(argument)) else "ast"


def _arguments_of(tools: Sequence[Tool]) -> dict[str, None]:
    """``tool.argument`` of each argument, in order, once."""
    return dict.fromkeys(f"{tool['function']['name']}.{name}" for tool in tools for name in _properties(tool))


def _properties(tool: Tool) -> dict[str, Any]:
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
