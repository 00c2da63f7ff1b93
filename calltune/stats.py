"""Intervals. What cannot be computed (nothing to count, a NaN) is None, never an exception."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri  # scipy.stats has both tests and takes a second and a half to import, in each step

from calltune.metrics import ALPHA

DRAWS = 10_000
"""Bootstrap draws: the ends of a 95 % interval are then good to about 1 % of its width."""
_DRAWS_AT_ONCE = 2_000_000
_Z = -float(ndtri(ALPHA / 2))
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: the estimate, or None if there is nothing to estimate it from.
        low: lower end of the interval.
        high: upper end of the interval.
        n: how many questions it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The estimate as `metrics.json` holds it."""
        return asdict(self)


def wilson(successes: float, n: int) -> Estimate:
    """A proportion with its Wilson interval; all None if n is 0 or the counts are no counts."""
    if n <= 0 or not math.isfinite(successes) or not 0 <= successes <= n:
        return Estimate(None, None, None, max(n, 0))
    value, z = successes / n, _Z
    middle = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(n * value * (1 - value) + z**2 / 4)
    # Rounding puts the bounds of 0 of n and of n of n on the value's wrong side, by 1e-17.
    return Estimate(value, min(middle - half, value), max(middle + half, value), n)


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """A mean with its percentile bootstrap interval.

    Args:
        values: one number per question, shape ``(n,)``.
        seed: the same seed gives the same interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) == 0 or not np.isfinite(sample).all():
        return Estimate(None, None, None, len(sample))
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(sample))
    means = np.concatenate(
        [
            sample[rng.integers(len(sample), size=(min(rows, DRAWS - done), len(sample)))].mean(axis=1)
            for done in range(0, DRAWS, rows)
        ]
    )
    low, high = _interval(means)
    return Estimate(float(sample.mean()), low, high, len(sample))


def of_items(items: Mapping[str, float]) -> Estimate:
    """A suite's measure from its items: a share with Wilson's interval where each is 0 or 1, else a mean with a bootstrap's.

    Args:
        items: a number by item id; their order does not matter.
    """
    values = [float(items[id_]) for id_ in sorted(items)]
    if all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values))
    return mean(values)


def mean_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate:
    """By how much our mean over the same items is above theirs, with its paired bootstrap interval.

    Args:
        ours: a number by item id.
        theirs: the same for what we compare with; other ids than ours: nothing can be said.
    """
    if ours.keys() != theirs.keys():
        return Estimate(None, None, None, len(ours.keys() & theirs.keys()))
    return mean([float(ours[id_]) - float(theirs[id_]) for id_ in sorted(ours)])


def paired_difference(ours: Mapping[str, int], theirs: Mapping[str, int], seed: int = 0) -> Estimate:
    """How much higher our proportion is than theirs on the same questions, with its paired bootstrap interval.

    A question is drawn with both its outcomes. One may count on one side only (`valid_call_rate`: each model attempts
    its own calls); each side's proportion is then over the questions that count for it.

    Args:
        ours: 0 or 1 by question id.
        theirs: the same for what we compare with.
        seed: the same seed gives the same interval.

    Returns:
        The difference, from -1 to 1; `n` is the number of questions that count on either side. The interval is None
        where some draws would have nothing to count on one side.
    """
    ids = ours.keys() | theirs.keys()
    outcomes = [(ours.get(id_), theirs.get(id_)) for id_ in ids]
    if not ours or not theirs or any(value not in (0, 1, None) for pair in outcomes for value in pair):
        return Estimate(None, None, None, len(ids))
    # Only how often each pair of outcomes occurs matters: drawing these counts is the bootstrap itself, exactly, at a
    # cost that does not grow with n.
    cells = sorted(set(outcomes), key=str)
    counts = np.array([outcomes.count(cell) for cell in cells], dtype=np.float64)
    value = _difference(counts[np.newaxis, :], cells)[0]
    draws = np.random.default_rng(seed).multinomial(len(ids), counts / len(ids), size=DRAWS).astype(np.float64)
    differences = _difference(draws, cells)
    if not np.isfinite(differences).all():
        return Estimate(float(value), None, None, len(ids))
    low, high = _interval(differences)
    return Estimate(float(value), low, high, len(ids))


def mcnemar(ours: Mapping[str, int], theirs: Mapping[str, int]) -> float:
    """McNemar's exact test: how likely the split of the questions that only one side has right is by chance, two-sided.

    The bootstrap of a difference that rests on four or five questions is too narrow; this one is exact for any number.

    Args:
        ours: 0 or 1 by question id.
        theirs: the same for what we compare with; questions that count on one side only are left out.

    Returns:
        From 0 to 1; 1 if no question tells the two apart.
    """
    differing = [ours[id_] for id_ in ours.keys() & theirs.keys() if ours[id_] != theirs[id_]]
    fewer = min(sum(differing), len(differing) - sum(differing))
    return min(1.0, 2 * float(bdtr(fewer, len(differing), 0.5))) if differing else 1.0


def _difference(counts: Numbers, cells: Sequence[tuple[int | None, int | None]]) -> Numbers:
    """Difference of the two proportions for each row of `counts`, shape ``(draws, cells)`` to ``(draws,)``."""
    sides = []
    for side in (0, 1):
        counted = np.array([cell[side] is not None for cell in cells], dtype=np.float64)
        right = np.array([cell[side] == 1 for cell in cells], dtype=np.float64)
        sides.append((counts @ right, counts @ counted))
    (ours, n_ours), (theirs, n_theirs) = sides
    # One fraction, not a difference of two: where nothing differs the result is 0 and not 1e-17, which would be "better".
    with np.errstate(invalid="ignore", divide="ignore"):
        difference: Numbers = (ours * n_theirs - theirs * n_ours) / (n_ours * n_theirs)
    return difference


def _interval(draws: Numbers) -> tuple[float, float]:
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)
