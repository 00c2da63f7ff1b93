"""Are the predictions the ones that the results were made of, and do they tell the same story?

The rows have the calls and what was expected, so that most of each outcome can be judged again; what only the tools'
schemas can tell, they cannot.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from calltune.errors import DataError
from calltune.match import answer_matches
from calltune.metrics import NO_CALL, ROBUSTNESS, UNREADABLE, VERDICTS, label_of
from calltune.records import canonical, read_jsonl
from components.gate.evidence import Evidence, Unsound, close

Different = dict[str, frozenset[str]]
"""The questions of which none is a copy of another: id of the first of each → the tools that it expects."""


def check_predictions(evidence: Evidence, path: Path) -> Different:
    """Check that the predictions are the ones that the results were made of.

    Returns:
        The different questions: one that is copied under other ids, whatever its case and spaces, is still one.

    Raises:
        Unsound: the file is absent, has another SHA-256, or says something else than the results.
    """
    try:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise Unsound(f"the predictions cannot be read: {error.strerror}") from None
    if found != evidence.predictions:
        raise Unsound(f"the predictions have SHA-256 {found[:12]}…, recorded is {evidence.predictions[:12]}…")
    try:
        rows = list(read_jsonl(path))
        json.dumps(rows, ensure_ascii=False).encode()  # a reason may quote them, and half of a surrogate pair is no text
        if Counter(row["id"] for row in rows) != Counter(evidence.verdicts.keys()):
            raise Unsound("the predictions are not of the questions that have a verdict, each once")
        for row in rows:
            _refuse_other_story(row, evidence)
        expected = Counter(tool for row in rows for tool in {call["name"] for call in row["expected"]})
        if Counter(evidence.questions) != expected:
            raise Unsound("the predictions expect other tools than the confusion matrix")
        tokens = sum(row["prompt_tokens"] for row in rows) / len(rows)
    except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unsound(f"the predictions are not what evaluate writes: {type(error).__name__}: {error}") from None
    if not close(evidence.estimates["prompt_tokens_mean"].value, tokens):
        raise Unsound(f"prompt_tokens_mean does not follow from the predictions, whose mean is {tokens:.1f}")
    first = {canonical([_spelt_alike(row.get("question")), row["expected"]]): row for row in reversed(rows)}
    return {row["id"]: frozenset(call["name"] for call in row["expected"]) for row in first.values()}


def _spelt_alike(question: Any) -> Any:
    return " ".join(question.lower().split()) if isinstance(question, str) else question


def _refuse_other_story(row: dict[str, Any], evidence: Evidence) -> None:
    id_ = row["id"]
    _refuse_other_answers_again(row, evidence)
    if row["verdict"] != evidence.verdicts[id_]:
        raise Unsound(f"question {id_!r} is {row['verdict']} in the predictions and {evidence.verdicts[id_]} in the results")
    if int(row["stop"] == "length") != evidence.outcomes["max_length_stop_rate"][id_]:
        raise Unsound(f"question {id_!r} does not end in the predictions as max_length_stop_rate says")
    expected, called = (label_of([call["name"] for call in row[key]]) for key in ("expected", "calls"))
    same_tools, recorded = int(expected == called), evidence.outcomes["tool_accuracy"][id_]
    # An answer that nobody can read to its end is wrong, even if the calls before that are the expected ones.
    if same_tools != recorded and not (row["verdict"] == UNREADABLE and recorded == 0):
        raise Unsound(f"question {id_!r} calls other tools in the predictions than tool_accuracy says")
    if (expected == NO_CALL) != (id_ in evidence.outcomes["abstention_accuracy"]):
        raise Unsound(f"question {id_!r} expects another answer in the predictions than in the results")
    if row["verdict"] != UNREADABLE:
        _refuse_other_match(row, evidence)


def _refuse_other_answers_again(row: dict[str, Any], evidence: Evidence) -> None:
    """Hold what was said where the question was asked again against the metric of that way."""
    id_, again = row["id"], row.get("robustness", {})
    if again.keys() != set(evidence.robustness):
        raise Unsound(f"question {id_!r} was asked again in other ways in the predictions than the settings say")
    expected = label_of([call["name"] for call in row["expected"]])
    for way, said in again.items():
        same_tools = int(expected == label_of([call["name"] for call in said["calls"]]))
        recorded = evidence.outcomes[ROBUSTNESS[way]][id_]
        if said["verdict"] not in VERDICTS or (same_tools != recorded and not (said["verdict"] == UNREADABLE and recorded == 0)):
            raise Unsound(f"question {id_!r} calls other tools in the predictions than {ROBUSTNESS[way]} says")


def _refuse_other_match(row: dict[str, Any], evidence: Evidence) -> None:
    """Refuse outcomes that the calls cannot have had, whatever the tools' schemas and the match rules were."""
    id_, calls, expected, outcomes = row["id"], row["calls"], row["expected"], evidence.outcomes
    if bool(calls) != (id_ in outcomes["valid_call_rate"]):
        raise Unsound(f"question {id_!r} is counted in valid_call_rate other than its calls in the predictions say")
    # Whether the accepted values are an assistant's own is not in the row: one reading of them is enough.
    strict = any(answer_matches(calls, expected, [], None, literal) for literal in (True, False))
    if outcomes["ast_call_accuracy"][id_] and not strict:
        raise Unsound(f"question {id_!r} has other arguments in the predictions than ast_call_accuracy says")
    lenient = {f"{gold['name']}.{argument}": "any" for gold in expected for argument in gold["arguments"]}
    loose = any(answer_matches(calls, expected, [], lenient, literal) for literal in (True, False))
    if outcomes["call_accuracy"][id_] and not loose:
        raise Unsound(f"question {id_!r} has other arguments in the predictions than call_accuracy says")
