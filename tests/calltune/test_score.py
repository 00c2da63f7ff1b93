"""Verdicts, outcomes and metrics: every rule of DESIGN.md with a case on each side of it."""

import itertools
import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune import stats
from calltune.errors import ConfigError
from calltune.match import answer_matches, rule_of
from calltune.metrics import METRICS, PROPORTIONS, VERDICTS, label_of, names_in
from calltune.parse import Parsed, parse_hermes
from calltune.score import Answer, Scored, check_rules, rules_without_tool, summarise, verdict

SEARCH = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "note": {"type": ["string", "null"]},
        "period": {"type": "string", "enum": ["day", "week"]},
        "mode": {"type": "string", "const": "fast"},
        "reason": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "kind": {"anyOf": [{"type": "string", "enum": ["new", "old"]}, {"type": "null"}]},
        "size": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "limit": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "area": {"type": "object"},
        "thing": {},
    },
    "required": [],
}
TOOLS = [
    {"type": "function", "function": {"name": "search", "description": "…", "parameters": SEARCH}},
    {"type": "function", "function": {"name": "ticket", "description": "…", "parameters": {**SEARCH, "required": ["query"]}}},
]
OPEN = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "additionalProperties": True}}}]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def question(*calls: dict[str, Any], expected: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A record whose assistant makes these calls; `expected` replaces them as the gold answer."""
    answer: dict[str, Any] = {"role": "assistant", "content": "Hello."}
    if calls:
        answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": one} for one in calls]}
    record = {"id": "1", "messages": [{"role": "user", "content": "?"}, answer], "tools": TOOLS}
    return record if expected is None else {**record, "expected": expected}


def score(record: dict[str, Any], *calls: dict[str, Any], rules: dict[str, str] | None = None, **options: Any) -> Scored:
    # From JSON, as a run has them: their texts are other objects than the constants in the code.
    record, rules = json.loads(json.dumps([record, rules or {}]))
    return verdict(record, Parsed(calls, ""), rules, **options)


Q = call("search", query="a", limit=3)

CASES: dict[str, tuple[dict[str, Any], Parsed, str, dict[str, int]]] = {
    # outcomes: tool, call, ast, valid (2: does not count)
    "right": (question(Q), Parsed((Q,), ""), "correct", {"tool": 1, "call": 1, "ast": 1, "valid": 1}),
    "free string differs": (
        question(Q),
        Parsed((call("search", query="b", limit=3),), ""),
        "correct",
        {"tool": 1, "call": 1, "ast": 0, "valid": 1},
    ),
    "number differs": (
        question(Q),
        Parsed((call("search", query="a", limit=4),), ""),
        "wrong_arguments",
        {"tool": 1, "call": 0, "ast": 0, "valid": 1},
    ),
    "no call where none is expected": (question(), Parsed((), "Hi"), "correct", {"tool": 1, "call": 1, "ast": 1, "valid": 2}),
    "call where none is expected": (question(), Parsed((Q,), ""), "unwanted_call", {"tool": 0, "call": 0, "ast": 0, "valid": 1}),
    "no call": (question(Q), Parsed((), "Hi"), "missing_call", {"tool": 0, "call": 0, "ast": 0, "valid": 2}),
    "one of two": (question(Q, Q), Parsed((Q,), ""), "missing_call", {"tool": 0, "call": 0, "ast": 0, "valid": 1}),
    "one of two and wrong": (
        question(Q, Q),
        Parsed((call("ticket", query="x"),), ""),
        "missing_call",
        {"tool": 0, "call": 0, "ast": 0, "valid": 1},
    ),
    "other tool": (
        question(Q),
        Parsed((call("ticket", query="a"),), ""),
        "wrong_tool",
        {"tool": 0, "call": 0, "ast": 0, "valid": 1},
    ),
    "two other tools": (
        question(Q),
        Parsed((call("ticket", query="a"),) * 2, ""),
        "wrong_tool",
        {"tool": 0, "call": 0, "ast": 0, "valid": 1},
    ),
    "one too many": (question(Q), Parsed((Q, Q), ""), "extra_call", {"tool": 0, "call": 0, "ast": 0, "valid": 1}),
    "unreadable": (question(Q), Parsed((), "", "cut off"), "malformed", {"tool": 0, "call": 0, "ast": 0, "valid": 0}),
    "unreadable after the right call": (
        question(Q),
        Parsed((Q,), "", "cut off"),
        "malformed",
        {"tool": 0, "call": 0, "ast": 0, "valid": 0},
    ),
    "unreadable where none is expected": (
        question(),
        Parsed((), "", "cut off"),
        "malformed",
        {"tool": 0, "call": 0, "ast": 0, "valid": 0},
    ),
    "right tool, invalid argument": (
        question(Q),
        Parsed((call("search", query="a", limit="many"),), ""),
        "malformed",
        {"tool": 1, "call": 0, "ast": 0, "valid": 0},
    ),
    "unknown tool": (question(Q), Parsed((call("fly"),), ""), "malformed", {"tool": 0, "call": 0, "ast": 0, "valid": 0}),
    "invalid where none is expected": (
        question(),
        Parsed((call("search", x=1),), ""),
        "malformed",
        {"tool": 0, "call": 0, "ast": 0, "valid": 0},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict_and_outcomes(name: str) -> None:
    record, parsed, expected, outcome = CASES[name]
    scored = verdict(record, parsed, {})
    asked = "tool_calls" in record["messages"][-1]
    wanted = {"tool_accuracy": outcome["tool"], "call_accuracy": outcome["call"], "ast_call_accuracy": outcome["ast"]}
    wanted["tool_accuracy_calls" if asked else "abstention_accuracy"] = outcome["tool"]
    if outcome["valid"] != 2:
        wanted["valid_call_rate"] = outcome["valid"]
    assert scored.verdict == expected
    assert scored.outcomes == wanted
    assert all(type(value) is int for value in scored.outcomes.values()), "true is not 1 in JSON"
    assert (scored.reason is None) == (expected == "correct")


@pytest.mark.parametrize(
    ("name", "expected", "called"),
    [
        ("right", "search", "search"),
        ("one of two", "search + search", "search"),
        ("no call", "search", "no call"),
        ("no call where none is expected", "no call", "no call"),
        ("unreadable after the right call", "search", "malformed"),
        ("right tool, invalid argument", "search", "search"),
        ("unknown tool", "search", "fly"),
    ],
)
def test_labels_of_the_confusion_matrix(name: str, expected: str, called: str) -> None:
    record, parsed, _, _ = CASES[name]
    scored = verdict(record, parsed, {})
    assert (scored.expected, scored.called) == (expected, called)


def test_labels_are_sorted_names() -> None:
    assert label_of(["ticket", "search", "search"]) == "search + search + ticket"


@given(
    st.lists(
        st.sampled_from(["a", "a + b", "a +", "+ b", "+", "no call", "malformed", "", " ", '"', '"a"', "\\", "a\nb"]) | st.text()
    )
)
def test_a_label_says_which_names_it_is_made_of(names: list[str]) -> None:
    assert names_in(label_of(names)) == sorted(names)
    assert (label_of(names) == "no call") == (names == [])
    assert label_of(names) != "malformed"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("number differs", "search.limit: 4 is not among the accepted [3]"),
        ("call where none is expected", "called search where no call was expected"),
        ("no call", "0 of 1 expected calls: no search"),
        ("one of two", "1 of 2 expected calls: no search"),
        ("other tool", "called ticket instead of search"),
        ("two other tools", "called ticket + ticket instead of search"),
        ("one too many", "called search beyond what was expected"),
        ("unreadable", "cut off"),
        ("right tool, invalid argument", 'search.limit: must be of type integer, not the string "many"'),
    ],
)
def test_reasons_name_what_is_wrong(name: str, reason: str) -> None:
    record, parsed, _, _ = CASES[name]
    assert verdict(record, parsed, {}).reason == reason


def test_reasons_name_only_the_calls_that_are_wrong() -> None:
    ticket = call("ticket", query="a")
    assert score(question(Q, Q), Q, ticket).reason == "called ticket instead of search"
    assert score(question(Q), Q, Q, ticket).reason == "called search + ticket beyond what was expected"


def test_what_was_said_of_an_answer_stays() -> None:
    scored = score(question(Q), Q)
    with pytest.raises(FrozenInstanceError):
        scored.verdict = "malformed"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Answer(scored, "stop", 1).stop = "length"  # type: ignore[misc]


def test_an_argument_beyond_the_expected_ones_is_wrong() -> None:
    scored = score(question(call("search", query="a")), call("search", query="a", limit=3))
    assert scored.reason == "search.limit: is given and was not expected"
    assert scored.outcomes["ast_call_accuracy"] == 0


def test_an_expected_argument_that_is_missing_is_wrong() -> None:
    scored = score(question(Q), call("search", query="a"))
    assert scored.reason == "search.limit: is expected and missing"


def test_an_argument_may_be_absent_if_the_empty_string_is_accepted() -> None:
    record = question(expected=[{"name": "search", "arguments": {"query": ["a"], "period": ["", "week"]}}])
    assert score(record, call("search", query="a")).verdict == "correct"
    assert score(record, call("search", query="a", period="week")).verdict == "correct"
    assert score(record, call("search", query="a", period="day")).verdict == "wrong_arguments"


def test_an_empty_string_of_the_assistant_is_a_value_and_not_a_may_be_absent() -> None:
    record = question(call("search", query=""))
    assert score(record, call("search", query="")).verdict == "correct"
    assert score(record, call("search")).verdict == "wrong_arguments"


def test_each_accepted_value_counts() -> None:
    record = question(expected=[{"name": "search", "arguments": {"limit": [3, 5]}}])
    assert [score(record, call("search", limit=n)).verdict for n in (3, 4, 5)] == ["correct", "wrong_arguments", "correct"]


def test_expected_objects_have_the_leaderboards_form_and_own_ones_mean_themselves() -> None:
    leaderboard = question(expected=[{"name": "search", "arguments": {"area": [{"km": [1, 2]}]}}])
    own = question(call("search", area={"km": [1, 2]}))
    one, both = call("search", area={"km": 1}), call("search", area={"km": [1, 2]})
    for record, right, wrong in ((leaderboard, one, both), (own, both, one)):
        assert score(record, right).outcomes["ast_call_accuracy"] == 1
        assert score(record, right).verdict == "correct"
        assert score(record, wrong).outcomes["ast_call_accuracy"] == 0
        assert "is not among the accepted" in str(score(record, wrong).reason)


@pytest.mark.parametrize(
    ("argument", "gold", "given_value", "right"),
    [
        ("query", "a", "anything", True),
        ("query", "a", "  ", False),
        ("note", "a", "anything", True),
        ("period", "day", "week", False),
        ("period", "day", "day", True),
        ("mode", "fast", "fast", True),
        ("reason", "a", "anything", True),
        ("kind", "new", "old", False),
        ("size", "a", "b", False),
        ("limit", 3, 3.0, True),
        ("tags", ["a"], ["b"], False),
        ("tags", ["a", "b"], ["A.", "b"], True),
        ("area", {"x": 1}, {"x": 2}, False),
        ("thing", "a", "b", False),
    ],
)
def test_the_default_rule_follows_from_the_schema(argument: str, gold: Any, given_value: Any, right: bool) -> None:
    scored = score(question(call("search", **{argument: gold})), call("search", **{argument: given_value}))
    assert scored.verdict == ("correct" if right else "wrong_arguments")


def test_the_default_rule_is_of_the_tool_that_is_called() -> None:
    strict = {"type": "object", "properties": {"query": {"type": "string", "enum": ["a", "b"]}}}
    tools = [*TOOLS[:1], {"type": "function", "function": {"name": "ticket", "parameters": strict}}]
    for name, expected in (("search", "correct"), ("ticket", "wrong_arguments")):
        assert score({**question(call(name, query="a")), "tools": tools}, call(name, query="b")).verdict == expected


def test_an_argument_that_no_schema_lists_is_compared_strictly() -> None:
    record = {**question(call("search", city="Rome")), "tools": OPEN}
    assert score(record, call("search", city="Rome")).verdict == "correct"
    assert score(record, call("search", city="Paris")).verdict == "wrong_arguments"


@pytest.mark.parametrize(
    ("rule", "given_value", "right"),
    [
        ("ast", "Travel-Meal limit", True),
        ("ast", "meal limit", False),
        ("any", "parking", True),
        ("any", "", False),
        ("f1>=0.8", "meal limit", True),
        ("f1>=0.81", "meal limit", False),
        ("f1>=1.0", "limit meal travel", True),
        ("f1>=1.0", "travelmeallimit", True),
        ("f1>=0.5", "parking", False),
    ],
)
def test_a_rule_can_be_overridden_by_argument(rule: str, given_value: str, right: bool) -> None:
    record = question(call("search", query="travel meal limit"))
    scored = score(record, call("search", query=given_value), rules={"search.query": rule, "ticket.query": "ast"})
    assert scored.verdict == ("correct" if right else "wrong_arguments")
    assert scored.outcomes["ast_call_accuracy"] == int(given_value in ("Travel-Meal limit", "travelmeallimit"))


def test_a_rule_of_another_tool_does_not_apply() -> None:
    record = question(call("search", query="a"))
    assert score(record, call("search", query="b"), rules={"ticket.query": "ast"}).verdict == "correct"


def test_any_loosens_an_enum_only_within_the_guard() -> None:
    record, rules = question(call("search", period="day")), {"search.period": "any"}
    assert score(record, call("search", period="week"), rules=rules).verdict == "correct"
    assert score(record, call("search", period="year"), rules=rules).verdict == "malformed"


def test_coercion_happens_before_the_comparison_and_only_if_asked() -> None:
    answer = call("search", query="a", limit="3")
    assert score(question(Q), answer).verdict == "malformed"
    assert score(question(Q), answer, coerce=True).verdict == "correct"


def test_parallel_calls_match_in_any_order() -> None:
    one, two = call("search", limit=1), call("ticket", query="x", limit=2)
    assert score(question(one, two), two, one).verdict == "correct"


def test_parallel_calls_are_assigned_the_best_way_and_not_greedily() -> None:
    loose = {"name": "search", "arguments": {"limit": [1, 2]}}
    tight = {"name": "search", "arguments": {"limit": [1]}}
    one, two = call("search", limit=1), call("search", limit=2)
    # Greedy, in gold order, gives the first call to the loose one and leaves the tight one with nothing.
    for golds in ([loose, tight], [tight, loose]):
        assert score(question(expected=golds), one, two).verdict == "correct"
        assert score(question(expected=golds), two, one).verdict == "correct"
        assert score(question(expected=golds), two, two).verdict == "wrong_arguments"


def test_answers_of_another_number_of_calls_do_not_match() -> None:
    gold = {"name": "search", "arguments": {"limit": [1]}}
    one = call("search", limit=1)
    assert answer_matches([one], [gold], TOOLS, None, literal=False)
    assert not answer_matches([one, one], [gold], TOOLS, None, literal=False)
    assert not answer_matches([one], [gold, gold], TOOLS, None, literal=False)


def test_calls_of_other_tools_do_not_match_whatever_their_arguments() -> None:
    gold, same = {"name": "search", "arguments": {"limit": [1]}}, {"limit": 1}
    assert answer_matches([{"name": "search", "arguments": same}], [gold], TOOLS, {}, literal=False)
    for other in ("a", "z"):
        assert not answer_matches([{"name": other, "arguments": same}], [gold], TOOLS, {}, literal=False)


def test_without_the_tools_schemas_every_argument_is_compared_strictly() -> None:
    gold = {"name": "search", "arguments": {"query": ["a"]}}
    assert answer_matches([call("search", query="A")], [gold], [], {}, literal=False)
    assert not answer_matches([call("search", query="b")], [gold], [], {}, literal=False)


@pytest.mark.parametrize(
    ("argument", "rule"),
    [("query", "any"), ("note", "any"), ("reason", "any"), ("period", "ast"), ("mode", "ast"), ("kind", "ast"), ("size", "ast")],
)
def test_what_a_schema_fixes_is_compared_strictly(argument: str, rule: str) -> None:
    assert rule_of("search", argument, TOOLS, {}) == rule
    assert rule_of("search", argument, TOOLS, {f"search.{argument}": "f1>=0.5"}) == "f1>=0.5"
    assert rule_of("search", argument, TOOLS, None) == "ast"


def test_of_two_tools_with_one_name_the_last_counts_as_for_the_guard() -> None:
    fixed = {"type": "function", "function": {"name": "search", "parameters": {"properties": {"query": {"enum": ["a", "b"]}}}}}
    assert rule_of("search", "query", [*TOOLS, fixed], {}) == "ast"
    assert rule_of("search", "query", [fixed, *TOOLS], {}) == "any"


def test_a_reason_shows_at_most_80_characters_of_a_value() -> None:
    def reason(length: int) -> str:
        return str(score(question(call("search", tags=["a"])), call("search", tags=["x" * length])).reason)

    assert reason(76) == f"search.tags: ['{'x' * 76}'] is not among the accepted [['a']]"
    assert reason(77) == f"search.tags: ['{'x' * 77}… is not among the accepted [['a']]"


def test_the_same_call_twice_does_not_stand_for_two() -> None:
    one, two = call("search", limit=1), call("search", limit=2)
    scored = score(question(one, two), one, one)
    assert scored.verdict == "wrong_arguments"
    assert scored.reason == "search.limit: 1 is not among the accepted [2]"


def test_the_reason_is_of_an_argument_that_is_wrong_by_its_rule() -> None:
    answer = call("search", query="b", limit=4)
    assert score(question(Q), answer).reason == "search.limit: 4 is not among the accepted [3]"
    assert score(question(Q), answer, rules={"search.query": "ast"}).reason == "search.query: 'b' is not among the accepted ['a']"


@pytest.mark.parametrize("tools", [("search", "ticket"), ("ticket", "search")])
def test_the_reason_is_of_the_first_expected_call_that_is_left_and_a_call_of_its_tool(tools: tuple[str, str]) -> None:
    record = question(*(call(name, query="x", limit=1) for name in tools))
    for order in (tools, tools[::-1]):
        scored = score(record, *(call(name, query="x", limit=9) for name in order))
        assert scored.reason == f"{tools[0]}.limit: 9 is not among the accepted [1]"
    twice = question(*(call("search", limit=limit) for limit in (1, 2)))
    assert (
        score(twice, call("search", limit=8), call("search", limit=9)).reason == "search.limit: 8 is not among the accepted [1]"
    )


def test_the_reason_is_of_the_pair_that_was_left_and_of_the_same_tool() -> None:
    record = question(call("ticket", query="x", limit=1), call("search", limit=1))
    assert score(record, call("search", limit=9), call("ticket", query="x", limit=1)).reason == (
        "search.limit: 9 is not among the accepted [1]"
    )


def test_verdict_on_generated_text() -> None:
    text = '<tool_call>\n{"name": "search", "arguments": {"query": "b", "limit": 3}}\n</tool_call>'
    assert verdict(question(Q), parse_hermes(text), {}).verdict == "correct"
    other = verdict(question(Q), parse_hermes(text.replace("3", "4")), {})
    assert (other.verdict, other.reason) == ("wrong_arguments", "search.limit: 4 is not among the accepted [3]")
    assert verdict(question(Q), parse_hermes(text[:-5]), {}).verdict == "malformed"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"search.query": "f1>=0"}, "evaluate.arguments: search.query: 'f1>=0' is not a rule; use ast, any, or f1>=x"),
        ({"search.query": "f1>=0.0"}, "is not a rule"),
        ({"search.query": "f1>=1.5"}, "is not a rule"),
        ({"search.query": "exact"}, "is not a rule"),
        ({"search.queri": "ast"}, "'search.queri' is no tool's argument; there is search.query"),
        ({"query": "ast"}, "'query' is no tool's argument"),
    ],
)
def test_a_rule_that_cannot_apply_is_refused(rules: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_rules(rules, TOOLS)


def test_rules_that_can_apply_are_fine() -> None:
    check_rules({"search.query": "f1>=0.5", "ticket.query": "f1>=1", "search.limit": "any", "search.tags": "ast"}, TOOLS)


def named(name: str, *arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": {key: {} for key in arguments}}}}


def test_a_rule_fits_if_any_tool_of_that_name_has_the_argument() -> None:
    check_rules({"search.limit": "any"}, [named("search", "query", "limit"), named("search", "query")])
    check_rules({"web.search.query": "any"}, [named("web", "url"), named("web.search", "query")])
    tools = [named("web", "url"), named("web.search", "query"), named("web.zip", "code")]
    with pytest.raises(ConfigError, match=r"^rules: 'web\.search\.limit' is no tool's argument; there is web\.search\.query$"):
        check_rules({"web.search.limit": "any"}, tools, where="rules")
    with pytest.raises(ConfigError, match=r"there is web\.url, web\.search\.query, web\.zip\.code$"):
        check_rules({"shop.search": "any"}, tools)


def test_rules_for_a_tool_that_is_not_there_are_told_from_wrong_ones() -> None:
    tools = [named("search", "query"), named("web.search", "query", "filter.name")]
    rules = ["search.limit", "serch.query", "web.search.limit", "web.search.filter.name", "web.query", "other.search.query"]
    assert rules_without_tool(dict.fromkeys(rules, "ast"), tools) == ["serch.query", "web.query", "other.search.query"]


def all_answers() -> dict[str, Answer]:
    length, stop = json.loads('["length", "stop"]')  # as predictions have it
    return {
        str(number): Answer(verdict(record, parsed, {}), length if name.startswith("unreadable") else stop, 100 + number)
        for number, (name, (record, parsed, _, _)) in enumerate(CASES.items())
    }


def test_summarise_counts_each_metric_over_its_own_questions() -> None:
    results = summarise(all_answers())
    n = {metric: results["metrics"][metric]["n"] for metric in METRICS}
    assert n == {
        "tool_accuracy": 17,
        "tool_accuracy_calls": 13,
        "call_accuracy": 17,
        "ast_call_accuracy": 17,
        "valid_call_rate": 15,
        "abstention_accuracy": 4,
        "max_length_stop_rate": 17,
        "prompt_tokens_mean": 17,
    }
    right = {metric: sum(results["outcomes"][metric].values()) for metric in PROPORTIONS}
    assert right == {
        "tool_accuracy": 5,
        "tool_accuracy_calls": 4,
        "call_accuracy": 3,
        "ast_call_accuracy": 2,
        "valid_call_rate": 9,
        "abstention_accuracy": 1,
        "max_length_stop_rate": 3,
    }
    for metric in PROPORTIONS:
        assert results["metrics"][metric] == stats.wilson(right[metric], n[metric]).as_dict()
    assert results["metrics"]["prompt_tokens_mean"]["value"] == 108
    assert results["n"] == len(results["verdicts"]) == 17
    assert set(results["verdicts"].values()) == set(VERDICTS)
    assert results["confusion"]["no call"] == {"no call": 1, "search": 2, "malformed": 1}
    assert results["confusion"]["search + search"] == {"search": 1, "ticket": 1}
    json.dumps(results, allow_nan=False)


def test_what_was_asked_again_is_a_metric_over_all_questions_and_changes_no_other() -> None:
    answers = all_answers()
    wrong = score(question(Q))
    results = summarise(answers, again={"rephrased": dict.fromkeys(answers, wrong)})
    assert results["outcomes"].pop("tool_accuracy_rephrased") == dict.fromkeys(answers, 0)
    assert results["metrics"].pop("tool_accuracy_rephrased") == stats.wilson(0, 17).as_dict()
    assert results == summarise(answers)


def test_the_means_interval_follows_from_the_seed() -> None:
    scored = score(question())
    answers = {str(number): Answer(scored, "stop", 100 + number**2) for number in range(50)}
    means = [summarise(answers, seed)["metrics"]["prompt_tokens_mean"] for seed in (0, 0, 1)]
    assert means[0] == means[1] != means[2]
    assert means[0] == summarise(answers)["metrics"]["prompt_tokens_mean"]
    assert means[0]["low"] < means[0]["value"] < means[0]["high"]


def test_a_metric_without_a_question_is_null_with_n_0() -> None:
    silent = {"1": Answer(score(question(), *()), "stop", 10)}
    metrics = summarise(silent)["metrics"]
    assert metrics["valid_call_rate"] == {"value": None, "low": None, "high": None, "n": 0}
    assert metrics["tool_accuracy_calls"]["n"] == 0
    assert metrics["abstention_accuracy"]["value"] == 1.0


def test_an_evaluation_of_nothing_is_all_null() -> None:
    results = summarise({})
    assert all(results["metrics"][metric] == {"value": None, "low": None, "high": None, "n": 0} for metric in METRICS)
    assert results["verdicts"] == results["confusion"] == {}


_calls = st.lists(st.builds(call, st.sampled_from(["search", "ticket"]), query=st.just("x"), limit=st.integers(0, 2)), max_size=3)
_golds = st.lists(
    st.builds(
        lambda name, limits: {"name": name, "arguments": {"query": ["x"], "limit": limits}},
        st.sampled_from(["search", "ticket"]),
        st.lists(st.sampled_from([0, 1, 2, ""]), min_size=1, max_size=3),
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(_golds, _calls)
def test_the_assignment_finds_what_trying_all_orders_finds(golds: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    def fits(gold: dict[str, Any], one: dict[str, Any]) -> bool:
        return gold["name"] == one["name"] and one["arguments"]["limit"] in gold["arguments"]["limit"]

    possible = len(golds) == len(calls) and any(
        all(fits(gold, one) for gold, one in zip(golds, order, strict=True)) for order in itertools.permutations(calls)
    )
    scored = score(question(expected=golds), *calls)
    assert (scored.verdict == "correct") == possible
    assert scored.outcomes["call_accuracy"] == scored.outcomes["ast_call_accuracy"] == int(possible)
    assert scored.outcomes["tool_accuracy"] == int(sorted(g["name"] for g in golds) == sorted(c["name"] for c in calls))
    assert (scored.reason is None) == possible
