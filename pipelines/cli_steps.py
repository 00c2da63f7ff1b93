"""One step by itself: the same code as in a run, from files to files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calltune.errors import UserError
from pipelines import written
from pipelines.options import Config, Dataset, OutFile, OutFolder, Overrides, Workdir

if TYPE_CHECKING:
    from pipelines.config import RunConfig

app = typer.Typer()
PANEL = "One step by itself"
NO_CHAMPION = "none"
Model = Annotated[Path, typer.Option(help="What `calltune export` wrote.", exists=True)]


class Split(StrEnum):
    """Which questions to answer."""

    test = "test"
    validation = "validation"


@app.command(rich_help_panel=PANEL)
def ingest(config: Config, out: OutFolder, set_: Overrides = [], workdir: Workdir = None) -> None:  # noqa: B006
    """Read, check and deduplicate the source: `records.jsonl`, `quarantine.jsonl`, `duplicates.jsonl`, `profile.json`, `.html`.

    Example: calltune ingest -c pipelines/recipes/helpdesk.yaml -o out/records
    """
    from pipelines.apart import require_apart
    from pipelines.config import load
    from pipelines.standalone import standalone

    settings = load(config, set_)
    require_apart("ingest", out, settings, {"-c": config})
    with standalone(settings, workdir):
        from components.ingest.step import ingest

        done = ingest(settings.ingest, out)
    left_out = f", {done.left_out} more left out by their weight" if done.left_out else ""
    print(f"{done.kept} of {done.read} rows kept, {done.quarantined} quarantined, {done.duplicates} duplicates{left_out}: {out}")


@app.command("format", rich_help_panel=PANEL)
def format_(
    config: Config,
    records: Annotated[Path, typer.Option(help="What `calltune ingest` wrote.", exists=True, file_okay=False)],
    out: OutFolder,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
) -> None:
    """Render and split the records: `train.parquet`, `validation.parquet`, `test.jsonl`, `preview.txt`, `stats.json`.

    Example: calltune format -c pipelines/recipes/helpdesk.yaml --records out/records -o out/dataset
    """
    from pipelines.apart import require_apart
    from pipelines.config import load
    from pipelines.standalone import standalone

    settings = load(config, set_)
    require_apart("format", out, settings, {"-c": config, "--records": records})
    with standalone(settings, workdir):
        from components.format.step import format_rows

        done = format_rows(records, settings.model, settings.format, out)
    print(
        f"{done.train} rows to train, {done.validation} to validate, {done.test} to test, {done.quarantined} quarantined: {out}"
    )


@app.command(rich_help_panel=PANEL)
def train(config: Config, dataset: Dataset, out: OutFolder, set_: Overrides = [], workdir: Workdir = None) -> None:  # noqa: B006
    """Train: `adapter/`, `metrics.json`, `loss.csv`. Interrupted, the same command goes on from its newest checkpoint.

    Example: calltune train -c pipelines/recipes/helpdesk.yaml --dataset out/dataset -o out/trained
    """
    from calltune import runtime
    from pipelines.apart import require_apart
    from pipelines.code import code_of
    from pipelines.config import load
    from pipelines.local import require_one_node
    from pipelines.standalone import standalone

    settings = load(config, set_)
    require_one_node(settings)
    require_apart("train", out, settings, {"-c": config, "--dataset": dataset})
    written.require_whole(dataset)
    with standalone(settings, workdir, store=True):
        from calltune import ledger
        from components.look.step import start_at
        from components.train.step import train

        champion = ""
        if settings.train.start_from == "champion":
            champion = start_at(next(reversed(ledger.entries(settings.name, settings.promote.alias)), None))
        done = train(dataset, settings.model, settings.train, out / "adapter", out, code_of(("train",))["train"], champion)
    runtime.write_json(out / written.INPUTS, {"dataset": str(dataset.resolve())})
    validated = "" if done.validation_loss is None else f", validation {done.validation_loss:.4f}"
    print(f"{done.steps} steps of {done.method} in {done.seconds:.0f} s, loss {done.train_loss:.4f}{validated}: {out}")


@app.command(rich_help_panel=PANEL)
def export(
    config: Config,
    adapter: Annotated[Path, typer.Option(help="What `calltune train` wrote.", exists=True, file_okay=False)],
    out: OutFolder,
    dataset: Annotated[Path | None, typer.Option(help="What it was trained on, if not where `calltune train` found it.")] = None,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
) -> None:
    """Merge, verify and store the model: `model/`, which plain transformers and vLLM load, `model.json`, `lora/`, an adapter by
    itself, and `gguf/` where `export.gguf` asks for it.

    Example: calltune export -c pipelines/recipes/helpdesk.yaml --adapter out/trained -o out/exported
    """
    import shutil

    from pipelines.apart import require_apart
    from pipelines.config import load
    from pipelines.standalone import standalone

    settings = load(config, set_)
    weights = written.adapter(adapter)
    rows = dataset or written.dataset_of(weights)
    require_apart("export", out, settings, {"-c": config, "--adapter": adapter, "its adapter": weights, "--dataset": rows})
    written.require_whole(rows)
    with standalone(settings, workdir, store=True):
        from calltune import models
        from components.export.step import export

        done = export(weights, rows, settings.model, settings.export, out / "model.json")
        shutil.rmtree(out / "model", ignore_errors=True)
        # A copy, because the cache's own folder must stay as its checksums say.
        shutil.copytree(models.cache_dir() / "models" / done.digest, out / "model")
        shutil.rmtree(out / "lora", ignore_errors=True)
        if done.adapter is not None:
            shutil.copytree(models.cache_dir() / "adapters" / done.digest, out / "lora")
        shutil.rmtree(out / "gguf", ignore_errors=True)
        if done.gguf is not None:
            shutil.copytree(models.cache_dir() / "gguf" / done.digest / settings.export.gguf, out / "gguf")
    agreed = f"{done.top1_agreement:.1%} of its predictions are the trained model's, KL divergence {done.kl:.1e} nats"
    print(f"model {done.digest[:12]}, {agreed}: {out / 'model'}")


@app.command(rich_help_panel=PANEL)
def evaluate(
    config: Config,
    model: Annotated[str, typer.Option(help="`base`, what `calltune export` wrote, its folder `model`, or its `model.json`.")],
    dataset: Dataset,
    out: OutFolder,
    split: Annotated[Split, typer.Option(help="Which questions; choose settings on `validation`.")] = Split.test,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
) -> None:
    """Answer held-out questions and judge the answers: `metrics.json`, `predictions.jsonl`.

    Example: calltune evaluate -c pipelines/recipes/helpdesk.yaml --model out/exported --dataset out/dataset -o out/candidate
    """
    from calltune import models, runtime
    from pipelines.apart import require_apart
    from pipelines.ask import folder_of
    from pipelines.config import load
    from pipelines.standalone import standalone

    settings = load(config, set_)
    folder = None if model == "base" else folder_of(Path(model))
    if folder is None and model != "base" and Path(model).suffix != ".json":
        raise UserError(
            f"--model {model}: neither `base`, nor a folder with {models.SERVING} in it or in its model/, nor model.json"
        )
    given = {} if model == "base" else {"--model": Path(model), "its model": folder or Path(model)}
    require_apart("evaluate", out, settings, {"-c": config, "--dataset": dataset, **given})
    written.require_whole(dataset)
    with standalone(settings, workdir, store=folder is None and model != "base"):
        from components.evaluate import step
        from components.evaluate.served import base, exported, of_folder

        if model == "base":
            served = base(settings.model, dataset)
        elif folder is not None:
            served = of_folder(models.ModelFolder(folder), {"which": "candidate"})
        else:
            served = exported(runtime.read_json(written.model_json(Path(model))), "candidate")
        questions, results = dataset / f"{split}.jsonl", (out / "metrics.json", out / "predictions.jsonl")
        done = step.evaluate(served, questions, settings.evaluate, *results)
    for name, row in {**done["metrics"], **done["suites"]}.items():
        interval = "nothing to count" if row["value"] is None else f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
        print(f"{name:<29} {interval}, n = {row['n']}")


@app.command(rich_help_panel=PANEL)
def gate(
    config: Config,
    candidate: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Its metrics.json, as `calltune evaluate` wrote it.")
    ],
    out: OutFile,
    baseline: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The base model's metrics.json.")] = None,
    champion: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its metrics.json; `none`: there is no champion yet.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Its predictions.jsonl, if not beside its metrics.json; the gate refuses without.", exists=True),
    ] = None,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Decide from the `metrics.json` of the candidate, the base model and the champion; every check with its reason.

    Exits with 0 also when it refuses: that is an answer.

    Example: calltune gate -c pipelines/recipes/helpdesk.yaml --candidate out/candidate/metrics.json
    --baseline out/base/metrics.json --champion none -o out/decision.json
    """
    import os
    import tempfile

    from calltune import runtime
    from components.gate.step import run
    from pipelines.apart import require_apart
    from pipelines.config import load

    settings = load(config, set_)
    beside = candidate.with_name("predictions.jsonl")
    answers = predictions or (beside if beside.is_file() else None)
    given = {"--candidate": candidate, "--baseline": baseline, "--champion": champion, "--predictions": answers}
    require_apart("gate", out, settings, {"-c": config, **{name: Path(file) for name, file in given.items() if file}})
    # A pass from before must not survive: nor where the data, whose age is asked for below, is gone.
    out.unlink(missing_ok=True)
    os.environ.setdefault("CALLTUNE_EVENTS", os.devnull)  # every check is printed below, not only those that fail
    if champion not in (None, NO_CHAMPION) and not Path(champion).is_file():
        raise UserError(f"--champion {champion}: no such file; `{NO_CHAMPION}` says that there is no champion yet")
    with tempfile.TemporaryDirectory() as folder:
        best = None if champion is None else Path(champion)
        if champion == NO_CHAMPION:
            best = Path(folder) / "champion.json"
            runtime.write_json(best, {"present": False})  # as evaluate says it in a run
        decision = run(candidate, baseline, best, answers, settings.gate, out, _data_age(settings))
    for check in decision.checks:
        print(f"{'✓' if check.passed else '✗'} {check.name}: {check.reason}")
    print("passed" if decision.passed else "refused")


