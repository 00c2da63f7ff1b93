"""The base of every step's settings."""

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys, so that a misspelt key is an error and never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    files: ClassVar[tuple[str, ...]] = ()
    """Settings that are files or folders, or lists of such: their content counts, not where they lie."""


S = TypeVar("S", bound=Settings)


def with_files(settings: S, where: str, change: Callable[[str, str], str]) -> S:
    """A copy in which each file that the settings, or sections in them, name is what `change` makes of it.

    Args:
        settings: any.
        where: the section's name.
        change: from the setting's whole name and its value; not called for those that are empty.
    """
    changed: dict[str, Any] = {}
    for key in type(settings).model_fields:
        value, name = getattr(settings, key), f"{where}.{key}"
        if isinstance(value, Settings):
            changed[key] = with_files(value, name, change)
        elif key in settings.files and value:
            changed[key] = [change(name, one) for one in value] if isinstance(value, list) else change(name, value)
    return settings.model_copy(update=changed)


def written_as(pattern: str, words: str) -> AfterValidator:
    """A check for a text setting that says in words what would be right; pydantic's own would show the pattern.

    Args:
        pattern: a regular expression that the whole text must match.
        words: what to write, as it follows "must be".
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {words}")
        return value

    return AfterValidator(check)


InputFile = Annotated[
    str,
    # Of an object in S3 that changes no step would know; those that `submit` makes are named by their content.
    written_as(r"(?!.*://).*|s3://.+/inputs/[0-9a-f]{64}(/.+)?", "a path on this machine; `submit` brings it into the store"),
]


class ModelConfig(Settings):
    """The base model: the one section that several steps read."""

    base: str
    """`bundled:smollm2-135m`, a folder, `s3://bucket/prefix`, or a Hub id."""
    revision: str = ""
    """The Hub commit, 40 hex digits: required for a Hub id, so that a run can be repeated."""
