"""Random and mutated answers through parser and guard: nothing may be raised, and no call accepted that breaks its schema.

Answers are good ones of every call syntax in which characters, tokens or values have been changed, cut or doubled, and
random text. Each goes through every parser, and through the guard with and without coercion; what the guard accepts is
held against the tool's schema by itself. Prints how much was accepted and why the rest was not. Ends with 1 at the first
failure, with the text that shows it.

    python -m benchmarks.fuzz --texts 100000
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema

from calltune.guard import check_all, check_message
from calltune.parse import PARSERS
from calltune.records import Call, Tool

_DATE = r"^\d{4}-\d{2}-\d{2}$"
PARAMETERS: dict[str, dict[str, Any]] = {
    "book_room": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "pattern": _DATE},
            "minutes": {"type": "integer", "minimum": 5, "maximum": 480},
            "price": {"type": "number", "exclusiveMinimum": 0},
            "quiet": {"type": "boolean"},
            "floor": {"type": "string", "enum": ["ground", "first"]},
            "guests": {
                "type": "array",
                "maxItems": 3,
                "items": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
            },
        },
        "required": ["day"],
    },
    "search": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "area": {"$ref": "#/$defs/area"},
        },
        "$defs": {"area": {"type": "object", "properties": {"km": {"type": "number"}}, "additionalProperties": False}},
        "required": ["query"],
    },
    "set_values": {"type": "object", "properties": {}, "additionalProperties": {"type": ["integer", "boolean"]}},
    "ping": {"type": "object", "properties": {}},
}
TOOLS: list[Tool] = [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in PARAMETERS.items()]
GOOD: list[Call] = [
    {"name": "book_room", "arguments": {"day": "2026-11-21", "minutes": 30, "guests": [{"age": 3}], "floor": "first"}},
    {"name": "book_room", "arguments": {"day": "2026-11-21", "price": 9.5, "quiet": True}},
    {"name": "search", "arguments": {"query": 'where is it? </b> "x"', "limit": 5, "area": {"km": 2}}},
    {"name": "search", "arguments": {"query": "ü 日本", "limit": None}},
    {"name": "set_values", "arguments": {"a": 1, "b": False}},
    {"name": "ping", "arguments": {}},
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 5, 30, 481, 5.0, 2.5, 1e308, 10**30, "", " ", "5", "05", "5.0", "1e3", "true", "True", "null"),
    *("2026-11-21", "first", "x" * 50, "\ud800", "</tool_call>", "\u0000", [], [1], {}, {"age": 3}, {"age": "3"}, [{"age": "3"}]),
    *([{"age": 3}, {"age": None}], {"km": "2"}, {"km": 1, "x": 1}, float("nan"), float("inf"), "9" * 5000, [[[[[1]]]]]),
]
SOUP = (
    *("<tool_call>", "</tool_call>", "<start_function_call>", "<end_function_call>", "<escape>", "call:", "```", "[", "]"),
    *("{", "}", "(", ")", ":", ",", "=", '"', "'", "\\", "\n", "- ", "\\ud800", "NaN", "Infinity", "1e999", "null", "None"),
    *("<calls>", "</calls>", "- name: ", "\n  arguments:\n    ", "&a ", "*a", "!!str ", "|\n", "? ", "#", "---\n", "0x1F"),
    *("name", "arguments", "parameters", "book_room", "search", "ping", "minutes", "day", "query", "<|im_end|>", "\ufeff"),
)


class Broken(Exception):
    """What must not happen, and with which text."""


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """`count` answers, the same for the same seed."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 10 == 0:
            yield "".join(draw.choice(SOUP) if draw.random() < 0.8 else chr(draw.randrange(1, 0x2FFF)) for _ in range(30))
            continue
        calls = [_changed(draw.choice(GOOD), draw) for _ in range(draw.choice([1, 1, 1, 2, 3]))]
        text = draw.choice(["", "", "Let me look.\n"]) + draw.choice(WRITERS)(calls)
        yield _mutated(text, draw) if number % 3 else text


def _changed(call: Call, draw: random.Random) -> Call:
    arguments = json.loads(json.dumps(call["arguments"]))
    name = call["name"]
    for _ in range(draw.choice([0, 0, 1, 1, 2])):
        change = draw.randrange(4)
        key = draw.choice([*(PARAMETERS[name].get("properties") or arguments or ["x"]), "minute", "", "ü"])
        if change < 2:
            arguments[key] = draw.choice(VALUES)
        elif change == 2:
            arguments.pop(key, None)
        else:
            name = draw.choice([*PARAMETERS, "book_rooms", "", "ünknown"])
            return {"name": name, "arguments": arguments}
    return {"name": name, "arguments": arguments}


def _hermes(calls: list[Call]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls)


def _json(calls: list[Call]) -> str:
    return "<calls>" + "\n".join(map(json.dumps, calls)) + "</calls>"


def _llama3(calls: list[Call]) -> str:
    return "; ".join(json.dumps({"name": call["name"], "parameters": call["arguments"]}) for call in calls)


