"""How much of a reference answer is in an answer, by their words: ROUGE-L, and equality."""

from collections.abc import Sequence

from calltune.likeness import words


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, 0 to 1: ``rouge_l("a b c", "a x c")`` is 2/3.

    As `rougeL` of Google's rouge-score without its stemmer (Lin 2004, https://aclanthology.org/W04-1013), but for the words: that
    library knows the letters a to z and the digits only, so that an answer in Chinese or Russian has none. Where neither
    text has a word, an emoji for one, 1 if they are equal.
    """
    ours, theirs = words(answer), words(reference)
    if not ours and not theirs:
        return exact_match(answer, reference)
    # Of precision and recall the harmonic mean.
    return 2 * _common(ours, theirs) / (len(ours) + len(theirs))


def exact_match(answer: str, reference: str) -> float:
    """1 where the two are the same text, whatever their case and spacing, else 0."""
    return float(_plain(answer) == _plain(reference))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(two) + 1)
    for left in one:
        before = 0
        for place, right in enumerate(two, 1):
            above = row[place]
            row[place] = before + 1 if left == right else max(above, row[place - 1])
            before = above
    return row[-1]
