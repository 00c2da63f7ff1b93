import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from referencing.jsonschema import EMPTY_REGISTRY

from calltune import references
from calltune.guard import _validator, check, check_value
from calltune.plain_schemas import fits, is_plain

NAMES = st.sampled_from(["a", "b", "type", "$ref"])
VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -7, 5.0, 5.5, "", "a", "b", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null", "int", ["string", "null"]])


def _schemas(inner):
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES,
            "description": st.sampled_from(["Which.", None]),
            "default": VALUES,
            "enum": st.lists(VALUES, max_size=3),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=3),
            "items": inner,
            "additionalProperties": inner | st.booleans(),
            "minimum": st.just(1),
        },
    )


SCHEMAS = st.recursive(_schemas(st.just({})), _schemas, max_leaves=5)


@given(schema=SCHEMAS)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_plain_schema_is_valid_and_refers_to_nothing(schema):
    if is_plain(schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert references.wrong(schema) is None


@given(schema=SCHEMAS, value=VALUES)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_plainly_fits_jsonschema_accepts(schema, value):
    if is_plain(schema) and fits(value, schema):
        assert jsonschema.Draft202012Validator(schema, registry=EMPTY_REGISTRY).is_valid(value)


@given(schema=_schemas(SCHEMAS).map(lambda one: {**one, "type": "object"}), value=st.dictionaries(NAMES, VALUES, max_size=3))
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_guard_says_what_jsonschema_says(schema, value):
    if not is_plain(schema):
        return
    errors = list(_validator("f", json.dumps(schema)).iter_errors(value))
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert check({"name": "f", "arguments": value}, [tool]).accepted is (not errors)
    for name, item in value.items():
        if fits(item, schema.get("properties", {}).get(name, {"type": "null"})):
            assert check_value(tool, name, item) is None or name not in schema.get("properties", {})


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "strnig"},
        {"type": ["string"]},
        {"$ref": "#/$defs/a"},
        {"properties": {"a": {"pattern": "("}}},
        {"required": "a"},
        {"required": ["a", "a"]},
        {"description": 5},
        {"minimum": 1},
        {"additionalProperties": False},
    ],
)
def test_anything_else_is_for_jsonschema(schema):
    assert not is_plain(schema)


def test_a_schema_nested_deeply_is_not_plain():
    schema = {"type": "string"}
    for _ in range(7):
        schema = {"items": schema}
    assert is_plain(schema)
    assert not is_plain({"items": {"items": schema}})


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (True, {"type": "integer"}),
        (5.0, {"type": "integer"}),
        (1, {"enum": [True]}),
        ("c", {"enum": ["a", "b"]}),
        ([1, "a"], {"items": {"type": "integer"}}),
        ({}, {"required": ["a"]}),
        ({"a": 1}, {"properties": {"a": {"type": "string"}}}),
        ({"b": 1}, {"additionalProperties": {"type": "string"}}),
    ],
)
def test_what_does_not_plainly_fit_is_for_jsonschema(value, schema):
    assert is_plain(schema) and not fits(value, schema)


def test_only_a_closed_object_must_have_no_other_properties():
    assert fits({"a": 1}, {"type": "object"})
    assert not fits({"a": 1}, {"type": "object"}, closed=True)
    assert fits({"a": {"b": 1}}, {"properties": {"a": {"type": "object"}}}, closed=True)
