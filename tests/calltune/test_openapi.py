"""OpenAPI documents that are damaged, and names that stand in them twice."""

import json

import pytest

from calltune import tools
from calltune.errors import DataError


def load(folder, **operation):
    document = {"openapi": "3.0.3", "paths": {"/pets/{id}": {"patch": operation}}}
    (folder / "api.json").write_text(json.dumps(document))
    return tools.load(folder / "api.json")


def test_two_required_parameters_of_one_name_are_one_argument(tmp_path):
    twice = [{"name": "id", "in": place, "required": True, "schema": {"type": "integer"}} for place in ("path", "query")]
    (tool,) = load(tmp_path, parameters=twice)
    assert tool["function"]["parameters"]["required"] == ["id"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": 1}, "`required` of a schema must be a list of names, not '1'"),
        ({"properties": {"a": {}}, "required": [{}]}, "`required` of a schema must be a list of names"),
        ({"allOf": [{"type": "object", "required": True}]}, "`required` of a schema must be a list of names, not 'True'"),
        ({"type": "object", "properties": None}, "`properties` of a schema must be an object, not 'None'"),
        ({"properties": ["a"]}, "`properties` of a schema must be an object"),
    ],
)
def test_a_schema_that_is_damaged_is_one_line(tmp_path, schema, message):
    with pytest.raises(DataError, match=f"api.json: {message}"):
        load(tmp_path, requestBody={"required": True, "content": {"application/json": {"schema": schema}}})


def test_parameters_that_are_no_list_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"api\.json, patch /pets/\{id\}: `parameters` must be a list$"):
        load(tmp_path, parameters=5)


def test_a_number_that_python_does_not_read_is_one_line(tmp_path):
    (tmp_path / "tools.json").write_text(f"[{'1' * 5000}]")
    with pytest.raises(DataError, match="not a JSON file: Exceeds the limit"):
        tools.load(tmp_path / "tools.json")


def test_schemas_that_refer_to_each_other_without_end_are_one_line(tmp_path):
    both = lambda n: {name: {"$ref": f"#/components/schemas/S{n}"} for name in "ab"}  # noqa: E731
    schemas = {f"S{n}": {"type": "object", "properties": both(n + 1)} for n in range(40)}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}
    document = {"openapi": "3.1.0", "paths": {"/pets": {"post": {"requestBody": body}}}}
    document["components"] = {"schemas": {**schemas, "S40": {"type": "string"}}}
    (tmp_path / "api.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"api\.json: post /pets: has more than 10,000 schemas with its references put in place"):
        tools.load(tmp_path / "api.json")
