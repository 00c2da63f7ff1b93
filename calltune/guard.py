"""A tool call against its tool's JSON Schema: accept it, coerce it without loss, or reject it with a reason.

An application puts this between the model and its tools (docs/guard.md). Imports no torch.

    >>> check({"name": "book_room", "arguments": {"minutes": "half an hour"}}, tools).reason
    'book_room.minutes: must be of type integer, not the string "half an hour"'
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import takewhile
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import UnknownType
from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from calltune.errors import DataError
from calltune.plain_schemas import fits, is_plain
from calltune.records import Call, Tool, once
from calltune.written_values import TOOL_VALIDATOR, is_unicode, not_json

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,4000})")  # int() itself refuses more than 4,300 digits with an exception
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")
_EXACT_FLOAT = 2**53
_SHOWN = 60
_SLOW = "a text takes too long to be held against the schema's pattern"
# A reference to nothing; or to what is no schema, a list or the properties themselves, which jsonschema stumbles over.
_NOWHERE = (Unresolvable, UnknownType, AttributeError, TypeError)
_COMPOSING = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"})


@dataclass(frozen=True)
class Guarded:
    """What the guard says of one call.

    Attributes:
        call: the call, coerced where that was asked for and the call is accepted; else exactly as it came in.
        reason: why the call is rejected, beginning with the path of what is wrong; None if it is accepted.
    """

    call: Call
    reason: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the call may go to its tool."""
        return self.reason is None


def check(call: Call, tools: Sequence[Tool], coerce: bool = False) -> Guarded:
    """Validate one call, ``{"name": str, "arguments": {...}}``, against the schema of its tool.

    An argument that the schema does not list is rejected, unless the schema itself has `additionalProperties`: an
    invented argument is a model's mistake even where JSON Schema's own default would let it pass. Whatever the call
    holds, the answer is a :class:`Guarded`, never an exception.

    Args:
        call: what the model wants to call.
        tools: the tools that it was given, in the OpenAI form.
        coerce: turn values into what the schema asks for where nothing is lost: "5" to 5, "true" to true, 5.0 to 5.

    Raises:
        DataError: the tool's own schema is not a JSON Schema (the tool is wrong, not the call).
    """
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return Guarded(call, "a call must be an object with the name of a tool")
    name, arguments = call["name"], call.get("arguments")
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    if name not in schemas:
        return Guarded(call, f"{_shown(name)}: no such tool{_nearest(name, schemas) or _one_of(schemas)}")
    # Nearly all are plain, and nearly all calls fit; jsonschema, which alone can say what is wrong, takes fifty times as long.
    schema = schemas[name]
    plain = is_plain(schema)
    validator = None if plain else _validator(name, json.dumps(schema))
    try:
        if not isinstance(arguments, dict):
            return Guarded(call, f"{name}: arguments must be an object, not {_kind(arguments)}")
        foreign = not_json(arguments, name)
        if foreign is not None:
            return Guarded(call, foreign)
        if coerce:
            arguments = _coerced(arguments, schema)
        if not (plain and fits(arguments, schema, closed=True)):
            validator = validator or _validator(name, json.dumps(schema))
            errors = sorted(validator.iter_errors(arguments), key=_order)
            if errors:
                more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
                return Guarded(call, _reason(name, errors[0]) + more)
    except TimeoutError:
        return Guarded(call, f"{name}: {_SLOW}")
    except (RecursionError, OverflowError, ValueError):  # ValueError: Python prints no integer of over 4,300 digits
        return Guarded(call, f"{name}: the arguments are nested too deeply, or hold a number too large to check")
    except _NOWHERE as error:
        raise DataError(f"tool {name!r}: its schema refers to what is not in it, or is no schema: {error}") from None
    return Guarded({**call, "arguments": arguments} if coerce else call)


def check_value(tool: Tool, argument: str, value: Any) -> str | None:
    """Why an argument cannot have a value, whatever else the call holds; None if it can.

    Raises:
        DataError: as :func:`check`.
    """
    name, schema = tool["function"]["name"], tool["function"].get("parameters") or {}
    if is_plain(schema) and argument in schema.get("properties", {}) and fits(value, schema["properties"][argument]):
        return None
    # Without the other arguments no branch of such a schema need fit, and what its branches list is then not known.
    composed = not _COMPOSING.isdisjoint(schema)
    validator = _validator(name, json.dumps(schema))
    try:
        for error in sorted(validator.iter_errors({argument: value}), key=_order):
            unlisted = error.validator == "additionalProperties" or (error.validator == "unevaluatedProperties" and not composed)
            of_value = error.absolute_path[0] == argument if error.absolute_path else unlisted
            if of_value and not _in_a_branch(error):
                return _reason(name, error)
    except TimeoutError:
        return f"{name}.{argument}: {_SLOW}"
    except (RecursionError, OverflowError, ValueError):  # as in check
        return f"{name}.{argument}: is nested too deeply, or holds a number too large to check"
    except _NOWHERE as error:
        raise DataError(f"tool {name!r}: its schema refers to what is not in it, or is no schema: {error}") from None
    return None


def _in_a_branch(error: jsonschema.ValidationError) -> bool:
    """Whether the error is of a `then` or an `else` that other arguments choose, not of one inside of the value."""
    around = takewhile(lambda part: not str(part).endswith("roperties"), error.absolute_schema_path)
    return not {"then", "else"}.isdisjoint(around)


def check_all(calls: Iterable[Call], tools: Sequence[Tool], coerce: bool = False) -> list[Guarded]:
    """:func:`check` each call of an answer, in order."""
    return [check(call, tools, coerce) for call in calls]


