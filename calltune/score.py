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
from calltune.guard import check_all
from calltune.match import Rules, answer_matches, first_difference, properties
from calltune.metrics import MEANS, PROPORTIONS, ROBUSTNESS, UNREADABLE, label_of
from calltune.parse import Parsed
from calltune.records import Record, Tool, expected_calls

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
        named, reason = "wrong_arguments", first_difference(calls, expected, record["tools"], rules, literal)
    return Scored(
        verdict=named,
        reason=reason,
        outcomes={metric: int(outcome) for metric, outcome in outcomes.items()},
        expected=label_of(wanted_names),
        called=label_of(called_names) if readable else UNREADABLE,
    )


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


def _arguments_of(tools: Sequence[Tool]) -> dict[str, None]:
    """``tool.argument`` of each argument, in order, once."""
    return dict.fromkeys(f"{tool['function']['name']}.{name}" for tool in tools for name in properties(tool))
