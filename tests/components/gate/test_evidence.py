"""Which outcomes can go with which verdict: every combination, against a list written out by hand. And odd names of tools."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from calltune.breakdown import by_tool
from calltune.metrics import VERDICTS
from calltune.models import file_sha256
from calltune.parse import Parsed, parse_hermes
from calltune.records import expected_calls
from calltune.score import Answer, summarise, verdict
from components.gate.evidence import Unsound, _refuse_contradictions, examine
from components.gate.predictions import check_predictions

# (a call was expected, tool_accuracy, call_accuracy, valid_call_rate or None where no call was attempted)
POSSIBLE: dict[str, set[tuple[bool, int, int, int | None]]] = {
    "correct": {(True, 1, 1, 1), (False, 1, 1, None)},
    "wrong_arguments": {(True, 1, 0, 1)},
    "malformed": {(True, 1, 0, 0), (True, 0, 0, 0), (False, 0, 0, 0)},
    "unwanted_call": {(False, 0, 0, 1)},
    "missing_call": {(True, 0, 0, None), (True, 0, 0, 1)},
    "wrong_tool": {(True, 0, 0, 1)},
    "extra_call": {(True, 0, 0, 1)},
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_goes_with_these_outcomes_and_no_others(verdict: str) -> None:
    for asked, tools, call, valid in itertools.product((True, False), (0, 1), (0, 1), (0, 1, None)):
        outcomes = {
            "tool_accuracy": {"q": tools},
            "call_accuracy": {"q": call},
            "ast_call_accuracy": {"q": 0},
            "tool_accuracy_calls": {"q": tools} if asked else {},
            "abstention_accuracy": {} if asked else {"q": tools},
            "valid_call_rate": {} if valid is None else {"q": valid},
        }
        if (asked, tools, call, valid) in POSSIBLE[verdict]:
            _refuse_contradictions({"q": verdict}, outcomes)
        else:
            with pytest.raises(Unsound, match=f"question 'q' is {verdict}, and its outcomes say otherwise"):
                _refuse_contradictions({"q": verdict}, outcomes)


def evaluated(answers: list[tuple[list[str], Parsed]], path: Path) -> dict[str, Any]:
    """What evaluate writes of answers to questions that expect calls of these tools, without arguments."""
    scored, rows = {}, []
    for number, (names, parsed) in enumerate(answers):
        calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in names]
        tools = [{"type": "function", "function": {"name": name}} for name in dict.fromkeys(names)]
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Hello.", "tool_calls": calls}]
        record = {"id": f"q{number}", "messages": turns, "tools": tools}
        one = verdict(record, parsed, {})
        scored[record["id"]] = Answer(one, "stop", 500)
        row = {"id": record["id"], "question": f"{number}?", "expected": expected_calls(record), "calls": list(parsed.calls)}
        rows.append({**row, "verdict": one.verdict, "stop": "stop", "prompt_tokens": 500})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    summary = summarise(scored)
    return {
        "present": True,
        **dict.fromkeys(("model_digest", "test_fingerprint", "template_sha256"), "x"),
        "predictions_sha256": file_sha256(path),
        "settings": {"engine": "hf"},
        "seen_in_training": [],
        **summary,
        "tools": by_tool(summary["confusion"]),
        "untested_tools": [],
    }


@pytest.mark.parametrize("expected", [[], ["a", "b"], ["a + b"], ["no call"], ["malformed"]], ids=str)
@pytest.mark.parametrize("called", ["", " ", "no call", "malformed", "a + b", '"a"', "+"])
def test_whatever_name_a_model_calls_the_results_are_sound(expected: list[str], called: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    text = f"<tool_call>{json.dumps({'name': called, 'arguments': {}})}</tool_call>"
    results = evaluated([(expected, parse_hermes(text)), ([], Parsed((), "Hello."))], path)
    evidence = examine(results)
    assert evidence.outcomes["tool_accuracy"] == {"q0": int([called] == expected), "q1": 1}
    assert evidence.questions == dict.fromkeys(expected, 1)
    assert len(check_predictions(evidence, path)) == 2


def test_a_row_of_the_confusion_matrix_that_names_no_tools_is_not_believed(tmp_path: Path) -> None:
    results = evaluated([(["a"], Parsed(({"name": "a", "arguments": {}},), ""))], tmp_path / "predictions.jsonl")
    results["confusion"] = {"b + a +": {"b + a +": 1}}
    with pytest.raises(Unsound, match=r"expects 'b \+ a \+', which is no label of tools"):
        examine(results)
