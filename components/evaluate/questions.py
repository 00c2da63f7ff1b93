"""What is said of the test questions themselves: which they are, whether training saw them, and whether the match rules fit."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from calltune import models, runtime
from calltune.match import Rules
from calltune.records import PHRASE, TURN, Record, asked_sha256, expected_calls, question_sha256, sha256
from calltune.score import check_rules, rules_without_tool


def require_rules(rules: Rules, records: Sequence[Record]) -> None:
    """Make sure that each match rule names an argument of a tool; of a tool that the questions do not have it is only said.

    Raises:
        ConfigError: a tool of that name has no such argument.
    """
    tools = [tool for record in records for tool in record["tools"]]
    # Rows may bring their own tools, and those with this one may all be in the training part: that is no mistake of the config.
    without = rules_without_tool(rules, tools)
    for argument in without:
        runtime.note(f"evaluate.arguments: {argument!r} names no tool of the test questions, and has no effect")
    check_rules({argument: rule for argument, rule in rules.items() if argument not in without}, tools)


def seen_in_training(folder: Path, records: Sequence[Record], which: str) -> list[str] | None:
    """Ids of the questions that the model was trained on; None where its folder does not say what that was."""
    if not (folder / models.TRAINED_ON).is_file():
        return None
    listed = set(runtime.read_json(folder / models.TRAINED_ON))
    if which == "champion":
        # Its conversations' later turns may be what a new row asks first. No split keeps such a row out of the test, and the
        # gate would refuse for ever, while that champion is only harder to beat.
        return [record["id"] for record in records if question_sha256(record) in listed]
    learnt = {one.removeprefix(TURN) for one in listed}
    return [record["id"] for record in records if asked_sha256(record) & learnt or PHRASE + question_sha256(record) in listed]


def untested(records: Sequence[Record]) -> list[str]:
    """Names of the tools that the questions offer and none of them expects: nobody has measured whether they are called."""
    offered = {tool["function"]["name"] for record in records for tool in record["tools"]}
    return sorted(offered - {call["name"] for record in records for call in expected_calls(record)})


def fingerprint(records: Sequence[Record]) -> str:
    """SHA-256 of the questions, their tools and what is expected: two evaluations compare only where it is equal."""
    return sha256(sorted(sha256({k: r.get(k) for k in ("id", "messages", "tools", "expected")}) for r in records))


def as_asked(records: Iterable[Record]) -> str:
    """SHA-256 of the questions, to the letter and in order, without where they come from, which changes as data is added."""
    return sha256([json.dumps({key: value for key, value in record.items() if key != "source"}) for record in records])
