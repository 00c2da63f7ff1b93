"""KFP adapter of the look step."""

from typing import NamedTuple

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def look(config: dict, code: str) -> NamedTuple("Seen", [("fingerprint", str), ("champion", str), ("reason", str)]):  # type: ignore[type-arg, valid-type]
    """The fingerprint of data and base model, the champion, and the reason to train ('' = none). Never cached."""
    from calltune import runtime

    with runtime.step("look"):
        from components.look.config import LookConfig
        from components.look.step import look

        seen = look(LookConfig(**config))
    return (seen.fingerprint, seen.champion, seen.reason)


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def due(reason: str) -> bool:
    """Whether there is a reason. One unnamed output: kfp.local cannot resolve a named one in `dsl.If`."""
    return bool(reason)
