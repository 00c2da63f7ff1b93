"""Generated text to tool calls: the inverse of rendering. Imports no torch, so that an application can use it."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from calltune.records import Call


@dataclass(frozen=True)
class Parsed:
    """What an answer says.

    Attributes:
        calls: the calls, in order.
        content: the text outside of the calls.
        malformed: why an attempted call cannot be read, or None. A cut-off call is malformed, not an exception.
    """

    calls: tuple[Call, ...]
    content: str
    malformed: str | None = None

    @property
    def attempted(self) -> bool:
        """Whether the model tried to call a tool, well-formed or not."""
        return bool(self.calls) or self.malformed is not None


# The same expression as vLLM's hermes parser, so that what counts here as a call counts there.
_HERMES_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def parse_hermes(text: str) -> Parsed:
    """Read `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of times, with text around them."""
    calls: list[Call] = []
    for found in _HERMES_CALL.findall(text):
        try:
            call = json.loads(found, parse_constant=_refuse_constant, parse_float=_finite)
            json.dumps(call, ensure_ascii=False).encode()  # an escape such as \ud800 alone makes a string that no file can hold
        except (RecursionError, ValueError) as error:
            return Parsed((), _HERMES_CALL.sub("", text).strip(), f"the call is not JSON: {error}")
        reason = _shape(call)
        if reason is not None:
            return Parsed((), _HERMES_CALL.sub("", text).strip(), reason)
        calls.append({"name": call["name"], "arguments": call["arguments"]})
    content = _HERMES_CALL.sub("", text).strip()
    if "<tool_call>" in content or "</tool_call>" in content:
        return Parsed(tuple(calls), content, "a call is cut off: <tool_call> and </tool_call> do not pair")
    return Parsed(tuple(calls), content)


def _shape(call: Any) -> str | None:
    if not isinstance(call, dict):
        return "a call must be a JSON object"
    if not isinstance(call.get("name"), str):
        return "a call needs a name"
    if not isinstance(call.get("arguments"), dict):
        return "a call needs an object `arguments`"
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


PARSERS = {"hermes": parse_hermes}
"""From the template's call syntax to its parser."""
