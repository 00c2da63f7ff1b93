"""The gate's decision, as promote believes it: whether it passed must follow from its checks, and it is about this model.

Whoever writes one by hand must write every check, each with a reason; `{"passed": true, "checks": []}` promotes nothing.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calltune import runtime
from calltune.errors import DataError

Words = Annotated[str, Field(min_length=1)]


class _Whole(BaseModel):
    """An object that has all of its keys, no others, and nothing in them that is not a finite number where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Check(_Whole):
    """A check, with all that the gate says of one."""

    name: Words
    passed: bool
    reason: Words
    observed: float | None
    required: float | None
    low: float | None
    high: float | None


class Model(_Whole):
    """Which model the decision is about."""

    digest: str | None


class Champion(_Whole):
    """What it was compared with; both null where there was no champion."""

    version: str | None
    digest: str | None


class Decision(_Whole):
    """Content of `decision.json`."""

    passed: bool
    checks: Annotated[list[Check], Field(min_length=1)]
    candidate: Model
    champion: Champion
    metrics: dict[str, float]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that refuse."""
        return [check.name for check in self.checks if not check.passed]

    @model_validator(mode="after")
    def _follows(self) -> "Decision":
        if self.passed == bool(self.failed):
            found = f"{len(self.failed)} of {len(self.checks)} checks failed" if self.failed else "every check passed"
            raise ValueError(f"it says passed: {str(self.passed).lower()}, and {found}")
        return self


def read(path: Path, digest: str) -> Decision:
    """Read a decision about the model with this digest.

    Raises:
        DataError: it is not what the gate writes, does not follow from its checks, or is about another model.
    """
    found: Any = runtime.read_json(path)
    try:
        decision = Decision.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: not a decision of the gate: {f'{place}: ' if place else ''}{said}") from None
    # Where the results could not be believed, the gate need not know whose they are; it has refused them.
    unknown = decision.candidate.digest is None and not decision.passed
    if decision.candidate.digest != digest and not unknown:
        about = decision.candidate.digest or "unknown"
        raise DataError(f"{path}: the gate decided about another model: {about[:12]}, not {digest[:12]}")
    return decision
