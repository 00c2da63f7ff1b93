"""KFP adapter of the export step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def export(  # type: ignore[no-untyped-def]
    adapter: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    config: dict,  # type: ignore[type-arg]
    code: str,
    model: dsl.Output[dsl.Artifact],
):
    """Trained weights → a model folder in the store; `model` is its small `model.json`."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("export"):
        from calltune.settings import ModelConfig
        from components.export.config import ExportConfig
        from components.export.step import export

        base = ModelConfig(**config.pop("model"))
        export(Path(adapter.path), Path(dataset.path), base, ExportConfig(**config), Path(model.path))
