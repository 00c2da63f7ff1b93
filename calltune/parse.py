"""Generated text to tool calls: the inverse of rendering. Imports no torch, so that an application can use it."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calltune import functiongemma, python_calls, yaml_calls
from calltune.records import Call, once


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


def parse_hermes(text: str) -> Parsed:
    """Read `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of times, with text around them."""
    return _tagged(text, ("<tool_call>", "</tool_call>"), lambda inside: [_json_call(inside)])


def parse_json(text: str) -> Parsed:
    """Read `<calls>{"name": ..., "arguments": {...}}</calls>`, one call a line, with text around them."""
    return _tagged(text, ("<calls>", "</calls>"), lambda inside: [_json_call(line) for line in _lines(inside)])


def parse_python(text: str) -> Parsed:
    """Read `<calls>name(argument=value)</calls>`, one call a line, with text around them."""
    return _tagged(
        text,
        ("<calls>", "</calls>"),
        lambda inside: [call for line in _lines(inside) for call in python_calls.read_calls(line)],
    )


def parse_yaml(text: str) -> Parsed:
    """Read `<calls>`, a YAML list of `name: ...` with `arguments: ...`, `</calls>`, with text around it."""
    return _tagged(text, ("<calls>", "</calls>"), lambda inside: [_call(one) for one in yaml_calls.read_calls(inside)])


def parse_functiongemma(text: str) -> Parsed:
    """Read `<start_function_call>call:name{argument:<escape>text<escape>}<end_function_call>`, with text around them."""
    edges = ("<start_function_call>", "<end_function_call>")
    return _tagged(text, edges, lambda inside: [functiongemma.read_call(inside)])


# Llama 3.2 also writes "type": "function" before the name.
_LLAMA_CALL = re.compile(r'(?:^|\n)(?:<\|python_tag\|>)?[ \t]*(?=\{\s*"(?:type"\s*:\s*"function"\s*,\s*")?name"\s*:)')


def parse_llama3(text: str) -> Parsed:
    """Read `{"name": ..., "parameters": {...}}`, separated by `;`, at the end of the answer and at the beginning of a line."""
    begin = _LLAMA_CALL.search(text)
    if begin is None:
        return Parsed((), text.strip())
    content, at, calls = text[: begin.start()].strip(), begin.end(), []
    try:
        while at < len(text):
            call, at = _decoded(text, at)
            if isinstance(call, dict) and "parameters" in call and "arguments" not in call:  # of both vLLM takes `arguments`
                call = {**call, "arguments": call["parameters"]}
            calls.append(_call(call))
    except ValueError as error:
        return Parsed((), content, str(error))
    return Parsed(tuple(calls), content)


_PYTHON_LIST = re.compile(r"(?:^|\n)[ \t]*(?=\[\s*[^\W\d][\w.]*\()")


def parse_pythonic(text: str) -> Parsed:
    """Read `[name(argument=value), ...]` at the end of the answer and at the beginning of a line."""
    begin = _PYTHON_LIST.search(text)
    if begin is None:
        return Parsed((), text.strip())
    content = text[: begin.start()].strip()
    try:
        return Parsed(tuple(python_calls.read_calls(text[begin.end() :])), content)
    except ValueError as error:
        return Parsed((), content, str(error))


def _tagged(text: str, edges: tuple[str, str], read: Callable[[str], list[Call]]) -> Parsed:
    """The calls in blocks between two marks; one bad call makes the whole answer malformed."""
    outside, insides = blocks(text, edges)
    calls: list[Call] = []
    content = outside.strip()
    try:
        for inside in insides:
            calls += read(inside)
    except ValueError as error:
        return Parsed((), content, str(error))
    if any(edge in content for edge in edges):
        return Parsed(tuple(calls), content, f"a call is cut off: {edges[0]} and {edges[1]} do not pair")
    return Parsed(tuple(calls), content)


def blocks(text: str, edges: tuple[str, str]) -> tuple[str, list[str]]:
    """The text outside of the blocks, and what is in each.

    A block goes from a mark to the next that ends one, as in vLLM's `<tool_call>(.*?)</tool_call>`, so that what counts here as
    a call counts there. The expression itself looks for an end from every beginning, which takes seconds in 50 kB of them.
    """
    begin, end = edges
    outside, insides, at = list[str](), list[str](), 0
    while (opened := text.find(begin, at)) >= 0 and (closed := text.find(end, opened + len(begin))) >= 0:
        outside.append(text[at:opened])
        insides.append(text[opened + len(begin) : closed])
        at = closed + len(end)
    return "".join(outside) + text[at:], insides


def _lines(inside: str) -> list[str]:
    lines = [line for line in inside.split("\n") if line.strip()]
    if not lines:
        raise ValueError("no call stands between <calls> and </calls>")
    return lines


def _json_call(text: str) -> Call:
    try:
        value = _JSON.decode(text)
        json.dumps(value, ensure_ascii=False).encode()  # an escape such as \ud800 alone makes a string that no file can hold
    except (RecursionError, ValueError) as error:
        raise ValueError(f"the call is not JSON: {error}") from None
    return _call(value)


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at `at`, and where the next one begins."""
    try:
        value, end = _JSON.raw_decode(text, at)
        json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise ValueError(f"the call is not JSON: {error}") from None
    return value, len(text) - len(text[end:].lstrip().lstrip(";").lstrip())


def _call(value: Any) -> Call:
    reason = _shape(value)
    if reason is not None:
        raise ValueError(reason)
    return {"name": value["name"], "arguments": value["arguments"]}


def _shape(call: Any) -> str | None:
    if not isinstance(call, dict):
        return "a call must be a JSON object"
    if not isinstance(call.get("name"), str) or not call["name"].strip():
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


# Of two values for one key an application may take either: no call that can be read.
_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=once)

PARSERS: dict[str, Callable[[str], Parsed]] = {
    "hermes": parse_hermes,
    "json": parse_json,
    "python": parse_python,
    "yaml": parse_yaml,
    "functiongemma": parse_functiongemma,
    "llama3": parse_llama3,
    "pythonic": parse_pythonic,
}
"""From the template's call syntax to its parser."""
