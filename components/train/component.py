"""KFP adapter of the train step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train(  # type: ignore[no-untyped-def]
    dataset: dsl.Input[dsl.Dataset],
    config: dict,  # type: ignore[type-arg]
    code: str,
    champion: str,
    adapter: dsl.Output[dsl.Model],
    training: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Token rows → trained weights (`adapter`), and `metrics.json` and `loss.csv` (`training`)."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("train"):
        from calltune.settings import ModelConfig
        from components.train.config import TrainConfig
        from components.train.step import train

        model = ModelConfig(**config.pop("model"))
        settings, places = TrainConfig(**config), (Path(adapter.path), Path(training.path))
        result = train(Path(dataset.path), model, settings, *places, code, champion)
        runtime.record(metrics, vars(result))
