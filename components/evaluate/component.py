"""KFP adapter of the evaluate step: one component, called for base, candidate and champion."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def evaluate(  # type: ignore[no-untyped-def]
    which: str,
    dataset: dsl.Input[dsl.Dataset],
    config: dict,  # type: ignore[type-arg]
    code: str,
    metrics: dsl.Output[dsl.Metrics],
    predictions: dsl.Output[dsl.Dataset],
    model: dsl.Input[dsl.Artifact] = None,  # type: ignore[assignment]
    champion: str = "",
):
    """Test questions → judged answers of one model; without a model, `champion` says that there is none."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step(f"evaluate-{which}"):
        from components.evaluate.step import run

        source = Path(model.path) if model else champion
        result = run(which, source, Path(dataset.path), config, code, Path(metrics.path), Path(predictions.path))
        numbers = {**result.get("metrics", {}), **result.get("suites", {})}
        runtime.record(metrics, {name: row["value"] for name, row in numbers.items()}, write=False)
