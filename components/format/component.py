"""KFP adapter of the format step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def format_(  # type: ignore[no-untyped-def]
    records: dsl.Input[dsl.Dataset],
    config: dict,  # type: ignore[type-arg]
    code: str,
    dataset: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Records → token rows with a loss mask, split into training, validation and test."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("format"):
        from calltune.settings import ModelConfig
        from components.format.config import FormatConfig
        from components.format.step import format_rows

        model = ModelConfig(**config.pop("model"))
        result = format_rows(Path(records.path), model, FormatConfig(**config), Path(dataset.path))
        runtime.record(metrics, vars(result))
