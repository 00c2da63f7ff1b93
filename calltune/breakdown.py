"""Where the mistakes are: the metrics of an evaluation by tool, and by argument."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calltune import stats
from calltune.match import Rules, assigned, mismatch, rule_of, value_fits
from calltune.metrics import names_in
from calltune.records import Call, Record, expected_calls


def by_tool(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """For each expected tool how often it is called where it should be, and should be where it is called.

    Args:
        confusion: expected names → called names → questions, as :func:`calltune.score.summarise` makes it.

    Returns:
        ``{tool: {"recall": estimate, "precision": estimate}}``. `recall`: of the questions that expect the tool those that
        call it, at least as often as expected; `precision`: of the questions that call it those that expect it.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for expected, row in confusion.items():
        for called, count in row.items():
            wanted, got = Counter(names_in(expected)), Counter(names_in(called))
            for tool in wanted:
                found[tool].update(expected=count, recalled=count * (got[tool] >= wanted[tool]))
            for tool in got:
                found[tool].update(called=count, precise=count * (tool in wanted))
    return {
        tool: {
            "recall": stats.wilson(counts["recalled"], counts["expected"]).as_dict(),
            "precision": stats.wilson(counts["precise"], counts["called"]).as_dict(),
        }
        for tool, counts in sorted(found.items())
        if counts["expected"]
    }


def by_argument(answers: Sequence[tuple[Record, Sequence[Call]]], rules: Rules) -> dict[str, dict[str, str | float | int | None]]:
    """For each argument how often it is right, over the calls that call an expected tool.

    An argument that is given and not expected counts as a wrong one, and so does an expected one that is missing.

    Args:
        answers: the questions, each with the calls that were read from its answer.
        rules: overrides of the match rules.

    Returns:
        ``{"tool.argument": {"rule": its match rule, "value", "low", "high", "n"}}``.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    used: dict[str, str] = {}
    for record, calls in answers:
        for tool, argument, right in _arguments(record, calls, rules):
            key = f"{tool}.{argument}"
            outcomes[key].append(right)
            used.setdefault(key, rule_of(tool, argument, record["tools"], rules))
    return {key: {"rule": used[key], **stats.wilson(sum(found), len(found)).as_dict()} for key, found in sorted(outcomes.items())}


def _arguments(record: Record, calls: Sequence[Call], rules: Rules) -> Iterator[tuple[str, str, bool]]:
    expected, literal, tools = expected_calls(record), "expected" not in record, record["tools"]
    pairs = assigned([[mismatch(call, gold, tools, rules, literal) is None for call in calls] for gold in expected])
    left = [place for place in range(len(calls)) if place not in pairs]
    for gold, place in zip(expected, pairs, strict=True):
        if place is None:  # no call fits entirely: one of the same tool is held against it
            place = next((one for one in left if calls[one]["name"] == gold["name"]), None)
            if place is None:
                continue
            left.remove(place)
        yield from _of_call(gold, calls[place]["arguments"], literal, tools, rules)


def _of_call(
    gold: Mapping[str, Any], given: Mapping[str, Any], literal: bool, tools: Sequence[Any], rules: Rules
) -> Iterator[tuple[str, str, bool]]:
    tool, accepted = gold["name"], gold["arguments"]
    for name, values in accepted.items():
        if name in given:
            yield tool, name, value_fits(given[name], values, rule_of(tool, name, tools, rules), literal)
        else:
            yield tool, name, not literal and "" in values
    yield from ((tool, name, False) for name in given if name not in accepted)
