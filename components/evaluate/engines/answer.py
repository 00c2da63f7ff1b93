"""What every engine answers with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        row: index of its prompt.
        ids: the generated tokens, the stop token included.
        stopped: whether a stop token ended it, rather than the limit.
    """

    row: int
    ids: list[int]
    stopped: bool
