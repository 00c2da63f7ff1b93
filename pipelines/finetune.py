"""The DAG: one line for each step, nothing else. Where a step runs is in placement.py, what it does in components/."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.export.component import export
from components.format.component import format_
from components.gate.component import gate
from components.ingest.component import ingest
from components.look.component import due, look
from components.notify.component import notify
from components.promote.component import promote
from components.report.component import report
from components.train.component import train
from pipelines.config import RunConfig
from pipelines.placement import placed

STEPS = ("look", "ingest", "format", "train", "export", "evaluate", "gate", "promote", "report", "notify")


def build(config: RunConfig, code: Mapping[str, str], on_cluster: bool = True) -> Any:
    """The pipeline. The steps' settings are its parameters, with the config's values as defaults.

    Args:
        config: of the run.
        code: for each step what its cache key says of its code: locally a hash of its sources, in a cluster the image.
        on_cluster: false for a run on this machine, where Kubernetes adds nothing to the tasks.
    """
    steps = {step: config.for_step(step) for step in STEPS}

    def place(task: dsl.PipelineTask, step: str, cached: bool = True) -> dsl.PipelineTask:
        return placed(task, step, config, cached, on_cluster)

    @dsl.pipeline(name="calltune-finetune", description=f"Fine-tune and promote {config.name}")
    def finetune(
        look_config: dict = steps["look"],  # type: ignore[type-arg]
        ingest_config: dict = steps["ingest"],  # type: ignore[type-arg]
        format_config: dict = steps["format"],  # type: ignore[type-arg]
        train_config: dict = steps["train"],  # type: ignore[type-arg]
        export_config: dict = steps["export"],  # type: ignore[type-arg]
        evaluate_config: dict = steps["evaluate"],  # type: ignore[type-arg]
        gate_config: dict = steps["gate"],  # type: ignore[type-arg]
        promote_config: dict = steps["promote"],  # type: ignore[type-arg]
        report_config: dict = steps["report"],  # type: ignore[type-arg]
        notify_config: dict = steps["notify"],  # type: ignore[type-arg]
    ) -> None:
        told = place(notify(config=notify_config, code=code["notify"]), "notify", cached=False)
        with dsl.ExitHandler(told):
            seen = place(look(config=look_config, code=code["look"]), "look", cached=False)
            go = place(due(reason=seen.outputs["reason"]), "due", cached=False)
            with dsl.If(go.output == True, name="due"):  # noqa: E712
                print_ = seen.outputs["fingerprint"]
                data = place(ingest(config=ingest_config, fingerprint=print_, code=code["ingest"]), "ingest")
                rows = place(format_(records=data.outputs["records"], config=format_config, code=code["format"]), "format")
                dataset = rows.outputs["dataset"]
                tuned = place(
                    train(dataset=dataset, config=train_config, champion=seen.outputs["start"], code=code["train"]), "train"
                )
                adapter = tuned.outputs["adapter"]
                made = place(export(adapter=adapter, dataset=dataset, config=export_config, code=code["export"]), "export")
                model = made.outputs["model"]
                judge = {"dataset": dataset, "config": evaluate_config, "code": code["evaluate"]}
                base = place(evaluate(which="base", **judge), "evaluate")
                candidate = place(evaluate(which="candidate", model=model, **judge), "evaluate")
                champion = place(evaluate(which="champion", champion=seen.outputs["champion"], **judge), "evaluate")
                if not on_cluster:
                    # One step at a time there, in an order that changes from run to run: training, which can take hours and
                    # says how long, is not to wait for evaluations that need none of it.
                    base.after(made)
                    champion.after(made)
                results = {"base": base.outputs["metrics"], "champion": champion.outputs["metrics"]}
                results |= {"candidate": candidate.outputs["metrics"]}
                answers = candidate.outputs["predictions"]
                judged = gate(
                    predictions=answers,
                    data_age_days=seen.outputs["data_age_days"],
                    config=gate_config,
                    code=code["gate"],
                    **results,
                )
                verdict = place(judged, "gate")
                decision = verdict.outputs["decision"]
                moved = promote(model=model, decision=decision, fingerprint=print_, config=promote_config, code=code["promote"])
                place(moved, "promote", cached=False)
                told_all = report(
                    records=data.outputs["records"],
                    dataset=dataset,
                    training=tuned.outputs["training"],
                    model=model,
                    base_predictions=base.outputs["predictions"],
                    candidate_predictions=answers,
                    decision=decision,
                    promotion=moved.outputs["promotion"],
                    fingerprint=print_,
                    config=report_config,
                    code=code["report"],
                    **results,
                )
                place(told_all, "report", cached=False)

    return finetune
