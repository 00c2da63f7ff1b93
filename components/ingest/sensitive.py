"""What secrets and personal data look like, and where a text holds some."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of secret or of personal data.

    Attributes:
        pattern: how it is written; where it has a group, that is the part which matters.
        marks: a text without any of these holds none. Looking for them is far quicker than for the pattern.
        right: of what fits the pattern the part, from its beginning, that is one; empty where none is. None: all of it.
    """

    pattern: re.Pattern[str]
    marks: tuple[str, ...] = ()
    right: Callable[[str], str] | None = None

    def may_be_in(self, text: str) -> bool:
        """Whether it is worth looking; also of a text as JSON has it."""
        return not self.marks or any(mark in text for mark in self.marks)

    def found_in(self, text: str) -> Iterator[str]:
        """Each one in the text, in order."""
        at = 0
        while match := self.pattern.search(text, at):
            whole = match[match.lastindex or 0]
            value = whole if self.right is None else self.right(whole)
            if value:
                yield value
            # What is none may still hide one that begins after its first letter.
            at = match.start(match.lastindex or 0) + max(1, len(value))


def found(text: str, kinds: Mapping[str, Kind]) -> Iterator[tuple[str, str]]:
    """Kind and text of everything in a text that is of one of these kinds."""
    for name, kind in kinds.items():
        if kind.may_be_in(text):
            yield from ((name, value) for value in kind.found_in(text))


def masked(text: str) -> str:
    """A text for people to read, with nothing sensitive in it."""
    for kinds in (SECRETS, PERSONAL):
        for name, value in sorted(set(found(text, kinds)), key=lambda one: -len(one[1])):
            text = text.replace(value, f"[{name.upper()}]")
    return text


def _longest(is_right: Callable[[str], bool]) -> Callable[[str], str]:
    """For numbers in groups: the most groups, from the first, that are right together; a date may follow a card's number."""

    def right(text: str) -> str:
        ends = [len(text), *(match.start() for match in reversed(list(re.finditer("[ -]", text))))]
        return next((text[:end] for end in ends if is_right(re.sub("[ -]", "", text[:end]))), "")

    return right


# Length and first digits of the cards in use: Visa, Mastercard, American Express, Discover, JCB, Diners Club.
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|35\d{14}|3[068]\d{12}"
)


def _is_card(digits: str) -> bool:
    if not _CARD.fullmatch(digits):
        return False
    # Luhn: every second digit from the right counts twice.
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_iban(text: str) -> bool:
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


_ALONE = r"(?<![A-Za-z0-9])"
# What may be long has an end, `{0,64}+`: else a text of nothing but beginnings takes minutes a megabyte.
SECRETS: dict[str, Kind] = {
    "private_key": Kind(
        re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY[A-Z ]{0,6}-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)"),
        ("-----BEGIN",),
    ),
    "aws_key": Kind(re.compile(_ALONE + r"A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"), ("AKIA", "ASIA")),
    "aws_secret": Kind(
        re.compile(r"(?i:aws_?secret(?:_?access)?_?key)[^A-Za-z0-9/+]{1,10}([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"),
        ("ecret", "ECRET"),
    ),
    "github_token": Kind(
        re.compile(_ALONE + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    "gitlab_token": Kind(re.compile(_ALONE + r"glpat-[A-Za-z0-9_-]{20,}"), ("glpat-",)),
    "slack_token": Kind(
        re.compile(_ALONE + r"(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,})"),
        ("xox", "hooks.slack.com"),
    ),
    "jwt": Kind(re.compile(_ALONE + r"eyJ[A-Za-z0-9_-]{8,4096}+\.eyJ[A-Za-z0-9_-]{8,65536}+\.[A-Za-z0-9_-]{8,}"), ("eyJ",)),
    "provider_key": Kind(
        re.compile(
            _ALONE + r"(?:sk-(?=[A-Za-z_-]{0,64}+[0-9])(?:[a-z0-9]+-){0,3}[A-Za-z0-9_]{20,}[A-Za-z0-9_-]*"
            r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}"
            r"|pypi-[A-Za-z0-9_-]{50,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{30,})"
        ),
        ("sk-", "k_live_", "k_test_", "AIza", "hf_", "npm_", "pypi-", "SG."),
    ),
}
"""Keys that open something, by the forms that their makers gave them."""
PERSONAL: dict[str, Kind] = {
    "email": Kind(
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
        ("@",),
    ),
    "card_number": Kind(re.compile(r"(?<![\d.,])[2-6](?:[ -]?\d){12,18}(?!\d)"), right=_longest(_is_card)),
    "iban": Kind(
        re.compile(_ALONE + r"[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])"), right=_longest(_is_iban)
    ),
}
"""What belongs to one person, by its form; a card's and an account's number also by its check digits."""