@app.command(rich_help_panel=PANEL)
def promote(
    config: Config,
    model: Model,
    decision: Annotated[Path, typer.Option(help="What `calltune gate` wrote.", exists=True, dir_okay=False)],
    out: OutFile,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
) -> None:
    """Register the model, and promote it if the gate passed: the version, or why not.

    The source, as it is now, is recorded as what it was trained on.

    Example: calltune promote -c pipelines/recipes/helpdesk.yaml --model out/exported --decision out/decision.json
    -o out/promotion.json
    """
    from pipelines.apart import require_apart
    from pipelines.config import load
    from pipelines.standalone import standalone

    settings = load(config, set_)
    exported = written.model_json(model)
    require_apart("promote", out, settings, {"-c": config, "--model": exported, "--decision": decision})
    with standalone(settings, workdir, store=True):
        from calltune import tracking
        from components.look.config import LookConfig
        from components.look.fingerprint import of_run
        from components.promote.config import PromoteConfig
        from components.promote.step import promote

        found = of_run(LookConfig(**settings.for_step("look")))
        done = promote(exported, decision, found, PromoteConfig(**settings.for_step("promote")), out)
        tracking.end(tracking.run_of(settings.name), ok=True)
    what = f"is {done.alias}" if done.promoted else "is registered, and not promoted"
    print(f"{done.model} version {done.version} {what}: {done.reason}")


def _data_age(config: "RunConfig") -> int | None:
    """How old the data is now, in whole days; None where the gate does not ask."""
    from datetime import UTC, datetime

    from components.look.age import age_days
    from pipelines.standalone import standalone

    if not config.gate.max_data_age_days:
        return None
    with standalone(config, None):
        return age_days([part.source for part in config.ingest.sources], datetime.now(UTC))
