"""What one check of the gate says, and when a number is the one that was asked for."""

from dataclasses import dataclass

ROUNDING = 1e-9
"""0.9 - 0.8 is 0.09999999999999998, and still a gain of 0.1; 0.4 - 0.35 is 0.05000000000000004, and a loss of 0.05."""


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
    return found >= asked - ROUNDING


def unjudged(name: str, why: str, required: float) -> Check:
    """A check that nobody can make, and that has therefore failed."""
    return Check(name, False, f"cannot be judged: {why}.", None, required)
