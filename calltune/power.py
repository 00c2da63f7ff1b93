"""How small a difference of two models a test set can show. Imports nothing heavy, so that a config can be checked at once."""

import math
from statistics import NormalDist

from calltune.metrics import ALPHA

POWER = 0.8
"""A difference counts as one that the test set can show if it is found in four of five test sets of that size."""


def smallest_difference(questions: int, discordant: float) -> float | None:
    """The smallest true difference of two models that the paired 95 % interval tells from none, in 80 % of test sets.

    The sample size formula of McNemar's test (Connor, Biometrics 43, 1987), solved for the difference.

    Args:
        questions: in the test set.
        discordant: share of the questions that only one of the two models answers rightly, above 0, up to 1.

    Returns:
        From 0 to `discordant`, the largest difference that there can be then; None if even that would be missed.
    """
    surely, mostly = NormalDist().inv_cdf(1 - ALPHA / 2), NormalDist().inv_cdf(POWER)

    def shown(difference: float) -> bool:
        needed = surely * math.sqrt(discordant) + mostly * math.sqrt(discordant - difference**2)
        return difference * math.sqrt(questions) >= needed

    if not shown(discordant):
        return None
    low, high = 0.0, discordant
    for _ in range(40):  # halving: what is left is far below one question
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high
