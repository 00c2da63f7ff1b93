"""FunctionGemma's way to write a call: `call:find_employee{name:<escape>Ana<escape>,limit:3}`."""

import json
import math
import re
from typing import Any

from calltune.records import Call

ESCAPE = "<escape>"
_HEAD = re.compile(r"\s*call:([^{]*)(?=\{)")
_BARE = re.compile(r"[^,:{}\[\]]*")


def read_call(text: str) -> Call:
    """Read what stands between `<start_function_call>` and `<end_function_call>`.

    Raises:
        ValueError: it is not a call; with the reason.
    """
    head = _HEAD.match(text)
    if head is None or not head[1].strip():
        raise ValueError("a call must be call:name{argument:value}")
    try:
        arguments, end = _object(text, head.end())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text[end:].strip():
        raise ValueError(f"after the arguments stands {text[end : end + 20]!r}")
    call = {"name": head[1].strip(), "arguments": arguments}
    json.dumps(call, ensure_ascii=False).encode()  # a surrogate alone makes a string that no file can hold: a ValueError
    return call


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends."""
    if text.startswith(ESCAPE, at):
        start = at + len(ESCAPE)
        end = text.find(ESCAPE, start)
        if end < 0:
            raise ValueError(f"a text has no second {ESCAPE}")
        return text[start:end], end + len(ESCAPE)
    if text.startswith("{", at):
        return _object(text, at)
    if text.startswith("[", at):
        return _list(text, at)
    word, end = _bare(text, at)
    try:
        value = json.loads(word)
    except ValueError:
        raise ValueError(f"{word[:20]!r} is no value: text stands between two {ESCAPE}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{word[:20]} is out of range")
    return value, end


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    if text.startswith("}", at + 1):
        return found, at + 2
    while True:
        key, at = _bare(text, at + 1)
        if not key or not text.startswith(":", at):
            raise ValueError("an object must be {key:value,...}")
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        found[key], at = _value(text, at + 1)
        if text.startswith("}", at):
            return found, at + 1
        if not text.startswith(",", at):
            raise ValueError("an object is cut off")


def _list(text: str, at: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    if text.startswith("]", at + 1):
        return found, at + 2
    while True:
        item, at = _value(text, at + 1)
        found.append(item)
        if text.startswith("]", at):
            return found, at + 1
        if not text.startswith(",", at):
            raise ValueError("a list is cut off")


def _bare(text: str, at: int) -> tuple[str, int]:
    found = _BARE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found[0].strip(), found.end()
