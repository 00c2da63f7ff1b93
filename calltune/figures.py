"""Figures as people read them. Imports nothing slow."""

SAME = 1e-9
"""0.9 - 0.8 is 0.09999999999999998, and still 0.1: two numbers that are nearer than this are one."""


def beside(shown: str, value: float, limit: float | None) -> str:
    """`shown`, or `value` in as many digits as it takes to see on which side of its limit it is.

    >>> beside("0.8", 0.79996, 0.8)
    '0.79996'

    Args:
        shown: the value, rounded as it is wherever there is no limit.
        value: that is held against the limit.
        limit: None if there is none.
    """
    if limit is None or abs(value - limit) <= SAME or _side(float(shown.replace(",", "")), limit) == _side(value, limit):
        return shown
    sign = "+" if shown.startswith("+") else ""
    longer = (f"{value:{sign}.{digits}g}" for digits in range(4, 18))
    return next(text for text in longer if _side(float(text), limit) == _side(value, limit))


def _side(value: float, limit: float) -> tuple[bool, bool]:
    return value < limit, value > limit
