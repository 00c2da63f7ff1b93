"""Answers to the test questions, judged: the base model, the candidate as it will be served, the present champion."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import exports, models, runtime, storage
from calltune.breakdown import by_argument, by_tool
from calltune.errors import DataError
from calltune.match import Rules
from calltune.parse import PARSERS
from calltune.records import Record, expected_calls, prompt_of, read_jsonl, sha256, user_text, write_jsonl
from calltune.render import answer_text
from calltune.score import Answer as Outcome
from calltune.score import Scored, summarise, verdict
from calltune.settings import ModelConfig
from components.evaluate import asking, engines, measuring
from components.evaluate.champion import absent, refused, unusable
from components.evaluate.config import EvaluateConfig
from components.evaluate.engines.answer import Answer
from components.evaluate.journal import Journal
from components.evaluate.questions import as_asked, fingerprint, require_rules, seen_in_training, untested
from components.evaluate.robustness import WAYS
from components.evaluate.served import Served, Unaskable, base, exported

FIRST = ""
"""How a question is asked that is not asked again: as it stands in the test set."""
SEED = 0
"""Of the questions asked again. The metrics of two models compare only if they were asked the same."""


@dataclass(frozen=True)
class Judged:
    """An answer, judged.

    Attributes:
        scored: its verdict and outcomes.
        said: what `predictions.jsonl` says of it.
    """

    scored: Scored
    said: dict[str, Any]


def run(
    which: str, source: Path | str, dataset: Path, settings: dict[str, Any], code: str, metrics: Path, predictions: Path
) -> dict[str, Any]:
    """Evaluate one of the three models on the test questions.

    Args:
        which: `base`, `candidate` or `champion`.
        source: the candidate's `model.json`; for the champion the JSON that look found, empty where there is none. One whose
            files are gone or damaged, or who cannot be asked as the others are, is no error: the result says so, and the gate
            refuses.
        dataset: what format wrote.
        settings: of the step, and the base `model`.
        code: what the step's code is: another code, and earlier results do not count.
        metrics: gets `metrics.json`.
        predictions: gets `predictions.jsonl`.
    """
    model, config = ModelConfig(**settings["model"]), EvaluateConfig(**{k: v for k, v in settings.items() if k != "model"})
    if which == "base":
        served = base(model, dataset)
    elif isinstance(source, Path):
        served = exported(runtime.read_json(source), which)
    elif source:
        champion = json.loads(source)
        try:
            served = exported(champion, which)
        except exports.Damaged as error:
            return unusable(champion, error, metrics, predictions)
    else:
        return absent(metrics, predictions)
    try:
        return _kept(served, dataset / "test.jsonl", decided(config, which), code, metrics, predictions)
    except Unaskable as error:
        if which != "champion":
            raise
        return refused(served.identity["version"], served.folder.digest, error, metrics, predictions)


def _kept(served: Served, test: Path, config: EvaluateConfig, code: str, metrics: Path, predictions: Path) -> dict[str, Any]:
    """What an earlier run measured, or else is measured now and kept."""
    key = _key(served, test, config, code)
    place = f"evaluations/{key}"
    earlier = _earlier(place, served, test, config, code, metrics, predictions)
    if earlier is not None:
        return earlier
    store = storage.of_run()
    file = models.cache_dir() / "evaluations" / f"{key}.jsonl"
    journal = Journal(store, f"{place}/answers", file, f"evaluate {served.identity['which']}")
    result = evaluate(served, test, config, metrics, predictions, journal, code)
    store.upload(predictions, f"{place}/predictions.jsonl")
    store.put_json(f"{place}/metrics.json", result)  # last: with it, the result is whole
    journal.remove()
    return result


def decided(config: EvaluateConfig, which: str) -> EvaluateConfig:
    """The settings with the engine that `auto` means here: the one that `metrics.json` names, and that results are kept under.

    Raises:
        ConfigError: the engine cannot run here.
    """
    engine, why = engines.chosen(config.engine)
    if config.engine == "auto":
        runtime.note(f"evaluate {which}: engine auto: {engine}, since {why}")
    return config.model_copy(update={"engine": engine})


def _key(served: Served, test: Path, config: EvaluateConfig, code: str) -> str:
    # Without the suites, which are kept by themselves: one more of them is no reason to ask every question again.
    settings = config.model_dump(mode="json", exclude=set(config.suites))
    questions = as_asked(read_jsonl(test))
    return sha256([served.folder.digest, served.tokenizer.chat_template, questions, settings, engines.device(), code])


def _earlier(
    place: str, served: Served, test: Path, config: EvaluateConfig, code: str, metrics: Path, predictions: Path
) -> dict[str, Any] | None:
    """What an earlier run measured of the same model on the same questions: today's champion was a candidate once."""
    store = storage.of_run()
    found, answers = store.get_json(f"{place}/metrics.json"), store.get(f"{place}/predictions.jsonl")
    if found is None or answers is None or hashlib.sha256(answers).hexdigest() != found["predictions_sha256"]:
        return None
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_bytes(answers)
    runtime.note(f"evaluate {served.identity['which']}: measured before on the same questions with the same settings")
    found.pop("version", None)
    # What counts as seen is another thing for a champion than it was for the candidate.
    seen = seen_in_training(served.folder.path, list(read_jsonl(test)), served.identity["which"])
    result = {**found, **served.identity, "seen_in_training": seen, **_beside(served, config, code, predictions.parent)}
    runtime.write_json(metrics, result)
    return result


