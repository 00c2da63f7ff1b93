"""The operations of an OpenAPI 3 document as tools: parameters and the fields of the body become arguments."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from calltune.errors import DataError

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_IGNORED_HEADERS = ("accept", "content-type", "authorization")
"""OpenAPI itself says that parameters of these names are ignored."""
_NOT_JSON_SCHEMA = (
    "nullable",
    "example",
    "examples",
    "xml",
    "externalDocs",
    "discriminator",
    "readOnly",
    "writeOnly",
    "deprecated",
)
_NAME_LETTERS = 64
_MOST_SCHEMAS = 10_000
"""In one tool, its references put in place: schemas that refer to each other may come to millions, no prompt has that room."""


def is_document(document: dict[str, Any]) -> bool:
    """Whether this is an OpenAPI document, of whatever version."""
    return "openapi" in document or "swagger" in document


def tools(document: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The operations as ``{"name", "description", "parameters"}``, in the document's order.

    A tool has the operation's `operationId` for a name, else method and path: `get_pets_petId`. References are put in
    place; where a schema refers to itself, the inner one is any value of its type. Fields of a JSON or form body stand
    beside the parameters; a body that is no object, or has a field called like a parameter, is the argument `body`.

    Raises:
        DataError: another version than 3, a reference that leads nowhere, or a parameter without a name.
    """
    if not str(document.get("openapi", "")).startswith("3."):
        version = document.get("openapi", document.get("swagger"))
        raise DataError(f"{where}: is OpenAPI (Swagger) {version}; version 3 would be right: convert it first")
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise DataError(f"{where}: has no `paths`, and so no operations")
    reader = _Reader(document, where)
    found = []
    for path, unresolved in paths.items():
        item = reader.resolved(unresolved)
        for method in (method for method in METHODS if isinstance(item.get(method), dict)):
            found.append(reader.tool(path, method, item))
    return found


