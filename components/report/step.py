"""The run's summary and its HTML report: written to the store and to MLflow."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from calltune import runtime, storage, tracking
from calltune.drift import NO_CALL
from calltune.records import read_jsonl
from components.report.config import ReportConfig
from components.report.page import Material, render

LIBRARIES = ("calltune", "torch", "transformers", "trl", "peft", "bitsandbytes", "kfp", "mlflow")
CACHEABLE = ("ingest", "format", "train", "export", "evaluate-base", "evaluate-candidate", "evaluate-champion", "gate")
CHECK = ("name", "passed", "observed", "required", "reason")


@dataclass(frozen=True)
class Inputs:
    """What the steps before wrote.

    Attributes:
        records: folder of ingest.
        dataset: folder of format.
        training: folder of train, without the adapter: `metrics.json` and `loss.csv`.
        model: `model.json` of export.
        metrics: `metrics.json` of base, candidate and champion, by name.
        predictions: `predictions.jsonl` of base and candidate, by name.
        decision: of gate.
        promotion: of promote.
    """

    records: Path
    dataset: Path
    training: Path
    model: Path
    metrics: dict[str, Path]
    predictions: dict[str, Path]
    decision: Path
    promotion: Path


def report(inputs: Inputs, fingerprint: str, config: ReportConfig, page: Path) -> dict[str, Any]:
    """Write `summary.json` and the report; returns the summary.

    Args:
        inputs: files of the steps before.
        fingerprint: of data, tools and base model, as look found it.
        config: the step's settings.
        page: gets the HTML.
    """
    profile = runtime.read_json(inputs.records / "profile.json")
    stats = runtime.read_json(inputs.dataset / "stats.json")
    trained = runtime.read_json(inputs.training / "metrics.json")
    if config.price_per_hour:
        trained["price"] = config.price_per_hour * trained["seconds"] / 3600
    with (inputs.training / "loss.csv").open(encoding="utf-8") as file:
        loss = list(csv.DictReader(file))
    measured = {which: runtime.read_json(path) for which, path in inputs.metrics.items()}
    decision, promotion = runtime.read_json(inputs.decision), runtime.read_json(inputs.promotion)
    exported = runtime.read_json(inputs.model)
    store, place = storage.of_run(), f"runs/{runtime.run_id()}"
    summary = {
        "run_id": runtime.run_id(),
        "outcome": "promoted" if promotion["promoted"] else "refused",
        "reason": promotion["reason"],
        "config_sha256": config.config_sha256,
        "dataset": {
            "fingerprint": fingerprint,
            "read": profile["read"],
            "kept": profile["kept"] - stats["quarantined"],
            "quarantined": profile["quarantined"] + stats["quarantined"],
            "duplicates": profile["duplicates"],
            **{key: stats[key] for key in ("train", "validation", "test")},
        },
        "baseline": measured["base"]["metrics"],
        "candidate": measured["candidate"]["metrics"],
        "champion": measured["champion"].get("metrics"),
        "gate": {"passed": decision["passed"], "checks": [{key: check[key] for key in CHECK} for check in decision["checks"]]},
        "promoted": _promoted(promotion) if promotion["promoted"] else None,
        "steps": _steps(store, place),
        "artifacts": {
            "adapter": exported["adapter"],
            **({"gguf": exported["gguf"]} if exported["gguf"] else {}),
            "model": exported["uri"],
            "report": f"{store.uri}/{place}/report.html",
            "predictions": f"{store.uri}/{place}/predictions.jsonl",
        },
    }
    material = Material(
        summary=summary,
        profile=profile,
        stats=stats,
        train=trained,
        loss=loss,
        base=measured["base"],
        candidate=measured["candidate"],
        champion=measured["champion"],
        base_predictions=list(read_jsonl(inputs.predictions["base"])),
        candidate_predictions=list(read_jsonl(inputs.predictions["candidate"])),
        decision=decision,
        promotion=promotion,
        notes=[
            f"Dialect {profile['dialect']}: {profile['dialect_reason']}.",
            f"Template {stats['template']}: {stats['template_reason']}.",
            f"Training: {trained['reason']}.",
        ],
        versions=versions(LIBRARIES),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    with runtime.phase("write the report"):
        page.write_text(render(material), encoding="utf-8")
        store.upload(page, f"{place}/report.html")
        store.upload(inputs.predictions["candidate"], f"{place}/predictions.jsonl")
    with runtime.phase("log to MLflow"):
        _track(config.name, material, page, inputs)
    # What `look` will compare recent questions with, as long as this model is the champion.
    called = {**profile["tools"], NO_CALL: profile["calls_per_row"].get("0", 0)}
    store.put_json(f"profiles/{fingerprint}.json", {"tools": called, "lengths": profile["lengths"]})
    # Last, because a run with a summary is a run that has ended well.
    store.put_json(f"{place}/summary.json", summary)
    return summary


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Which versions of the libraries there are here; in a cluster report's image has none of those that only train."""
    found = {}
    for library in libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def _promoted(promotion: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: None if promotion[key] is None else int(promotion[key]) for key in ("version", "previous")}
    return {key: promotion[key] for key in ("model", "version", "alias", "previous", "unchanged")} | numbers


def _steps(store: storage.Store, place: str) -> list[dict[str, Any]]:
    ran = {record["name"]: record for record in (store.get_json(key) for key in store.list(f"{place}/steps/"))}
    cached = [{"name": name, "seconds": 0.0, "peak_rss_mib": 0, "error": None} for name in CACHEABLE if name not in ran]
    order = ["look", *CACHEABLE, "promote"]
    rows = sorted([*ran.values(), *cached], key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    return [{**{key: row[key] for key in ("name", "seconds", "peak_rss_mib")}, "cached": row["name"] not in ran} for row in rows]


def _track(name: str, material: Material, page: Path, inputs: Inputs) -> None:
    run = tracking.run_of(name)
    numbers = {
        f"{which}.{metric}": row["value"]
        for which, results in (("base", material.base), ("candidate", material.candidate))
        for metric, row in {**results["metrics"], **results.get("suites", {})}.items()
    }
    tracking.log(
        run,
        metrics=runtime.finite({**numbers, **{f"train.{key}": value for key, value in material.train.items()}}),
        curve=material.loss,
        tags={"outcome": str(material.summary["outcome"]), "config_sha256": material.summary["config_sha256"]},
        files={"report.html": page, "predictions.jsonl": inputs.predictions["candidate"], "decision.json": inputs.decision},
    )
    tracking.end(run, ok=True)
