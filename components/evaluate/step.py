"""Answers to the test questions, judged: the base model, the candidate as it will be served, the present champion."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import exports, models, runtime, storage
from calltune.errors import DataError
from calltune.parse import PARSERS
from calltune.records import Record, expected_calls, prompt_of, read_jsonl, sha256, user_text, write_jsonl
from calltune.render import Renderer, answer_text, prompt_ids
from calltune.score import Answer, check_rules, summarise, verdict
from calltune.settings import ModelConfig
from calltune.template import template_in
from components.evaluate import hf
from components.evaluate.config import EvaluateConfig


@dataclass(frozen=True)
class Served:
    """A model with what it is served with.

    Attributes:
        folder: its weights.
        tokenizer: with its chat template.
        syntax: how that template writes calls.
        stop_ids: what ends its answers.
        identity: what `metrics.json` says of it.
    """

    folder: models.ModelFolder
    tokenizer: Any
    syntax: str
    stop_ids: list[int]
    identity: dict[str, Any]


def base(model: ModelConfig, dataset: Path) -> Served:
    """The unmodified base model, with the template that the candidate was trained with: the prompts are the same."""
    folder = models.fetch(model)
    tokenizer = models.tokenizer(folder.path)
    template = template_in(runtime.read_json(dataset / "stats.json"))
    renderer = Renderer(tokenizer, template)
    return Served(folder, tokenizer, template.syntax, renderer.stop_ids, {"which": "base"})


def exported(model: dict[str, Any], which: str) -> Served:
    """An exported model, fetched from the store."""
    identity = {"which": which, **({"version": model["version"]} if "version" in model else {})}
    return of_folder(exports.fetch(model), identity)


def of_folder(folder: models.ModelFolder, identity: dict[str, Any]) -> Served:
    """An exported model where it lies, with the template, the stop tokens and the call syntax in its own folder.

    Raises:
        UserError: the folder is not an exported model.
    """
    syntax = runtime.read_json(folder.path / models.SERVING)["syntax"]
    return Served(folder, models.tokenizer(folder.path), syntax, models.stop_ids(folder.path), identity)


def run(
    which: str, source: Path | str, dataset: Path, settings: dict[str, Any], code: str, metrics: Path, predictions: Path
) -> dict[str, Any]:
    """Evaluate one of the three models on the test questions.

    Args:
        which: `base`, `candidate` or `champion`.
        source: the candidate's `model.json`; for the champion the JSON that look found, empty where there is none.
        dataset: what format wrote.
        settings: of the step, and the base `model`.
        code: what the step's code is: another code, and earlier results do not count.
        metrics: gets `metrics.json`.
        predictions: gets `predictions.jsonl`.
    """
    model, config = ModelConfig(**settings["model"]), EvaluateConfig(**{k: v for k, v in settings.items() if k != "model"})
    if which == "base":
        served = base(model, dataset)
    elif source:
        served = exported(runtime.read_json(source) if isinstance(source, Path) else json.loads(source), which)
    else:
        return absent(which, metrics, predictions)
    test = dataset / "test.jsonl"
    place = f"evaluations/{_key(served, test, config, code)}"
    earlier = _earlier(place, served, metrics, predictions)
    if earlier is not None:
        return earlier
    result = evaluate(served, test, config, metrics, predictions)
    store = storage.of_run()
    store.upload(predictions, f"{place}/predictions.jsonl")
    store.put_json(f"{place}/metrics.json", result)  # last: with it, the result is whole
    return result


def _key(served: Served, test: Path, config: EvaluateConfig, code: str) -> str:
    template = served.tokenizer.chat_template
    return sha256([served.folder.digest, template, models.file_sha256(test), config.model_dump(mode="json"), code])


def _earlier(place: str, served: Served, metrics: Path, predictions: Path) -> dict[str, Any] | None:
    """What an earlier run measured of the same model on the same questions: today's champion was a candidate once."""
    store = storage.of_run()
    found, answers = store.get_json(f"{place}/metrics.json"), store.get(f"{place}/predictions.jsonl")
    if found is None or answers is None or hashlib.sha256(answers).hexdigest() != found["predictions_sha256"]:
        return None
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_bytes(answers)
    runtime.note(f"evaluate {served.identity['which']}: measured before on the same questions with the same settings")
    found.pop("version", None)
    result = {**found, **served.identity}
    runtime.write_json(metrics, result)
    return result


def evaluate(served: Served, test: Path, config: EvaluateConfig, metrics: Path, predictions: Path) -> dict[str, Any]:
    """Answer every question and judge the answers.

    Args:
        served: the model.
        test: the records, `test.jsonl` or `validation.jsonl` of what format wrote.
        config: the step's settings.
        metrics: gets `metrics.json` as docs/metrics.md describes it.
        predictions: gets one JSON object a question.

    Raises:
        DataError: there is no question, or a match rule names no argument of the tools.
    """
    started = time.monotonic()
    records = list(read_jsonl(test))
    if not records:
        raise DataError(f"{test}: no questions to evaluate with")
    for record in records:
        check_rules({rule: how for rule, how in config.arguments.items() if _concerns(rule, record)}, record["tools"])
    prompts = [prompt_ids(served.tokenizer, prompt_of(record), record["tools"]) for record in records]
    name = f"evaluate {served.identity['which']}"
    generated = hf.answers(hf.load(served.folder.path), prompts, served.stop_ids, config.max_new_tokens)
    rows: dict[str, dict[str, Any]] = {}
    answers: dict[str, Answer] = {}
    for answer in runtime.tracked(generated, name, len(records), "questions"):
        record = records[answer.row]
        text = answer_text(served.tokenizer, answer.ids, served.stop_ids)
        parsed = PARSERS[served.syntax](text)
        scored = verdict(record, parsed, config.arguments)
        stop = "stop" if answer.stopped else "length"
        answers[record["id"]] = Answer(scored, stop, len(prompts[answer.row]))
        rows[record["id"]] = {
            "id": record["id"],
            "question": user_text(record),
            "text": text,
            "calls": list(parsed.calls),
            "expected": expected_calls(record),
            "verdict": scored.verdict,
            "reason": scored.reason,
            "stop": stop,
            "prompt_tokens": len(prompts[answer.row]),
            "new_tokens": len(answer.ids),
        }
    write_jsonl(predictions, (rows[record["id"]] for record in records))
    result = {
        "present": True,
        **served.identity,
        "model_digest": served.folder.digest,
        "test_fingerprint": test_fingerprint(records),
        "settings": {"engine": "hf", "max_new_tokens": config.max_new_tokens, "arguments": config.arguments},
        "template_sha256": sha256(served.tokenizer.chat_template),
        "predictions_sha256": models.file_sha256(predictions),
        **summarise({record["id"]: answers[record["id"]] for record in records}),
        "seconds": round(time.monotonic() - started, 2),
    }
    runtime.write_json(metrics, result)
    return result


def absent(which: str, metrics: Path, predictions: Path) -> dict[str, Any]:
    """Say that there is no such model: a first run has no champion."""
    write_jsonl(predictions, [])
    result = {"present": False, "which": which}
    runtime.write_json(metrics, result)
    return result


def test_fingerprint(records: Sequence[Record]) -> str:
    """SHA-256 of the questions, their tools and what is expected: two evaluations compare only where it is equal."""
    return sha256(sorted(sha256({k: r.get(k) for k in ("id", "messages", "tools", "expected")}) for r in records))


def _concerns(rule: str, record: Record) -> bool:
    return any(rule.split(".")[0] == tool["function"]["name"] for tool in record["tools"])
