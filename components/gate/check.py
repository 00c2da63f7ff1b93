"""What one check of the gate says."""

from dataclasses import dataclass


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