class _Reader:
    def __init__(self, document: dict[str, Any], where: str) -> None:
        self.document, self.where = document, where
        self.operation, self.schemas = "", 0

    def tool(self, path: str, method: str, item: dict[str, Any]) -> dict[str, Any]:
        operation = item[method]
        self.operation, self.schemas = f"{method} {path}", 0
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "_", str(operation.get("operationId") or f"{method}{path}")).strip("_")
        properties: dict[str, Any] = {}
        required: list[str] = []
        for parameter in self.parameters(item, operation, f"{self.where}, {method} {path}"):
            key = parameter["name"]
            properties[key] = self.parameter_schema(parameter)
            if parameter.get("in") == "path" or parameter.get("required") is True:
                required.append(key)
        body, needed = self.body(operation)
        fields = body.get("properties") if body.get("type") == "object" else None
        if fields and not fields.keys() & properties.keys():
            properties |= fields
            required += [key for key in body.get("required", []) if needed and key in fields]
        elif body:
            properties["body"] = body
            required += ["body"] if needed else []
        schema = {"type": "object", "properties": properties, **({"required": list(dict.fromkeys(required))} if required else {})}
        description = operation.get("description") or operation.get("summary") or item.get("description") or ""
        return {"name": name[:_NAME_LETTERS], "description": str(description).strip(), "parameters": schema}

    def parameters(self, item: dict[str, Any], operation: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
        """The operation's parameters, with those of its path that it does not define anew."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        given = [one.get("parameters") or [] for one in (item, operation)]
        if not all(isinstance(some, list) for some in given):
            raise DataError(f"{where}: `parameters` must be a list")
        for unresolved in chain(*given):
            parameter = self.resolved(unresolved)
            if not isinstance(parameter.get("name"), str):
                raise DataError(f"{where}: a parameter needs a name")
            found[parameter["name"], str(parameter.get("in"))] = parameter
        for (name, place), parameter in found.items():
            if place != "header" or name.lower() not in _IGNORED_HEADERS:
                yield parameter

    def parameter_schema(self, parameter: dict[str, Any]) -> dict[str, Any]:
        contents = parameter.get("content") or {}
        media: dict[str, Any] = next(iter(contents.values()), {}) if isinstance(contents, dict) else {}
        schema = self.schema(parameter.get("schema") or media.get("schema") or {})
        says = parameter.get("description")
        return {**schema, "description": says} if isinstance(says, str) and says.strip() else schema

    def body(self, operation: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The schema of the operation's body, empty where it takes none, and whether it must be given."""
        body = self.resolved(operation.get("requestBody") or {})
        contents = body.get("content")
        if not isinstance(contents, dict) or not contents:
            return {}, False
        media = next((value for name, value in contents.items() if "json" in name), next(iter(contents.values())))
        schema = media.get("schema") if isinstance(media, dict) else None
        return (self.schema(schema) if schema else {"type": "string"}), body.get("required") is True

    def resolved(self, value: Any, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        """What a reference leads to, or the value itself."""
        if not isinstance(value, dict):
            raise DataError(f"{self.where}: an object should stand where {str(value)[:60]!r} is")
        reference = value.get("$ref")
        if not isinstance(reference, str):
            return value
        if reference in seen:
            raise DataError(f"{self.where}: the reference {reference!r} leads back to itself")
        return self.resolved(self.target(reference), (*seen, reference))

    def target(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise DataError(f"{self.where}: {reference!r} is in another document: bundle them into one first")
        place: Any = self.document
        for part in reference[2:].split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, dict) or part not in place:
                raise DataError(f"{self.where}: the reference {reference!r} leads nowhere")
            place = place[part]
        return place

    def schema(self, value: Any, inside: tuple[str, ...] = ()) -> dict[str, Any]:
        """A schema as JSON Schema has it, references put in place."""
        self.schemas += 1
        if self.schemas > _MOST_SCHEMAS:
            raise DataError(
                f"{self.where}: {self.operation}: has more than {_MOST_SCHEMAS:,} schemas with its references put in place; "
                "leave it out, or let its schemas refer to fewer"
            )
        if isinstance(value, bool):
            return {} if value else {"not": {}}
        reference = value.get("$ref") if isinstance(value, dict) else None
        if isinstance(reference, str):
            target = self.resolved(value)
            if reference in inside:
                return {key: target[key] for key in ("type", "description") if key in target}
            return self.schema({**target, **{key: value[key] for key in ("description",) if key in value}}, (*inside, reference))
        if not isinstance(value, dict):
            raise DataError(f"{self.where}: a schema must be an object, not {str(value)[:60]!r}")
        kept = {key: one for key, one in value.items() if key not in _NOT_JSON_SCHEMA and not key.startswith("x-")}
        names = kept.get("required", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{self.where}: `required` of a schema must be a list of names, not {str(names)[:60]!r}")
        if not isinstance(kept.get("properties", {}), dict):
            raise DataError(f"{self.where}: `properties` of a schema must be an object, not {str(kept['properties'])[:60]!r}")
        for key in ("properties", "patternProperties"):
            if isinstance(kept.get(key), dict):
                kept[key] = {name: self.schema(one, inside) for name, one in kept[key].items() if not _read_only(one)}
        for key in ("items", "additionalProperties", "not"):
            if isinstance(kept.get(key), dict):
                kept[key] = self.schema(kept[key], inside)
        for key in ("allOf", "anyOf", "oneOf"):
            if isinstance(kept.get(key), list):
                kept[key] = [self.schema(one, inside) for one in kept[key]]
        for key, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(kept.get(key), bool):  # version 3.0: a flag beside the limit
                exclusive = kept.pop(key)
                if exclusive and limit in kept:
                    kept[key] = kept.pop(limit)
        if "properties" in kept:
            kept.setdefault("type", "object")
            if isinstance(kept.get("required"), list):
                kept["required"] = [name for name in kept["required"] if name in kept["properties"]]
        return _one_object(kept)


def _read_only(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("readOnly") is True


def _one_object(schema: dict[str, Any]) -> dict[str, Any]:
    """An object that is put together by `allOf` as one; whatever else uses that stays as it is."""
    parts = schema.get("allOf")
    if not isinstance(parts, list) or not all(
        part.keys() <= {"type", "properties", "required", "description", "title"} for part in parts
    ):
        return schema
    if not all(part.get("type") == "object" for part in parts) or schema.get("type", "object") != "object":
        return {**parts[0], **{key: one for key, one in schema.items() if key != "allOf"}} if len(parts) == 1 else schema
    rest = {key: one for key, one in schema.items() if key != "allOf"}
    whole = [*parts, rest]
    properties = {name: one for part in whole for name, one in part.get("properties", {}).items()}
    required = list(dict.fromkeys(name for part in whole for name in part.get("required", [])))
    return {**rest, "type": "object", "properties": properties, **({"required": required} if required else {})}
