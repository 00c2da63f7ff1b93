"""Tools from files that are no Python: lists in several forms, OpenAPI documents, MCP dumps."""

import gzip
import json

import pytest
import yaml

from calltune import guard, tools
from calltune.errors import DataError

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
PETS = {
    "openapi": "3.0.3",
    "info": {"title": "Pets", "version": "1"},
    "paths": {
        "/pets/{id}": {
            "parameters": [
                {
                    "name": "id",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                    "description": "The pet's number.",
                }
            ],
            "get": {
                "operationId": "getPet",
                "summary": "One pet.",
                "parameters": [
                    {"$ref": "#/components/parameters/Fields"},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                ],
            },
            "patch": {
                "description": "Change a pet.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Dog"}}},
                },
            },
        },
        "/pets": {
            "post": {
                "operationId": "addPets",
                "requestBody": {
                    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}}}}
                },
            }
        },
    },
    "components": {
        "parameters": {"Fields": {"name": "fields", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}},
        "schemas": {
            "Pet": {
                "type": "object",
                "required": ["name", "created"],
                "properties": {
                    "name": {"type": "string", "nullable": True, "example": "Rex"},
                    "example": {"type": "string"},
                    "created": {"type": "string", "readOnly": True},
                    "parent": {"$ref": "#/components/schemas/Pet"},
                },
            },
            "Dog": {
                "allOf": [{"$ref": "#/components/schemas/Pet"}, {"type": "object", "properties": {"barks": {"type": "boolean"}}}]
            },
        },
    },
}
PET = {"name": {"type": "string"}, "example": {"type": "string"}, "parent": {"type": "object"}}


@pytest.fixture
def load(tmp_path):
    """Write a value into a file, as its name says, and load the tools in it."""

    def run(value, name="tools.json"):
        (tmp_path / name).write_text(yaml.safe_dump(value, sort_keys=False) if name.endswith("yaml") else json.dumps(value))
        return tools.load(tmp_path / name)

    return run


def parameters(tool):
    return tool["function"]["parameters"]


@pytest.mark.parametrize("name", ["api.json", "api.yaml"])
def test_the_operations_of_an_openapi_document_are_tools(load, name):
    get, patch, post = load(PETS, name)
    assert [tool["function"]["name"] for tool in (get, patch, post)] == ["getPet", "patch_pets_id", "addPets"]
    assert [tool["function"]["description"] for tool in (get, patch, post)] == ["One pet.", "Change a pet.", ""]
    pet_id = {"type": "integer", "exclusiveMinimum": 0, "description": "The pet's number."}
    assert parameters(get) == {
        "type": "object",
        "properties": {"id": pet_id, "fields": {"type": "array", "items": {"type": "string"}}},
        "required": ["id"],
    }
    assert parameters(patch)["properties"] == {"id": pet_id, **PET, "barks": {"type": "boolean"}}
    assert parameters(patch)["required"] == ["id", "name"]
    assert parameters(post) == {
        "type": "object",
        "properties": {"body": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": PET}}},
    }


def test_the_guard_can_use_a_tool_of_an_openapi_document(load):
    listed = load(PETS)
    good = {"name": "patch_pets_id", "arguments": {"id": 1, "name": "Rex", "parent": {"name": "Bo"}}}
    assert guard.check(good, listed).accepted
    assert "patch_pets_id.id: " in guard.check({**good, "arguments": {"id": 0, "name": "Rex"}}, listed).reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"openapi": "2.1"}, r"is OpenAPI \(Swagger\) 2.1; version 3 would be right"),
        ({"paths": None}, "has no `paths`"),
        ({"components": {}}, "the reference '#/components/parameters/Fields' leads nowhere"),
        ({"paths": {"/a": {"$ref": "other.yaml#/a"}}}, "'other.yaml#/a' is in another document: bundle"),
        ({"paths": {"/a": {"get": {"parameters": [{"in": "query"}]}}}}, "get /a: a parameter needs a name"),
        ({"paths": {}}, "no tool in it"),
    ],
)
def test_an_openapi_document_that_cannot_be_used_says_why(load, change, message):
    with pytest.raises(DataError, match=message):
        load({**PETS, **change})


