"""xLAM's loose types of parameters, such as `List[str], optional`, turned into JSON Schema."""

import re
from typing import Any

from calltune.errors import DataError


def from_loose_types(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool whose parameters have xLAM's loose types, with these turned into JSON Schema; the rest of it as it was.

        {"name": "f", "parameters": {"city": {"description": "Where.", "type": "str"}, "days": {"type": "int, optional"}}}

    becomes a tool with the parameters ``{"type": "object", "properties": {"city": {"description": "Where.", "type":
    "string"}, "days": {"type": "integer"}}, "required": ["city"]}``. A flat parameter is required unless it says
    `optional`, has a default, or has a sibling that says `required` where it does not. A tool that already is a JSON
    Schema keeps its `required` list, and `required: true` inside a property is added to it.

    Raises:
        DataError: a type that has no counterpart, with the parameter's name.
    """
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("parameters"), dict):
        return tool
    name = f"{where}: tool {function.get('name')!r}"
    return {**function, "parameters": _object_schema(function["parameters"], name)}


_LOOSE_TYPES: dict[str, str] = {
    **dict.fromkeys(("str", "string", "text", "char", "bytes", "date", "datetime", "time", "complex", "callable"), "string"),
    **dict.fromkeys(("byte", "short", "bigint"), "integer"),
    **dict.fromkeys(("int", "integer", "long"), "integer"),
    **dict.fromkeys(("float", "number", "double", "decimal"), "number"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("list", "array", "tuple", "set", "sequence", "iterable", "np.ndarray"), "array"),
    "arraylist": "array",
    **dict.fromkeys(("dict", "object", "map", "mapping", "json", "hashmap"), "object"),
    **dict.fromkeys(("none", "null", "nonetype"), "null"),
    "any": "",
}
_NOT_A_SCHEMA = ("type", "required", "default", "nullable")
"""Keys of a loose property that mean something else in JSON Schema, or are read apart."""


def _object_schema(parameters: dict[str, Any], where: str) -> dict[str, Any]:
    properties = parameters.get("properties")
    # A flat tool may well have a parameter called `type` or `properties`: its value then is no string, no dict of dicts.
    nested = isinstance(properties, dict) and all(isinstance(schema, dict) for schema in properties.values())
    flat = not nested and not isinstance(parameters.get("type"), str)
    if flat:
        properties, rest = parameters, {}
    else:
        rest = {key: value for key, value in parameters.items() if key not in ("type", "properties", "required", "nullable")}
        properties = properties if isinstance(properties, dict) else {}
    schemas: dict[str, Any] = {}
    required = [] if flat or not isinstance(parameters.get("required"), list) else list(parameters["required"])
    marked = any(isinstance(p, dict) and isinstance(p.get("required"), bool) for p in properties.values())
    for name, loose in properties.items():
        place = f"{where}, parameter {name!r}"
        schemas[name], optional = _property_schema({"type": loose} if isinstance(loose, str) else loose, place)
        says = loose.get("required") if isinstance(loose, dict) else None
        needed = says if isinstance(says, bool) else flat and not marked and not optional
        if needed and name not in required:
            required.append(name)
    return {**rest, "type": "object", "properties": schemas, **({"required": required} if required else {})}


def _property_schema(loose: Any, where: str) -> tuple[dict[str, Any], bool]:
    """A property's schema, and whether it says that it may be left out."""
    if not isinstance(loose, dict):
        raise DataError(f"{where}: must be an object with a type, not {loose!r}")
    kept = {key: value for key, value in loose.items() if key not in _NOT_A_SCHEMA and value is not None}
    text, optional = loose.get("type"), loose.get("required") is False
    if isinstance(text, str):
        schema, says_optional = _typed(text, where)
        optional = optional or says_optional
    elif isinstance(text, list) and all(isinstance(one, str) for one in text):
        options = [_typed(one, where)[0] for one in text]
        simple = all(set(option) == {"type"} for option in options)
        schema = {"type": [option["type"] for option in options]} if simple else {"anyOf": options}
    elif text is None:
        schema = {}
    else:
        raise DataError(f"{where}: type must be a string, not {text!r}")
    if isinstance(kept.get("properties"), dict):
        if isinstance(loose.get("required"), list):
            kept["required"] = loose["required"]
        kept |= {key: value for key, value in _object_schema({**kept, "type": "object"}, where).items() if key != "type"}
    if isinstance(kept.get("items"), str | dict):
        item = {"type": kept["items"]} if isinstance(kept["items"], str) else kept["items"]
        kept["items"] = _property_schema(item, f"{where}, items")[0]
    default = _loose_default(loose.get("default"), schema.get("type"))
    if default is not None and default != "None" and not (default == "" and schema.get("type") != "string"):
        kept["default"] = default
    return {**schema, **kept}, optional or default is not None


def _loose_default(value: Any, json_type: Any) -> Any:
    """A default as its type has it, where it is written as Python text: ``("10", "integer")`` is 10, ``"'US'"`` is US."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if json_type in (None, "string") and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if json_type == "boolean":
        return {"true": True, "false": False}.get(text.lower(), value)
    if json_type in ("integer", "number") and re.fullmatch(r"-?\d{1,15}", text, re.ASCII):
        return int(text)
    if json_type == "number" and re.fullmatch(r"-?\d{1,15}\.\d{1,15}", text, re.ASCII):
        return float(text)
    return value


def _typed(text: str, where: str) -> tuple[dict[str, Any], bool]:
    """The schema of a type such as ``List[Union[int, str]], optional``, and whether it says `optional`."""
    parts = _split(text, ",")
    optional = False
    while len(parts) > 1 and re.match(r"(optional|required|default)", parts[-1], re.IGNORECASE):
        optional = optional or not parts.pop().lower().startswith("required")
    text = ", ".join(parts)
    union = _split(text, "|") if "|" in text else re.split(r"\s+or\s+", text) if "[" not in text else [text]
    name, _, inside = text.partition("[")
    name = name.strip().removeprefix("typing.").lower()
    arguments = _split(inside.rstrip().removesuffix("]"), ",") if inside else []
    if len(union) == 1 and name == "optional" and len(arguments) == 1:
        return _typed(arguments[0], where)[0], True
    if len(union) > 1 or (name == "union" and arguments):
        joined, nullable = _union(union if len(union) > 1 else arguments, where)
        return joined, optional or nullable
    if name == "literal" and arguments:
        return {"enum": [_loose_default(_loose_default(a, "number"), "string") for a in arguments]}, optional
    if name not in _LOOSE_TYPES:
        raise DataError(f"{where}: the type {text!r} has no counterpart in JSON Schema")
    schema: dict[str, Any] = {"type": _LOOSE_TYPES[name]} if _LOOSE_TYPES[name] else {}
    if schema.get("type") == "array" and arguments:
        items = [_typed(argument, where)[0] for argument in arguments if argument != "..."]
        if items and all(item == items[0] for item in items) and items[0]:
            schema["items"] = items[0]
    if schema.get("type") == "object" and len(arguments) == 2:
        schema["additionalProperties"] = _typed(arguments[1], where)[0]
    return schema, optional


def _union(texts: list[str], where: str) -> tuple[dict[str, Any], bool]:
    """One schema for several types; with `None` among them the argument may be left out, since records hold no nulls."""
    options = [_typed(text, where)[0] for text in texts]
    given = [option for option in options if option != {"type": "null"}]
    return (given[0] if len(given) == 1 else {"anyOf": given} if given else {}), len(given) < len(options)


def _split(text: str, separator: str) -> list[str]:
    """Split at the separators that stand outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "[(") - (letter in "])")
        if letter == separator and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]
