"""KFP adapter of the gate step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def gate(  # type: ignore[no-untyped-def]
    candidate: dsl.Input[dsl.Metrics],
    predictions: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Metrics],
    champion: dsl.Input[dsl.Metrics],
    data_age_days: str,
    config: dict,  # type: ignore[type-arg]
    code: str,
    decision: dsl.Output[dsl.Artifact],
):
    """Measurements → the decision, every check with its reason."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("gate"):
        from components.gate.config import GateConfig
        from components.gate.step import run

        measured = (Path(candidate.path), Path(base.path), Path(champion.path))
        age = int(data_age_days) if data_age_days else None
        run(*measured, Path(predictions.path), GateConfig(**config), Path(decision.path), age)
