"""Which outcomes can go with which verdict: every combination, against a list written out by hand."""

import itertools

import pytest

from calltune.metrics import VERDICTS
from components.gate.evidence import Unsound, _refuse_contradictions

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