def check_message(message: Mapping[str, Any], tools: Sequence[Tool], coerce: bool = False) -> list[Guarded]:
    """:func:`check` each call of an assistant message as a server with OpenAI's chat API sends it, in order.

        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "book_room", "arguments": "{\\"minutes\\": 30}"}}]}

    Whatever the message holds, nothing is raised for it. A message without calls gives an empty list.

    Args:
        message: as a dict: ``response.choices[0].message.model_dump()``. `arguments` is JSON text, as the API has it, or an
            object.
        tools: the tools that the model was given.
        coerce: as :func:`check` has it.
    """
    found = message.get("tool_calls") if isinstance(message, Mapping) else None
    return [_check_wrapped(one, tools, coerce) for one in (found if isinstance(found, list) else [])]


def _check_wrapped(wrapped: Any, tools: Sequence[Tool], coerce: bool) -> Guarded:
    call = wrapped.get("function") if isinstance(wrapped, dict) else None
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), str):
        return check(call, tools, coerce)  # type: ignore[arg-type]  # what is no call is check's to reject
    try:
        arguments = json.loads(call["arguments"], object_pairs_hook=once)
    except (RecursionError, ValueError) as error:
        return Guarded(call, f"{_shown(call.get('name'))}: the arguments are not JSON: {_clipped(str(error), 200)}")
    guarded = check({**call, "arguments": arguments}, tools, coerce)
    return guarded if guarded.accepted else Guarded(call, guarded.reason)


@lru_cache(maxsize=1024)
def _validator(name: str, schema_json: str) -> Validator:
    schema = json.loads(schema_json)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise DataError(f"tool {name!r}: its parameters are not a JSON Schema: {error.message}") from None
    if "additionalProperties" not in schema:
        # Unlike additionalProperties, this one sees through allOf and $ref, so a composed schema still works.
        schema.setdefault("unevaluatedProperties", False)
    # An explicit registry: without one, jsonschema fetches an http $ref from the network.
    return TOOL_VALIDATOR(schema, registry=EMPTY_REGISTRY)


def _coerced(value: Any, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        return {key: _coerced(item, properties.get(key, others)) for key, item in value.items()}
    if isinstance(value, list):
        return [_coerced(item, schema.get("items")) for item in value]
    types = types_of(schema)
    if isinstance(value, float) and "integer" in types and "number" not in types:
        return int(value) if value.is_integer() and abs(value) <= _EXACT_FLOAT else value
    if isinstance(value, str) and types and "string" not in types:
        return _from_text(value, types)
    return value


def types_of(schema: dict[str, Any]) -> set[str]:
    """The types that a schema names, itself or in the choices of its `anyOf`: what `int | None` becomes in many libraries."""
    choices = schema.get("anyOf")
    if "type" not in schema and isinstance(choices, list) and all(isinstance(one, dict) and "type" in one for one in choices):
        return set().union(*map(types_of, choices))
    declared = schema.get("type", [])
    return {declared} if isinstance(declared, str) else set(declared)


def _from_text(text: str, types: set[str]) -> Any:
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    if types & {"integer", "number"} and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        number = float(text)
        # Only if the float, written out again, is the number that stood there: 0.1 is, 1e999 and 20 decimals are not.
        return number if math.isfinite(number) and Decimal(repr(number)) == Decimal(text) else text
    return text


def _order(error: jsonschema.ValidationError) -> tuple[int, list[str]]:
    # A missing argument first: the rest of a call without it is seldom what the model meant.
    rank = {"required": 0, "additionalProperties": 1, "unevaluatedProperties": 1}
    return rank.get(str(error.validator), 2), [str(part) for part in error.absolute_path]


def _reason(name: str, error: jsonschema.ValidationError) -> str:
    path = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema
    keyword, limit = str(error.validator), cast(Any, error.validator_value)
    if keyword == "required":
        missing = next((key for key in limit if key not in value and repr(key) in error.message), "?")
        return f"{path}.{missing}: is required and missing"
    if keyword in ("additionalProperties", "unevaluatedProperties") and limit is False:
        listed = list(schema.get("properties", {}))
        # The message names those that are not in an `anyOf` or behind a `$ref` either; what is there, it does not.
        key = next((key for key in value if key not in listed and repr(key) in error.message), "?")
        elsewhere = not _COMPOSING.isdisjoint(schema)
        return f"{path}.{_clipped(key)}: no such argument{_nearest(key, listed) or ('' if elsewhere else _one_of(listed))}"
    if keyword == "type":
        wanted = limit if isinstance(limit, str) else " or ".join(limit)
        return f"{path}: must be of type {wanted}, not {_kind(value)}"
    if keyword == "enum":
        return f"{path}: must be one of {', '.join(_shown(choice) for choice in limit)}, not {_shown(value)}"
    return f"{path}: {_clipped(error.message, 200)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:200], list(known), n=1, cutoff=0.6)
    return f"; the nearest is {close[0]!r}" if close else ""


def _one_of(known: Iterable[str]) -> str:
    names = list(known)
    return f"; there is {', '.join(names)}" if names else "; there is none"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return f"the {kinds.get(type(value), type(value).__name__)} {_shown(value)}"


def _shown(value: Any) -> str:
    # ASCII where the text is not valid Unicode, so that a reason can always be written to a file.
    text = json.dumps(value, ensure_ascii=not is_unicode(str(value)), default=str)
    return _clipped(text)


def _clipped(text: str, length: int = _SHOWN) -> str:
    text = text if is_unicode(text) else ascii(text)
    return text if len(text) <= length else text[: length - 1] + "…"
