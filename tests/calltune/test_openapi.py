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


def test_a_number_that_python_does_not_read_is_one_line(tmp_path):
    (tmp_path / "tools.json").write_text(f"[{'1' * 5000}]")
    with pytest.raises(DataError, match="not a JSON file: Exceeds the limit"):
        tools.load(tmp_path / "tools.json")
