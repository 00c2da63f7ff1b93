"""Values that a model wrote: whether JSON can hold them, and three keywords that jsonschema judges wrongly or slowly.

Of a list of objects it compares each pair of items, and of `[[1], [true], [1]]` it misses the equal one; a pattern such as
`^(a|aa)+$` takes `re` longer than anybody waits, for a text of sixty letters; and 19.99 / 0.01 is no whole number in floats.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

PATTERN_S = 0.5
"""CPU time that one text may take against a pattern; a good pattern takes microseconds."""


def _pattern(validator: Validator, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    """Raises TimeoutError, so that a list of such texts does not take the time many times over."""
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=PATTERN_S):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique_items(validator: Validator, unique: bool, instance: Any, _: Any) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list) and len(set(map(_hashable, instance))) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _multiple_of(validator: Validator, step: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """By the decimal digits, which are what stands in the JSON."""
    if validator.is_type(instance, "number") and (Fraction(repr(instance)) / Fraction(repr(step))).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _hashable(value: Any) -> Any:
    """The same for values that are equal in JSON, and for no others: 1 is 1.0, and true is not 1."""
    if isinstance(value, dict):
        return dict, frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list):
        return list, tuple(map(_hashable, value))
    return (bool, value) if isinstance(value, bool) else value


TOOL_VALIDATOR = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique_items, "multipleOf": _multiple_of}
)
"""Of JSON Schema 2020-12, for what models write."""


def not_json(arguments: dict[str, Any], name: str) -> str | None:
    """Why a value could not be sent on as JSON: Python reads `1e999` as infinity and a lone surrogate as a character."""
    # A path is its last part behind the path around it: written out for every value, paths would take the square of the text.
    stack: list[tuple[Any, Any]] = [((None, name), arguments)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{_written(path)}: {value} is not a JSON number"
        if isinstance(value, str) and not is_unicode(value):
            return f"{_written(path)}: is not valid Unicode text"
        if isinstance(value, dict):
            if not all(isinstance(key, str) and is_unicode(key) for key in value):
                return f"{_written(path)}: an argument's name is not valid Unicode text"
            stack += [((path, f".{key}"), item) for key, item in value.items()]
        if isinstance(value, list):
            stack += [((path, f"[{index}]"), item) for index, item in enumerate(value)]
    return None


def _written(path: Any) -> str:
    parts = []
    while path is not None:
        path, part = path
        parts.append(part)
    return "".join(reversed(parts))


def is_unicode(text: str) -> bool:
    """Whether a text can be written to a file: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
