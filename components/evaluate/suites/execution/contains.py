"""Whether an answer has something in it: as whole words and whole numbers, whatever its case and spaces."""

import re
import unicodedata

# Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese; and Korean, which writes endings and particles onto its words.
_RUN_ON = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]")


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
    if all(_is_of_a_word(one) for one in edge) or all(one.isdigit() for one in edge):
        return True
    return any(re.fullmatch(r"\d[.,]\d", around) for around in (left[-2:] + right[0], left[-1] + right[:2]))


def _is_of_a_word(letter: str) -> bool:
    """Whether it is a letter, or a sign on one, of a script that puts spaces between words."""
    return unicodedata.category(letter)[0] in "LM" and not _RUN_ON.match(letter)
