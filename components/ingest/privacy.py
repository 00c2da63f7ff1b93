"""Secrets and personal data in records: counted, and as the settings say left, replaced, or a reason for quarantine."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from calltune import validate
from calltune.dialects.reading import RowError, strict_json
from calltune.records import Record
from components.ingest.config import IngestConfig
from components.ingest.sensitive import PERSONAL, SECRETS, found, masked

_IN_TEXTS = ("messages", "expected")
"""Where personal data is looked for. The tools are the application's own: an address in a description is its example."""
_IN_ALL = ("messages", "expected", "tools")
_ESCAPE = re.compile(r"(\\u[0-9A-Fa-f]{4}|\\x[0-9a-f]{2}|\\.)")
"""In JSON the letter of `\\n` would look like the first one of the word after it; so would the digits of `\\xa0`, a byte that
is no UTF-8, also in the text itself."""


class Privacy:
    """Looks through records one by one.

    Attributes:
        rows: how many rows hold each kind of secret or personal data, those that go into the quarantine among them.
    """

    def __init__(self, config: IngestConfig) -> None:
        self.modes = {"secrets": config.secrets, "personal_data": config.personal_data}
        self.rows: dict[str, Counter[str]] = {"secrets": Counter(), "personal_data": Counter()}

    def take(self, record: Record, line: str) -> Record:
        """The record, or what may be kept of it.

        Args:
            record: one that can be used.
            line: the same as JSON.

        Raises:
            RowError: it must not be kept, or cannot be without what was replaced.
        """
        replaced: list[tuple[str, str]] = []
        rule, refused = "", None
        for name, kinds, parts in (("secrets", SECRETS, _IN_ALL), ("personal_data", PERSONAL, _IN_TEXTS)):
            there = {name: kind for name, kind in kinds.items() if kind.may_be_in(line)}
            seen = [one for part in parts for text in _texts(record.get(part)) for one in found(text, there)] if there else []
            held = list(dict.fromkeys(kind for kind, _ in seen))
            self.rows[name].update(held)
            if seen and self.modes[name] == "quarantine":
                refused = refused or RowError(name, f"holds {', '.join(held)}, and ingest.{name} says quarantine")
            if seen and self.modes[name] == "redact":
                replaced, rule = [*replaced, *seen], rule or name
        if refused is not None:
            raise refused
        return _redacted(record, replaced, rule) if replaced else record

    def count(self, raw: str) -> None:
        """Count what is anywhere in a row that cannot be used, and that goes into the quarantine as it is."""
        try:
            whole = list(_texts(strict_json(raw)))
        except (ValueError, RecursionError):
            whole = [raw]
        texts = {piece for text in whole for piece in (text, *_ESCAPE.split(text))}
        for name, kinds in (("secrets", SECRETS), ("personal_data", PERSONAL)):
            self.rows[name].update({kind for text in texts for kind, _ in found(text, kinds)})

    def shown(self, text: str) -> str:
        """An id or another text of a row, without what must not be kept anywhere."""
        return masked(text) if "redact" in self.modes.values() else text

    def shown_row(self, raw: str) -> str:
        """A row for the quarantine: whole, but for the same."""
        if "redact" not in self.modes.values():
            return raw
        try:
            text = json.dumps(_changed(strict_json(raw), _masked), ensure_ascii=False)
        except (ValueError, RecursionError):
            return _masked(raw)
        # Half a surrogate pair becomes the escape again that it was.
        return text.encode("utf-8", "backslashreplace").decode()


def _masked(text: str) -> str:
    return "".join(map(masked, _ESCAPE.split(masked(text))))


def _redacted(record: Record, replaced: list[tuple[str, str]], rule: str) -> Record:
    """The record with a placeholder for each of the texts, wherever it stands; one person keeps one placeholder."""
    numbers: dict[str, dict[str, int]] = {}
    names: dict[str, str] = {}
    for kind, text in replaced:
        same = numbers.setdefault(kind, {})
        alike = text.lower() if "@" in text else re.sub("[ -]", "", text)
        number = same.setdefault(alike, len(same) + 1)
        names[text] = f"[{kind.upper()}_{number}]"
    longest_first = sorted(names, key=len, reverse=True)

    def without(text: str) -> str:
        for one in longest_first:
            text = text.replace(one, names[one])
        return text

    safe: Record = {part: _changed(record[part], without) for part in _IN_ALL if part in record}
    if validate.problem(safe) is not None or any(one in text for text in _texts(safe) for one in longest_first):
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in replaced))
        raise RowError(rule, f"holds {kinds}, without which its calls do not fit their tools any more")
    return safe


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys and whole numbers among them."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack += reversed([item for pair in one.items() for item in pair])
        elif isinstance(one, list):
            stack += reversed(one)
        elif isinstance(one, int) and not isinstance(one, bool):
            yield str(one)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each text in it changed; numbers stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _changed(item, change) for key, item in value.items()}
    return [_changed(item, change) for item in value] if isinstance(value, list) else value
