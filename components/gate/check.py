"""What one check of the gate says, and when a number is the one that was asked for."""

from dataclasses import dataclass

from calltune.figures import SAME, beside


@dataclass(frozen=True)
class Check:
    """One check of the decision.

    Attributes:
        name: what is checked.
        passed: whether it holds.
        reason: why, in one sentence, also if it passed.
        observed: the number that was found, None if there is none.
        required: the number that was asked for.
        low: lower end of the 95 % interval of `observed`.
        high: upper end.
    """

    name: str
    passed: bool
    reason: str
    observed: float | None = None
    required: float | None = None
    low: float | None = None
    high: float | None = None


def reaches(found: float, asked: float) -> bool:
    """Whether a number is at least the one that was asked for, rounding apart."""
    return found >= asked - SAME


def told(found: float, asked: float, digits: int = 4) -> str:
    """A number for a reason: in so many digits, or in more where these would read as the one that was asked for."""
    return beside(f"{found:.{digits}g}", found, asked)


def gained(found: float, asked: float) -> str:
    """A gain for a reason, with its sign."""
    return beside(f"{found:+.4g}", found, asked)


def unjudged(name: str, why: str, required: float) -> Check:
    """A check that nobody can make, and that has therefore failed."""
    return Check(name, False, f"cannot be judged: {why}.", None, required)
