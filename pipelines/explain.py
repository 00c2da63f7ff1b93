"""Pydantic's errors of a config as one line in plain words: which key, what is wrong, what would be right."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from calltune.credentials import without_passwords
from calltune.settings import Settings

SHOWN = 80
"""Characters of a wrong value that are shown."""
# By pydantic's name of the error; what stands in braces comes with the error.
_WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "a section of settings"),
    "string_type": "text, in quotes",
    "finite_number": "a finite number",
    "string_too_short": "a text that is not empty",
    "list_type": "a list",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:.10g}",
    "less_than_equal": "at most {le:g}",
}


def explained(error: ValidationError, root: type[Settings]) -> str:
    """The first wrong key and what is wrong with it, and how many more there are.

    A key that is unknown comes before all others: what is missing is most often what it was to be.

    Args:
        error: what pydantic has found.
        root: the settings that it was checking.
    """
    wrong: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for one in error.errors():
        wrong.setdefault(_setting(root, one["loc"]), []).append(one)
    place, found = min(wrong.items(), key=lambda item: not _is_unknown(root, *item))
    key = ".".join(map(str, place))
    text = _sentence(root, place, found)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return " ".join(f"{key}: {text}{more}".split()) if key else f"{text}{more}"


def _sentence(root: type[Settings], place: tuple[int | str, ...], found: list[ErrorDetails]) -> str:
    first = found[0]
    wrong_key = first["loc"][-1:] == ("[key]",)
    if _is_unknown(root, place, found):
        *parents, last = place
        known = _keys(_inside(root, parents))
        near = difflib.get_close_matches(str(last), known, n=1)
        meant = near or list(_elsewhere(root, str(last)))
        return f"unknown key; {'did you mean ' + ' or '.join(meant) + '?' if meant else 'known are ' + ', '.join(known)}"
    if first["type"] == "missing":
        return "is required"
    if first["input"] is None:
        return "has no value; give it one, or leave the key out"
    given = "" if isinstance(first["input"], dict) else f", not {_shown(first['input'])}"
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
        return f"{'the key ' if wrong_key else ''}{text}{'' if repr(first['input']) in text else given}"
    choices = [_WORDS[one["type"]].format(**one.get("ctx", {})) if one["type"] in _WORDS else one["msg"] for one in found]
    return f"{'the key ' if wrong_key else ''}must be {' or '.join(dict.fromkeys(choices))}{given}"


def _is_unknown(root: type[Settings], place: tuple[int | str, ...], found: list[ErrorDetails]) -> bool:
    """Whether it is the key itself that there is no setting for."""
    first = found[0]
    wrong_key = first["loc"][-1:] == ("[key]",) and bool(_keys(_inside(root, place[:-1])))
    return first["type"] in ("extra_forbidden", "invalid_key") or wrong_key


def _elsewhere(section: type[Settings], key: str) -> Iterator[str]:
    """Where in a section, and the sections in it, there is a setting of that name."""
    for name, field in section.model_fields.items():
        inside = field.annotation
        if name == key:
            yield name
        elif isinstance(inside, type) and issubclass(inside, Settings):
            yield from (f"{name}.{path}" for path in _elsewhere(inside, key))


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str | list) else str(value)
    text = without_passwords(text)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _setting(root: type[Settings], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of pydantic's location that names a setting: after that it says which of several types it has tried."""
    place: Any = root
    for number, part in enumerate(location):
        if not _has_parts(place):
            return location[:number]
        place = _inside(place, [part])
    return location[:-1] if location[-1:] == ("[key]",) else location


def _has_parts(annotation: Any) -> bool:
    return _is_section(annotation) or get_origin(annotation) in (dict, list)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _inside(annotation: Any, path: Sequence[int | str]) -> Any:
    """The type of what is at a path inside a type; None where a section has no such key."""
    for part in path:
        while get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        if _is_section(annotation):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
        else:
            return None
    return annotation


def _keys(annotation: Any) -> list[str]:
    """The keys that a section, or a mapping with named keys, may have."""
    if _is_section(annotation):
        return list(annotation.model_fields)
    keys = get_args(annotation)[0] if get_origin(annotation) is dict else None
    return [str(key) for key in get_args(keys)] if get_origin(keys) is Literal else []
