"""JSON Schemas as most tools have them, seen to be valid, and to fit a value, at a glance.

Only ever a quick yes: what is not plain, or does not plainly fit, is for jsonschema to judge, a hundred times as slowly, and to
say why.

    >>> is_plain({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
    True
"""

from typing import Any

_IS_OF_TYPE: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
"""By `type()`, for which True is no int. A float such as 5.0 is an integer to JSON Schema, though not plainly."""
_DEEPEST = 8
"""Levels of schemas in schemas that can still be plain: what is nested deeper jsonschema may find too deep."""


def is_plain(schema: Any, levels: int = _DEEPEST) -> bool:
    """Whether this is a schema of JSON Schema 2020-12 with nothing in it but types, texts, defaults, choices, and plain schemas.

    Such a schema is valid, refers to nothing, and says of each value by itself whether that fits.

    Args:
        schema: a JSON value.
        levels: of schemas that may be in it.
    """
    return type(schema) is dict and all(_is_plain_part(keyword, value, levels - 1) for keyword, value in schema.items())


def _is_plain_part(keyword: str, value: Any, levels: int) -> bool:
    if keyword == "type":
        return type(value) is str and value in _IS_OF_TYPE
    if keyword in ("description", "title"):
        return type(value) is str
    if keyword == "properties":
        return levels > 0 and type(value) is dict and all(is_plain(schema, levels) for schema in value.values())
    if keyword in ("items", "additionalProperties"):
        return levels > 0 and is_plain(value, levels)
    if keyword == "required":
        return type(value) is list and all(type(name) is str for name in value) and len(set(value)) == len(value)
    return keyword == "default" or (keyword == "enum" and type(value) is list)


def fits(value: Any, schema: dict[str, Any], closed: bool = False) -> bool:
    """Whether a JSON value plainly fits a plain schema; False where it does not, or not plainly.

    Args:
        value: as `json.loads` gives it.
        schema: of which `is_plain` is true.
        closed: whether an object must have no other properties than those that the schema itself lists, if it does not say.
    """
    if "type" in schema and type(value) not in _IS_OF_TYPE[schema["type"]]:
        return False
    if "enum" in schema and not (type(value) is str and value in schema["enum"]):
        return False
    if type(value) is list and "items" in schema:
        return all(fits(item, schema["items"]) for item in value)
    return type(value) is not dict or _object_fits(value, schema, closed)


def _object_fits(value: dict[str, Any], schema: dict[str, Any], closed: bool) -> bool:
    listed, others = schema.get("properties", {}), schema.get("additionalProperties")
    if not all(name in value for name in schema.get("required", ())):
        return False
    for name, item in value.items():
        rule = listed.get(name, others)
        if rule is None:
            if closed:
                return False
        elif not fits(item, rule):
            return False
    return True
