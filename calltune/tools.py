"""Tool schemas: from documented Python functions, a file of tools, an OpenAPI document or an MCP dump, to JSON Schema."""

import json
from pathlib import Path
from typing import Any

import jsonschema

from calltune import python_tools, references, storage
from calltune.errors import DataError, no_such_file
from calltune.loose_types import from_loose_types
from calltune.plain_schemas import is_plain
from calltune.records import Tool, once

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How files begin that gzip and zstd have made."""


def load(path: str | Path) -> list[Tool]:
    """Read the tools that a file defines.

    Args:
        path: a Python file, whose public functions with type hints and Google-style docstrings become tools; or a JSON or
            YAML file: a list of tools in the OpenAI form, bare ``{"name", "description", "parameters"}`` or with xLAM's
            loose types; an OpenAPI 3 document, whose operations become tools; or what an MCP server answered to
            `tools/list`, of several pages a list of the answers. At ``s3://…`` no Python: what a store holds is never run.

    Raises:
        DataError: no such file, no tool in it, or a tool whose schema is not valid.
    """
    address = str(path)
    if address.startswith("s3://"):
        tools = _from_document(_stored(address), address)
    else:
        path = Path(path)
        if not path.is_file():
            raise no_such_file(address, "tools")
        if path.suffix == ".py":
            tools = [normalise(function, address) for function in python_tools.functions_of(path)]
        else:
            tools = _from_document(path.read_bytes(), address)
    if not tools:
        raise DataError(f"{path}: no tool in it; a Python file needs public, documented functions")
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the tool {name!r} is defined twice")
    try:
        json.dumps(tools, allow_nan=False)
    except ValueError:
        raise DataError(f"{path}: has a number that is infinite or none (NaN), which no JSON can hold") from None
    return tools


def normalise(tool: dict[str, Any], where: str) -> Tool:
    """A tool in the OpenAI form: name, description, parameters, in that order, the parameters a valid JSON Schema.

    Raises:
        DataError: the tool has no name, its description is no text, its parameters are not a JSON Schema of an object, or a
            reference in them leads nowhere.
    """
    tool = _with_parameters(tool)
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{where}: a tool needs a name")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise DataError(f"{where}: tool {function['name']!r}: the description must be a string")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise DataError(f"{where}: tool {function['name']!r}: parameters must be a JSON Schema of type object")
    if not is_plain(parameters):
        _require_schema(parameters, f"{where}: tool {function['name']!r}")
    # `nullable` is OpenAPI, not JSON Schema; an absent optional argument is absent here, never null.
    properties = {
        name: {key: value for key, value in schema.items() if key != "nullable"} if isinstance(schema, dict) else schema
        for name, schema in parameters.get("properties", {}).items()
    }
    parameters = {"type": "object", **parameters, "properties": properties}
    return {
        "type": "function",
        "function": {"name": function["name"], "description": description, "parameters": parameters},
    }


def _require_schema(parameters: dict[str, Any], where: str) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError as error:
        raise DataError(f"{where}: parameters are not a JSON Schema: {error.message}") from None
    reference = references.wrong(parameters)
    if reference is not None:
        raise DataError(f"{where}: the reference {reference!r} leads nowhere in it, or to no schema")


def names_of(tools: list[Tool]) -> list[str]:
    """The tools' names, in order."""
    return [tool["function"]["name"] for tool in tools]


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

        if openapi.is_document(document):
            return [normalise(tool, path) for tool in openapi.tools(document, path)]
    answers = document if isinstance(document, list) else [document]
    pages = [page for page in map(_page, answers) if page is not None]
    if pages and len(pages) == len(answers):
        if pages[-1].get("nextCursor"):
            more = "dump them all: a JSON list of the answers, in order, is read"
            raise DataError(f"{path}: is one page of `tools/list`, and `nextCursor` says that more follow: {more}")
        document = [tool for page in pages for tool in page["tools"]]
    if not isinstance(document, list) or not all(isinstance(tool, dict) for tool in document):
        raise DataError(f"{path}: must be a JSON list of tools, an OpenAPI 3 document, or an MCP server's answer to tools/list")
    return [_listed(tool, f"{path}, tool {number}") for number, tool in enumerate(document, 1)]


def _page(answer: Any) -> dict[str, Any] | None:
    """What an MCP server answered to `tools/list`, out of the JSON-RPC that wraps it; None where it is no such answer."""
    result = answer.get("result", answer) if isinstance(answer, dict) else None
    return result if isinstance(result, dict) and isinstance(result.get("tools"), list) else None


def _document(data: bytes, path: str) -> Any:
    if data.startswith(_PACKED):
        raise DataError(
            f"{path}: is packed, and a tools file is not unpacked: the JSON, YAML or Python file itself would be right"
        )
    if path.lower().endswith((".yaml", ".yml")):
        import yaml

        try:
            # Through JSON, since YAML also has dates, and keys that are numbers.
            return json.loads(json.dumps(yaml.load(data.decode("utf-8"), _once_loader()), default=str))
        except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        right = "; one JSON list of all tools, [{…}, {…}], would be right, not one tool a line" if lines else ""
        raise DataError(f"{path}: not a JSON file: {error}{right}") from None


def _once_loader() -> type:
    """Of two values for one key, such as an OpenAPI path, YAML's own would keep the last, and the first be lost."""
    import yaml

    class Loader(yaml.SafeLoader):
        # As it is written: later on, what `<<` brings stands beside the keys that take its place.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            once([(str(key.value), None) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"])
            return node

    return Loader


def _with_parameters(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool with `parameters`, where they have MCP's name or Anthropic's."""
    function = tool.get("function", tool)
    if not isinstance(function, dict):
        return tool
    # Where a table's rows have both forms, the other one's field is there, too, and null.
    theirs = next((name for name in ("inputSchema", "input_schema") if function.get(name) is not None), None)
    if theirs is None:
        return tool
    schema = function[theirs]
    schema = {key: value for key, value in schema.items() if key != "$schema"} if isinstance(schema, dict) else schema
    description = function.get("description") or function.get("title")
    return {"name": function.get("name"), "description": description, "parameters": schema}


def _listed(tool: dict[str, Any], where: str) -> Tool:
    tool = _with_parameters(tool)
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
