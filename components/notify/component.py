"""KFP adapter of the notify step: the pipeline's exit task."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def notify(config: dict, code: str, status: dsl.PipelineTaskFinalStatus):  # type: ignore[type-arg, no-untyped-def]
    """Say how the run ended. `status` is what makes KFP run this at the end."""
    from calltune import runtime

    with runtime.step("notify", may_fail=True):
        from components.notify.config import NotifyConfig
        from components.notify.step import notify

        notify(NotifyConfig(**config))
