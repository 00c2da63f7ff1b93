"""KFP adapter of the report step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def report(  # type: ignore[no-untyped-def]
    records: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    training: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    base: dsl.Input[dsl.Metrics],
    candidate: dsl.Input[dsl.Metrics],
    champion: dsl.Input[dsl.Metrics],
    base_predictions: dsl.Input[dsl.Dataset],
    candidate_predictions: dsl.Input[dsl.Dataset],
    decision: dsl.Input[dsl.Artifact],
    promotion: dsl.Input[dsl.Artifact],
    fingerprint: str,
    config: dict,  # type: ignore[type-arg]
    code: str,
    page: dsl.Output[dsl.HTML],
):
    """Everything → `summary.json` in the store and the HTML report. Never cached."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("report"):
        from components.report.config import ReportConfig
        from components.report.step import Inputs, report

        metrics = {"base": Path(base.path), "candidate": Path(candidate.path), "champion": Path(champion.path)}
        predictions = {"base": Path(base_predictions.path), "candidate": Path(candidate_predictions.path)}
        before = (Path(records.path), Path(dataset.path), Path(training.path), Path(model.path))
        inputs = Inputs(*before, metrics, predictions, Path(decision.path), Path(promotion.path))
        report(inputs, fingerprint, ReportConfig(**config), Path(page.path))
