"""Numbers by tool and by argument."""

from typing import Any

from calltune import stats
from calltune.breakdown import by_argument, by_tool

PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("search", "ticket")]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def question(*calls: dict[str, Any]) -> dict[str, Any]:
    answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": one} for one in calls]}
    return {"id": "1", "messages": [{"role": "user", "content": "?"}, answer], "tools": TOOLS}


def test_recall_is_over_the_questions_that_expect_the_tool_and_precision_over_those_that_call_it() -> None:
    confusion = {
        "search": {"search": 6, "ticket": 1, "malformed": 2, "no call": 1},
        "search + search": {"search": 3, "search + search": 1},
        "search + ticket": {"search + ticket": 2},
        "no call": {"no call": 4, "ticket": 5, "invented": 1},
    }
    assert by_tool(confusion) == {
        "search": {"recall": stats.wilson(9, 16).as_dict(), "precision": stats.wilson(12, 12).as_dict()},
        "ticket": {"recall": stats.wilson(2, 2).as_dict(), "precision": stats.wilson(2, 8).as_dict()},
    }
    assert by_tool({}) == {}


def test_an_argument_counts_where_an_expected_tool_is_called() -> None:
    gold = call("search", query="a", limit=3)
    answers: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        (question(gold), [call("search", query="b", limit=3)]),
        (question(gold), [call("search", query="a", limit=4)]),
        (question(gold), [call("search", limit=3)]),
        (question(gold), [call("search", query="a", limit=3, colour="red")]),
        (question(gold), [call("ticket", query="a", limit=3)]),
        (question(gold), []),
        (question(), [call("search", query="a")]),
    ]
    found = by_argument(answers, {})
    assert found == {
        "search.colour": {"rule": "ast", **stats.wilson(0, 1).as_dict()},
        "search.limit": {"rule": "ast", **stats.wilson(3, 4).as_dict()},
        "search.query": {"rule": "any", **stats.wilson(3, 4).as_dict()},
    }
    assert by_argument(answers, {"search.query": "ast"})["search.query"] == {"rule": "ast", **stats.wilson(2, 4).as_dict()}


def test_calls_of_one_tool_are_held_against_the_expected_call_that_they_fit() -> None:
    record = question(call("search", limit=1), call("search", limit=2))
    assert by_argument([(record, [call("search", limit=2), call("search", limit=1)])], {})["search.limit"]["value"] == 1.0
    assert by_argument([(record, [call("search", limit=2), call("search", limit=9)])], {})["search.limit"]["value"] == 0.5


def test_an_argument_that_may_be_absent_is_right_where_it_is() -> None:
    record = {**question(), "expected": [{"name": "search", "arguments": {"query": ["a"], "limit": [3, ""]}}]}
    assert by_argument([(record, [call("search", query="a")])], {})["search.limit"]["value"] == 1.0
