"""Tool schemas: from documented Python functions, a file of tools, an OpenAPI document or an MCP dump, to JSON Schema."""

import importlib.util
import inspect
import json
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema

from calltune import storage
from calltune.errors import DataError
from calltune.records import Tool


def load(path: str | Path) -> list[Tool]:
    """Read the tools that a file defines.

    Args:
        path: a Python file, whose public functions with type hints and Google-style docstrings become tools; or a JSON or
            YAML file: a list of tools in the OpenAI form, bare ``{"name", "description", "parameters"}`` or with xLAM's
            loose types; an OpenAPI 3 document, whose operations become tools; or what an MCP server answered to
            `tools/list`. At ``s3://…`` no Python: what a store holds is never run.

    Raises:
        DataError: no such file, no tool in it, or a tool whose schema is not valid.
    """
    address = str(path)
    if address.startswith("s3://"):
        tools = _from_document(_stored(address), address)
    else:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such tools file")
        tools = _from_python(path) if path.suffix == ".py" else _from_document(path.read_bytes(), address)
    if not tools:
        raise DataError(f"{path}: no tool in it; a Python file needs public, documented functions")
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the tool {name!r} is defined twice")
    return tools


def normalise(tool: dict[str, Any], where: str) -> Tool:
    """A tool in the OpenAI form: name, description, parameters, in that order, the parameters a valid JSON Schema.

    Raises:
        DataError: the tool has no name, or its parameters are not a JSON Schema of an object.
    """
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{where}: a tool needs a name")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise DataError(f"{where}: tool {function['name']!r}: parameters must be a JSON Schema of type object")
    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError as error:
        raise DataError(f"{where}: tool {function['name']!r}: parameters are not a JSON Schema: {error.message}") from None
    # `nullable` is OpenAPI, not JSON Schema; an absent optional argument is absent here, never null.
    properties = {
        name: {key: value for key, value in schema.items() if key != "nullable"} if isinstance(schema, dict) else schema
        for name, schema in parameters.get("properties", {}).items()
    }
    parameters = {"type": "object", **parameters, "properties": properties}
    return {
        "type": "function",
        "function": {"name": function["name"], "description": function.get("description") or "", "parameters": parameters},
    }


def names_of(tools: list[Tool]) -> list[str]:
    """The tools' names, in order."""
    return [tool["function"]["name"] for tool in tools]


def _from_python(path: Path) -> list[Tool]:
    # Importing torch-free: transformers' schema helper only reads signatures and docstrings.
    from transformers.utils import get_json_schema

    tools = []
    for name, function in inspect.getmembers(_import(path), inspect.isfunction):
        if name.startswith("_") or function.__module__ != f"calltune_tools_{path.stem}":
            continue
        try:
            tools.append((function.__code__.co_firstlineno, get_json_schema(function)["function"]))
        except Exception as error:  # the hints and the docstring are the user's own: anything can be wrong with them
            where = f"{path}, line {function.__code__.co_firstlineno}: function {name!r}"
            raise DataError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    return [normalise(schema, str(path)) for _, schema in sorted(tools, key=lambda pair: pair[0])]


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"calltune_tools_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code: anything can come out of it
        line, text = _place_and_text(spec.origin, error)
        where = f"{path}, line {line}" if line else str(path)
        raise DataError(f"{where}: cannot be imported: {type(error).__name__}: {' '.join(text.split())}") from None
    return module


def _place_and_text(file: str | None, error: BaseException) -> tuple[int | None, str]:
    """The line of a file from which an error came, None where none can be named, and what the error says."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno, error.msg
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else None, str(error)


def _stored(uri: str) -> bytes:
    store, key = storage.at(uri)
    data = store.get(key)
    if data is None:
        raise DataError(f"{uri}: no such tools file")
    return data


def _from_document(data: bytes, path: str) -> list[Tool]:
    document = _document(data, path)
    if isinstance(document, dict):
        from calltune import openapi

        # JSON-RPC wraps the answer of an MCP server.
        result = document.get("result", document)
        if openapi.is_document(document):
            return [normalise(tool, path) for tool in openapi.tools(document, path)]
        if isinstance(result, dict) and isinstance(result.get("tools"), list):
            if result.get("nextCursor"):
                raise DataError(f"{path}: is one page of `tools/list`, and `nextCursor` says that more follow: dump them all")
            document = result["tools"]
    if not isinstance(document, list) or not all(isinstance(tool, dict) for tool in document):
        raise DataError(f"{path}: must be a JSON list of tools, an OpenAPI 3 document, or an MCP server's answer to tools/list")
    return [_listed(tool, f"{path}, tool {number}") for number, tool in enumerate(document, 1)]


def _document(data: bytes, path: str) -> Any:
    if path.lower().endswith((".yaml", ".yml")):
        import yaml

        try:
            # Through JSON, since YAML also has dates, and keys that are numbers.
            return json.loads(json.dumps(yaml.safe_load(data.decode("utf-8")), default=str))
        except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from None


def _listed(tool: dict[str, Any], where: str) -> Tool:
    if "inputSchema" in tool:  # MCP's name for it
        schema = tool["inputSchema"]
        schema = {key: value for key, value in schema.items() if key != "$schema"} if isinstance(schema, dict) else schema
        tool = {"name": tool.get("name"), "description": tool.get("description") or tool.get("title"), "parameters": schema}
    try:
        strict = normalise(tool, where)
    except DataError as error:
        try:
            return normalise(from_loose_types(tool, where), where)
        except DataError:
            raise error from None
    given = tool.get("function", tool).get("parameters") or {}
    # A flat `{"city": {"type": "str"}}` is a JSON Schema, too: of an object of which it says nothing.
    flat = given and not any(key in given for key in _OF_AN_OBJECT) and all(isinstance(one, dict) for one in given.values())
    return normalise(from_loose_types(tool, where), where) if flat else strict


_OF_AN_OBJECT = ("type", "properties", "$ref", "allOf", "anyOf", "oneOf", "additionalProperties", "patternProperties")


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