MCP = {
    "name": "find",
    "title": "Finder",
    "description": "Find.",
    "inputSchema": {"$schema": "https://json-schema.org/draft/2020-12/schema", **FIND["function"]["parameters"]},
    "annotations": {"readOnlyHint": True},
}


@pytest.mark.parametrize("dump", [{"tools": [MCP]}, {"jsonrpc": "2.0", "id": 1, "result": {"tools": [MCP]}}, [MCP]])
def test_what_an_mcp_server_lists_are_tools(load, dump):
    assert load(dump) == [FIND]


def test_tools_as_anthropic_writes_them_keep_their_parameters(load):
    anthropic = {"name": "find", "description": "Find.", "input_schema": FIND["function"]["parameters"]}
    assert load([anthropic]) == [tools.normalise(anthropic, "a row's tool")] == [FIND]
    wrapped = {"type": "function", "function": anthropic}
    both = {**FIND["function"], "input_schema": None, "inputSchema": None}
    assert load([wrapped]) == load([both]) == [tools.normalise(both, "a row's tool")] == [FIND]


def test_one_page_of_an_mcp_servers_tools_is_not_taken_for_all(load):
    with pytest.raises(DataError, match="`nextCursor` says that more follow"):
        load({"result": {"tools": [MCP], "nextCursor": "2"}})
    with pytest.raises(DataError, match="a JSON list of the answers, in order, is read"):
        load([{"tools": [MCP], "nextCursor": "2"}, {"tools": [], "nextCursor": "3"}])


def test_all_pages_of_an_mcp_servers_tools_are_a_list_of_its_answers(load):
    other = {**MCP, "name": "seek"}
    assert load([{"result": {"tools": [MCP], "nextCursor": "2"}}, {"tools": [other]}]) == load([MCP, other])


def test_a_list_of_tools_may_have_loose_types(load):
    flat = {"name": "find", "description": "Find.", "parameters": {"name": {"type": "str"}, "limit": {"type": "int, optional"}}}
    (tool,) = load([flat])
    assert parameters(tool) == {
        "type": "object",
        "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["name"],
    }
    nested = {"name": "find", "description": "Find.", "parameters": {"type": "dict", "properties": {"name": {"type": "str"}}}}
    assert parameters(load([nested])[0])["properties"] == {"name": {"type": "string"}}


@pytest.mark.parametrize("value", [{"a": 1}, "tools", [1]])
def test_a_file_that_holds_no_tools_says_what_would_be_right(load, value):
    with pytest.raises(DataError, match="must be a JSON list of tools, an OpenAPI 3 document, or an MCP server's answer"):
        load(value)


def test_yaml_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "api.yaml").write_text("a: [1,\nb: }")
    with pytest.raises(DataError, match=r"api.yaml: not a YAML file: ") as refused:
        tools.load(tmp_path / "api.yaml")
    assert "\n" not in str(refused.value)


DANGLING = [
    {"$ref": "#/components/schemas/Loc"},
    {"$ref": "#/elsewhere"},  # where no schema is looked for, and this is none
    {"$ref": "#/title/x"},
    {"$ref": "#/required/first"},
    {"$ref": "https://example.com/loc.json"},
    {"$dynamicRef": "#nowhere"},
    {"anyOf": [{"type": "null"}, {"items": {"$ref": "#/$defs/none"}}]},
    {"$ref": "#/behind"},
    {"$id": "http://["},  # an address that is none, and one that is no text to an older JSON Schema
    {"$schema": "http://json-schema.org/draft-04/schema#", "id": 5},
    {"$schema": "http://json-schema.org/draft-07/schema#", "additionalItems": 5},
]


@pytest.mark.parametrize("schema", DANGLING, ids=json.dumps)
def test_a_reference_into_nothing_is_refused_at_once(load, schema):
    more = {"elsewhere": {"minimum": "low"}, "title": "Find", "behind": {"not": {"$ref": "#/none"}}, "required": ["name"]}
    more["$id"] = "http://x/"
    parameters = {**FIND["function"]["parameters"], **more}
    parameters["properties"] = {**parameters["properties"], "location": schema}
    with pytest.raises(DataError, match=r"tool 'find': the reference '.*' leads nowhere in it, or to no schema"):
        load([{"name": "find", "parameters": parameters}])


