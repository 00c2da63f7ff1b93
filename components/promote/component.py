"""KFP adapter of the promote step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def promote(  # type: ignore[no-untyped-def]
    model: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    fingerprint: str,
    config: dict,  # type: ignore[type-arg]
    code: str,
    promotion: dsl.Output[dsl.Artifact],
):
    """Candidate and decision → a registered version, and the champion if the gate passed. Never cached."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("promote"):
        from components.promote.config import PromoteConfig
        from components.promote.step import promote

        promote(Path(model.path), Path(decision.path), fingerprint, PromoteConfig(**config), Path(promotion.path))
