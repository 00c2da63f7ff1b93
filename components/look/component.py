"""KFP adapter of the look step."""

from typing import NamedTuple

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def look(config: dict, code: str) -> NamedTuple(  # type: ignore[type-arg, valid-type]
    "Seen", [("fingerprint", str), ("champion", str), ("start", str), ("reason", str), ("data_age_days", str)]
):
    """The fingerprint of data and base model, the champion, where training starts, and why ('' = it does not). Never cached.

    The age of the data ('' = the gate does not ask)."""
    from calltune import runtime

    with runtime.step("look"):
        from components.look.config import LookConfig
        from components.look.step import look

        seen = look(LookConfig(**config))
    return (seen.fingerprint, seen.champion, seen.start, seen.reason, seen.data_age_days)


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def due(reason: str) -> bool:
    """Whether there is a reason. One unnamed output: kfp.local cannot resolve a named one in `dsl.If`."""
    return bool(reason)
