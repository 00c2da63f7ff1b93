"""Whether an answer has something in it: as whole words and whole numbers, whatever its case and spaces."""

import re
import unicodedata


def contains(answer: str, wanted: str) -> bool:
    """Whether `wanted` stands in `answer`.

    ``"You have 25  Days."`` contains ``"25 days"``, and not ``"5 days"``; ``"2.5 hours"`` does not contain ``"5 hours"``.
    """
    answer, wanted = _plain(answer), _plain(wanted)
    start = answer.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if not _is_inside(answer[:start], answer[start:]) and not _is_inside(answer[:end], answer[end:]):
            return True
        start = answer.find(wanted, start + 1)
    return False


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _is_inside(left: str, right: str) -> bool:
    """Whether the place between two texts is inside of a word, or of a number such as 2.5 or 1,200."""
    if not left or not right:
        return False
    edge = left[-1], right[0]
    # Scripts that write words without a space between them have no capital letters either.
    if all(one.lower() != one.upper() for one in edge) or all(one.isdigit() for one in edge):
        return True
    return any(re.fullmatch(r"\d[.,]\d", around) for around in (left[-2:] + right[0], left[-1] + right[:2]))
