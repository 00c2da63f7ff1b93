"""Calls written as YAML, read by the core schema of version 1.2, in which `yes` and `2026-11-21` are text, and `010` is ten.

- name: find_employee
  arguments:
    name: "Ana"
    limit: 3
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

DEEPEST = 100
"""Levels of lists and objects inside one another; no tool takes more."""
LONGEST_NUMBER = 1000
"""Letters: Python neither reads nor prints an integer of more than 4,300 digits."""

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# PyYAML takes them for the end of a line, as YAML 1.1 did, and would join the lines with a space.
_OLD_LINE_END = re.compile("[\x85\u2028\u2029]")


def read_calls(text: str) -> list[Any]:
    """Read one call, or a list of calls; whether each is a call is for the caller to see.

    Values come from the parser's events: no tag makes an object of another kind, and nothing is ever copied by an alias.

    Raises:
        ValueError: it is not YAML, or more than JSON can hold: an anchor, alias or tag, a key that is no text or stands
            twice, `.inf` or `.nan`, too deep; with the reason.
    """
    if _OLD_LINE_END.search(text):
        raise ValueError("the call is not YAML: U+0085, U+2028 and U+2029 must be escaped")
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    try:
        next(events)  # the beginning of the stream
        begin = next(events)
        if not isinstance(begin, yaml.DocumentStartEvent):
            raise ValueError("no call stands between <calls> and </calls>")
        if begin.explicit:
            raise ValueError("the calls are one list, without `---` or `%`")
        found = _value(next(events), events, 0)
        next(events)  # the end of the document
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise ValueError("the calls are one list, and another document follows")
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"the call is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"the call is not YAML: {' '.join(str(error).split())}") from None
    except OverflowError:
        raise ValueError("the call is not YAML: an escape such as \\UFFFFFFFF names no character") from None
    if found == []:
        raise ValueError("no call stands between <calls> and </calls>")
    return found if isinstance(found, list) else [found]


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    """The value that begins with an event; the events up to its end are used up."""
    if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) or event.anchor or event.tag:
        raise ValueError("a call has no anchors, aliases or tags")
    if depth > DEEPEST:
        raise ValueError("the call is not YAML: nested too deeply")
    if isinstance(event, yaml.ScalarEvent):
        event.value.encode()  # a surrogate alone makes a string that no file can hold: a UnicodeError is a ValueError
        plain, _ = event.implicit
        return _plain(event.value) if plain else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _value(event, events, depth + 1)
        if not isinstance(key, str):
            raise ValueError("the keys of an object must be strings")
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        found[key] = _value(next(events), events, depth + 1)
    return found


def _plain(text: str) -> Any:
    """A value without quotes: null, a boolean, a number, or else text."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not JSON")
    if not _NUMBER.fullmatch(text) and not _INTEGER.fullmatch(text):
        return text
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"{text[:20]}… is out of range")
    if _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number