def test_references_inside_the_tool_are_kept(load):
    parameters = {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/d"},
            "b": {"$ref": "#there"},
            "c": {"$ref": "#/elsewhere"},
            "d": {"const": {"$ref": "#/data/not/a/reference"}},
            "$ref": {"type": "string"},
        },
        "$defs": {"d": {"type": "object", "properties": {"inner": {"$ref": "#/$defs/d"}}}, "e": {"$anchor": "there"}},
        "elsewhere": {"type": "integer"},
    }
    (tool,) = load([{"name": "find", "parameters": parameters}])
    assert tool["function"]["parameters"] == parameters
    assert not guard.check({"name": "find", "arguments": {"a": {"inner": {"inner": 3}}}}, [tool]).accepted


@pytest.mark.parametrize("description", [5, ["Find."], {"en": "Find."}])
def test_a_description_that_is_no_text_is_refused(load, description):
    with pytest.raises(DataError, match="tool 'find': the description must be a string"):
        load([{**FIND["function"], "description": description}])


def test_a_list_of_tools_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps([FIND]), encoding="utf-8-sig")
    assert tools.load(tmp_path / "tools.json") == [FIND]


@pytest.mark.parametrize("name", ["tools.jsonl", "tools.json"])
def test_tools_one_a_line_are_refused_with_what_would_be_right(tmp_path, name):
    (tmp_path / name).write_text(f"{json.dumps(FIND)}\n{json.dumps(FIND)}\n")
    with pytest.raises(DataError, match=r"Extra data: .*; one JSON list of all tools, .* would be right, not one tool a line$"):
        tools.load(tmp_path / name)


def test_a_packed_file_of_tools_is_said_to_be_packed(tmp_path):
    (tmp_path / "tools.json.gz").write_bytes(gzip.compress(json.dumps([FIND]).encode()))
    with pytest.raises(DataError, match=r"tools\.json\.gz: is packed, .*: the JSON, YAML or Python file itself would be right$"):
        tools.load(tmp_path / "tools.json.gz")


def test_a_key_that_stands_twice_is_refused_and_not_the_last_one_taken(tmp_path):
    (tmp_path / "tools.json").write_text('[{"name": "f", "parameters": {"type": "object", "properties": {"a": {}, "a": {}}}}]')
    with pytest.raises(DataError, match="not a JSON file: the key 'a' stands twice in one object"):
        tools.load(tmp_path / "tools.json")


def test_a_key_that_stands_twice_in_yaml_is_refused_too_and_a_merged_one_is_not(tmp_path):
    paths = "openapi: 3.0.3\npaths:\n  /a: &a {get: {operationId: one}}\n  /b: {<<: *a, get: {operationId: two}}\n"
    (tmp_path / "api.yaml").write_text(paths)
    assert [tool["function"]["name"] for tool in tools.load(tmp_path / "api.yaml")] == ["one", "two"]
    # The one that merges is made before the one whose merged key it takes.
    deep = "openapi: 3.0.3\nx: {a: {b: {c: {d: &two {<<: {tags: [], summary: one}, summary: two}}}}}\n"
    (tmp_path / "api.yaml").write_text(deep + "paths:\n  /a: {get: {operationId: one, <<: *two}}\n")
    assert tools.load(tmp_path / "api.yaml")[0]["function"]["description"] == "two"
    (tmp_path / "api.yaml").write_text(paths.replace("/b", "/a"))
    with pytest.raises(DataError, match=r"api\.yaml: not a YAML file: the key '/a' stands twice in one object"):
        tools.load(tmp_path / "api.yaml")


@pytest.mark.parametrize(("name", "number"), [("tools.json", "NaN"), ("tools.json", "1e999"), ("tools.yaml", ".inf")])
def test_a_number_that_no_json_can_hold_is_the_tools_files_fault_and_not_every_rows(tmp_path, name, number):
    parameters = f'{{"type": "object", "properties": {{"a": {{"type": "number", "maximum": {number}}}}}}}'
    (tmp_path / name).write_text(f'[{{"name": "f", "parameters": {parameters}}}]')
    with pytest.raises(DataError, match=rf"{name}: has a number that is infinite or none \(NaN\)"):
        tools.load(tmp_path / name)