def _beside(served: Served, config: EvaluateConfig, code: str, folder: Path) -> dict[str, Any]:
    """The part of `metrics.json` that the suites have in it."""
    settings = measuring.recorded(config)
    return {
        "settings": {**settings, "device": engines.device()},
        "suites": measuring.measured(served, config, code, folder, settings),
        "rows": measuring.rows_at(served, config, code, folder, settings),
    }


def evaluate(
    served: Served,
    test: Path,
    config: EvaluateConfig,
    metrics: Path,
    predictions: Path,
    journal: Journal | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Measure what the config asks for beside the questions; then answer every question and judge the answers.

    Args:
        served: the model.
        test: the records, `test.jsonl` or `validation.jsonl` of what format wrote.
        config: the step's settings.
        metrics: gets `metrics.json` as docs/metrics.md describes it.
        predictions: gets one JSON object a question.
        journal: of the answers as they come, and of those that an earlier try has given; None to begin anew.
        code: what the step's code is; empty: results of suites are neither kept in the store nor taken from there.

    Raises:
        DataError: there is no question, or one that the model's chat template does not take, or answers are to be constrained,
            and the model's call syntax has no grammar.
        ConfigError: a match rule names an argument that no tool of that name has, the engine cannot run here, or answers are
            to be constrained, and a tool's schema has no grammar.
    """
    started = time.monotonic()
    config = decided(config, served.identity["which"])
    records = list(read_jsonl(test))
    if not records:
        raise DataError(f"{test}: no questions to evaluate with")
    require_rules(config.arguments, records)
    asked: dict[str, list[Record]] = {FIRST: records}
    for again in config.robustness:
        asked[again] = WAYS[again](records, SEED)
    prompts = {
        way: [served.prompt(prompt_of(record), record["tools"], f"question {record['id']}") for record in questions]
        for way, questions in asked.items()
    }
    grammars = asking.grammars_of(served, asked) if config.decoding == "tools" else {}
    # Before the answers: vLLM takes most of a GPU's memory for itself, and leaves none to whoever comes after it.
    beside = _beside(served, config, code, predictions.parent)
    judged: dict[str, dict[str, Judged]] = {way: {} for way in asked}
    answers = asking.answers(served, asked, prompts, grammars, config.engine, config.max_new_tokens, journal)
    total = len(records) * len(asked)
    for way, answer in runtime.tracked(answers, f"evaluate {served.identity['which']}", total, "questions"):
        record = asked[way][answer.row]
        judged[way][record["id"]] = judge(served, record, answer, len(prompts[way][answer.row]), config.arguments)
    first = {record["id"]: judged[FIRST][record["id"]] for record in records}
    write_jsonl(predictions, (_row(record, judged) for record in records))
    summary = summarise(
        {id_: Outcome(one.scored, one.said["stop"], one.said["prompt_tokens"]) for id_, one in first.items()},
        again={way: {record["id"]: judged[way][record["id"]].scored for record in records} for way in config.robustness},
    )
    result = {
        "present": True,
        **served.identity,
        "model_digest": served.folder.digest,
        "test_fingerprint": fingerprint(records),
        "template_sha256": sha256(served.tokenizer.chat_template),
        "predictions_sha256": models.file_sha256(predictions),
        "seen_in_training": seen_in_training(served.folder.path, records, served.identity["which"]),
        **summary,
        "tools": by_tool(summary["confusion"]),
        "untested_tools": untested(records),
        "arguments": by_argument([(record, first[record["id"]].said["calls"]) for record in records], config.arguments),
        **beside,
        "seconds": round(time.monotonic() - started, 2),
    }
    runtime.write_json(metrics, result)
    return result


def judge(served: Served, record: Record, answer: Answer, prompt_tokens: int, rules: Rules) -> Judged:
    """Read one answer and judge it."""
    text = answer_text(served.tokenizer, answer.ids, served.stop_ids)
    parsed = PARSERS[served.syntax](text)
    scored = verdict(record, parsed, rules)
    return Judged(
        scored,
        {
            "question": user_text(record),
            "text": text,
            "calls": list(parsed.calls),
            "verdict": scored.verdict,
            "reason": scored.reason,
            "stop": "stop" if answer.stopped else "length",
            "prompt_tokens": prompt_tokens,
            "new_tokens": len(answer.ids),
        },
    )


def _row(record: Record, judged: Mapping[str, Mapping[str, Judged]]) -> dict[str, Any]:
    """A question's line in `predictions.jsonl`; what was said where it was asked again is below `robustness`."""
    id_ = record["id"]
    row = {"id": id_, "expected": expected_calls(record), **judged[FIRST][id_].said}
    again = {way: answers[id_].said for way, answers in judged.items() if way != FIRST}
    return {**row, "robustness": again} if again else row
