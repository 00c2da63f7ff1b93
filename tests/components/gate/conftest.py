"""A candidate, a base model and a champion as evaluate writes them, and a gate's config that they pass."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from calltune.breakdown import by_tool
from calltune.parse import Parsed
from calltune.records import expected_calls
from calltune.score import Answer, Scored, summarise, verdict
from components.gate.config import GateConfig
from components.gate.step import Check, Decision, gate

N = 100
ABSENT = {"present": False, "which": "champion"}
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["query"]}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("search", "ticket")]

Results = dict[str, Any]


def call(name: str, limit: Any = 3) -> dict[str, Any]:
    return {"name": name, "arguments": {"query": "x", "limit": limit}}


def record(number: int) -> dict[str, Any]:
    """Of 100 questions, 20 expect no call, 10 a ticket, 70 a search."""
    expected = [] if number < 20 else [call("ticket" if number < 30 else "search")]
    answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": one} for one in expected]}
    return {"id": f"q{number}", "messages": [{"role": "user", "content": "?"}, answer], "tools": TOOLS}


def answer_of(number: int, kind: str) -> Parsed:
    expected = [one["function"] for one in record(number)["messages"][-1]["tool_calls"]]
    if kind == "right":
        return Parsed(tuple(expected), "")
    if kind == "silent":
        return Parsed((), "Hello.")
    if kind == "unreadable":
        return Parsed((), "", "cut off")
    if kind == "wrong argument":
        return Parsed(tuple(call(one["name"], 4) for one in expected), "")
    if kind == "invalid argument":
        return Parsed(tuple(call(one["name"], "many") for one in expected), "")
    return Parsed((call("ticket" if expected and expected[0]["name"] == "search" else "search"),), "")


def results(path: Path, which: str, wrong: dict[str, str], n: int = N, ways: tuple[str, ...] = ()) -> Results:
    """Results as evaluate writes them: every answer is right, but for those in `wrong` (id → kind of answer).

    Asked again in one of the `ways`, the model answers the same.
    """
    answers: dict[str, Answer] = {}
    rows: list[dict[str, Any]] = []
    for number in range(N - n, N):
        question = record(number)
        kind = wrong.get(question["id"], "right")
        parsed = answer_of(number, kind)
        scored: Scored = verdict(question, parsed, {})
        stop = "length" if kind == "unreadable" else "stop"
        answers[question["id"]] = Answer(scored, stop, 500 + number)
        expected = expected_calls(question)
        rows.append(
            {"id": question["id"], "question": f"{number}?", "text": "…", "calls": list(parsed.calls), "expected": expected}
        )
        rows[-1] |= {"verdict": scored.verdict, "reason": scored.reason, "stop": stop, "prompt_tokens": 500 + number}
        rows[-1] |= {"new_tokens": 9}
        if ways:
            said = {"calls": list(parsed.calls), "verdict": scored.verdict}
            rows[-1]["robustness"] = {way: copy.deepcopy(said) for way in ways}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    summary = summarise(answers, again={way: {id_: answer.scored for id_, answer in answers.items()} for way in ways})
    return {
        "present": True,
        "which": which,
        "model_digest": f"digest of {which}",
        "test_fingerprint": "fedcba98" * 8,
        "settings": {"max_new_tokens": 64, "engine": "hf", **({"robustness": list(ways)} if ways else {})},
        "template_sha256": "template",
        "predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "seen_in_training": None if which == "base" else [],
        "seconds": 1.5,
        **summary,
        "tools": by_tool(summary["confusion"]),
        "untested_tools": [],
    }


class Case:
    """A candidate with 90 % right, a base model that never calls, a champion with 60 % right, and a config they pass."""

    def __init__(self, folder: Path, ways: tuple[str, ...] = ()) -> None:
        self.folder, self.ways = folder, ways
        self.predictions: Path | None = None
        kinds = ["other tool", "wrong argument", "invalid argument", "unreadable", "silent"]
        self.candidate = self.make("candidate", {f"q{30 + i}": kinds[i % 5] for i in range(10)})
        self.baseline: Any = self.make("base", {f"q{i}": "silent" for i in range(20, N)})
        self.champion: Any = self.make("champion", {f"q{i}": "other tool" for i in range(30, 70)}) | {"version": "4"}
        self.config: dict[str, Any] = {
            "thresholds": {"tool_accuracy": 0.9, "valid_call_rate": 0.9},
            "over_baseline": {"tool_accuracy": 0.1},
            "against_champion": {"tool_accuracy": {"test": "better", "margin": 0.1}},
            "maximum": {"max_length_stop_rate": 0.02},
        }

    def make(self, which: str, wrong: dict[str, str], n: int = N) -> Results:
        path = self.folder / f"{which}.jsonl"
        if which == "candidate":
            self.predictions = path
        return results(path, which, wrong, n, self.ways)

    def decide(self) -> Decision:
        # From JSON, as a run has it: its texts are other objects than the constants in the code.
        config = GateConfig.model_validate_json(json.dumps(self.config))
        return gate(self.candidate, self.baseline, self.champion, config, self.predictions)


def copied(made: Case, folder: Path) -> Case:
    """The case, to be edited: what it writes goes into `folder`."""
    mine = copy.copy(made)
    mine.folder = folder
    for name in ("candidate", "baseline", "champion", "config"):
        setattr(mine, name, copy.deepcopy(getattr(made, name)))
    return mine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("evaluations"))
    assert case.decide().passed, "if it did not pass, no edit that is refused would show anything"
    return case


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    return copied(made, tmp_path)


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("asked_again"), ("rephrased", "distractor"))
    case.config["thresholds"]["tool_accuracy_rephrased"] = 0.94
    case.config["against_champion"]["tool_accuracy_distractor"] = {"test": "better", "margin": 0.1}
    assert case.decide().passed, failing(case.decide())
    return case


@pytest.fixture
def asked_again(made_again: Case, tmp_path: Path) -> Case:
    """The case whose models were asked again in two ways, with conditions on both."""
    return copied(made_again, tmp_path)


def failing(decision: Decision) -> list[Check]:
    return [check for check in decision.checks if not check.passed]


def only_failing(decision: Decision) -> Check:
    assert not decision.passed
    (check,) = failing(decision)
    return check


def named(decision: Decision, name: str) -> Check:
    (check,) = (check for check in decision.checks if check.name == name)
    return check