def _in_python(calls: list[Call]) -> list[str]:
    return [f"{one['name']}({', '.join(f'{k}={v!r}' for k, v in one['arguments'].items())})" for one in calls]


def _python(calls: list[Call]) -> str:
    return "<calls>" + "\n".join(_in_python(calls)) + "</calls>"


def _pythonic(calls: list[Call]) -> str:
    return f"[{', '.join(_in_python(calls))}]"


def _tagged(calls: list[Call]) -> str:
    def value(one: Any) -> str:
        return f"<escape>{one}<escape>" if isinstance(one, str) else json.dumps(one)

    def written(call: Call) -> str:
        inside = ",".join(f"{key}:{value(item)}" for key, item in call["arguments"].items())
        return f"<start_function_call>call:{call['name']}{{{inside}}}<end_function_call>"

    return "".join(map(written, calls))


def _yaml(calls: list[Call]) -> str:
    lines = (
        [
            f"- name: {one['name']}",
            f"  arguments:{'' if one['arguments'] else ' {}'}",
            *(f"    {k}: {json.dumps(v)}" for k, v in one["arguments"].items()),
        ]
        for one in calls
    )
    return "\n".join(["<calls>", *(line for block in lines for line in block), "</calls>"])


WRITERS = (_hermes, _hermes, _hermes, _json, _python, _pythonic, _llama3, _tagged, _yaml, _yaml)


def _mutated(text: str, draw: random.Random) -> str:
    for _ in range(draw.choice([1, 1, 2, 5])):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice([1, 1, 2, 10, 60]))
        text = draw.choice(
            [
                text[:start] + text[end:],
                text[:start] + draw.choice(SOUP) + text[start:],
                text[:start] + text[start:end] * 2 + text[end:],
                text[:start],
                text[:start] + chr(draw.randrange(1, 0xD7FF)) + text[end:],
                text.replace('"', "'"),
                text[start:] + text[:start],
            ]
        )
    return text


def through(text: str, counted: Counter[str]) -> None:
    """One text through every parser and the guard.

    Raises:
        Broken: something was raised, or a call was accepted that its schema does not allow.
    """
    for syntax, parse in PARSERS.items():
        for coerce in (False, True):
            try:
                parsed = parse(text)
                guarded = check_all(parsed.calls, TOOLS, coerce)
                wrapped = [{"function": {**c, "arguments": json.dumps(c["arguments"])}} for c in parsed.calls]
                same = check_message({"tool_calls": wrapped}, TOOLS, coerce)
                json.dumps(parsed.calls, ensure_ascii=False).encode()  # as evaluation writes them down
            except Exception as error:  # whatever it is, it must not be
                raise Broken(f"{syntax}: {type(error).__name__}: {error}: {text!r}") from error
            if [one.accepted for one in same] != [one.accepted for one in guarded]:
                raise Broken(f"{syntax}: the same calls are judged otherwise with their arguments as text: {text!r}")
            counted[f"{syntax}: malformed"] += parsed.malformed is not None
            for before, one in zip(parsed.calls, guarded, strict=True):
                counted[f"{syntax}: {'accepted' if one.accepted else 'rejected'}{', with coercion' * coerce}"] += 1
                if one.accepted:
                    _refuse_broken(before, one.call, text)
                elif not one.reason or one.call != before:
                    raise Broken(f"{syntax}: a rejected call without a reason, or changed: {text!r}")


def _refuse_broken(before: Call, call: Call, text: str) -> None:
    schema = {"additionalProperties": False, **PARAMETERS[call["name"]]}
    try:
        sent = json.loads(json.dumps(call["arguments"], allow_nan=False, ensure_ascii=False).encode())
        jsonschema.Draft202012Validator(schema).validate(sent)
    except (ValueError, jsonschema.ValidationError) as error:
        raise Broken(f"accepted, and not what the tool takes: {error}: {text!r}") from None
    if not _lossless(before["arguments"], call["arguments"]):
        raise Broken(f"coerced with a loss: {before} to {call}: {text!r}")


def _lossless(before: Any, after: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        return list(before) == list(after) and all(_lossless(before[key], after[key]) for key in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_lossless, before, after))
    if type(before) is type(after):
        return bool(before == after)
    if isinstance(before, str):
        return before == json.dumps(after) or (not isinstance(after, bool) and Decimal(before) == Decimal(repr(after)))
    return type(before) is float and type(after) is int and before == after


def main() -> None:
    """Run, print, and end with 1 at a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counted: Counter[str] = Counter()
    for text in texts(given.texts, given.seed):
        try:
            through(text, counted)
        except Broken as broken:
            sys.exit(f"broken: {broken}")
    for what, number in sorted(counted.items()):
        print(f"{number:>8,}  {what}")
    print(f"{given.texts:,} texts through {', '.join(PARSERS)}: nothing raised, nothing accepted that its schema forbids")


if __name__ == "__main__":
    main()
