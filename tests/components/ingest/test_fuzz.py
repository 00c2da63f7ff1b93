import json
import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calltune.errors import DataError
from calltune.records import read_jsonl
from components.ingest.config import IngestConfig
from components.ingest.step import ingest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """messages tools functions role content user assistant tool tool_calls function_call function name arguments parameters
        type object properties required items $ref # conversations from value human gpt observation query answers user_content
        tool_name tool_arguments instruction input output history system expected id f List[ default enum pattern ( [] {}
        [{"name":"f"}] weight <tool_call> </tool_call> <tool_call>{"name":"f"}</tool_call> <tools>[]</tools> {'name':
        prompt completion question ground_truth dict""",
    )
)
SHAPED = st.recursive(
    WORDS | JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=25,
)
FIELDS = ["messages", "tools", "functions", "conversations", "query", "answers", "user_content", "tool_name", "tool_arguments"]
FIELDS += ["instruction", "input", "output", "history", "system", "expected", "id", "role"]
FIELDS += ["prompt", "completion", "question", "function", "ground_truth"]
ROW = st.dictionaries(st.sampled_from(FIELDS), SHAPED, max_size=6)
TOOLS = [{"name": "find", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}]
LOOSE = [{"name": "find", "parameters": {"name": {"type": "str, optional", "default": "x"}}}]
CALL = {"name": "find", "arguments": {"name": "Ana"}}
SEED = {
    "openai": {
        "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "tool_calls": [{"function": CALL}]}],
        "tools": TOOLS,
        "expected": [{"name": "find", "arguments": {"name": ["Ana"]}}],
    },
    "xlam": {"query": "Who?", "tools": LOOSE, "answers": [CALL]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "function_call", "value": json.dumps(CALL)}],
        "tools": TOOLS,
    },
    "tool_choice": {"user_content": "Who?", "tool_name": "find", "tool_arguments": "{}", "tools": TOOLS},
    "hermes": {
        "conversations": [
            {"from": "system", "value": f"Be kind. <tools>{json.dumps(LOOSE)}</tools>"},
            {"from": "human", "value": "Who?"},
            {"from": "gpt", "value": f"<tool_call>{json.dumps(CALL)}</tool_call>"},
            {"from": "tool", "value": "<tool_response>x</tool_response>"},
            {"from": "gpt", "value": "Ana."},
        ]
    },
    "prompt_completion": {"prompt": "Who?", "completion": f"<tool_call>{CALL}</tool_call>", "tools": TOOLS},
    "bfcl": {
        "question": [[{"role": "user", "content": "Who?"}]],
        "function": TOOLS,
        "ground_truth": [{"find": {"name": ["", "Ana"]}}],
    },
    "alpaca": {"instruction": "Hi", "input": "", "output": "Ho", "history": [["a", "b"]]},
}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))


@st.composite
def damaged(draw):
    """A good row with one place in it replaced by something else."""
    row = json.loads(json.dumps(SEED[draw(st.sampled_from(sorted(SEED)))]))
    place = row
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return row
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
            place[key] = draw(SHAPED)
            return row
        place = place[key]


def ingested(folder, data, name, **config):
    """Ingest a file of these bytes; returns None where that ends in a DataError, the only thing that may come out."""
    (folder / name).write_bytes(data)
    try:
        result = ingest(IngestConfig(source=str(folder / name), max_quarantined=1.0, **config), folder / "out")
    except DataError as error:
        assert str(error)
        return None
    assert result.read == result.kept + result.quarantined + result.duplicates
    assert len(list(read_jsonl(folder / "out" / "records.jsonl"))) == result.kept > 0
    assert len(list(read_jsonl(folder / "out" / "quarantine.jsonl"))) == result.quarantined
    return result


FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("dialect", SEED)
def test_the_rows_that_are_damaged_here_are_good_before(tmp_path, dialect):
    result = ingested(tmp_path, json.dumps(SEED[dialect]).encode(), "rows.jsonl")
    assert (result.kept, result.dialect) == (1, dialect)


@FUZZ
@given(rows=st.lists(damaged() | ROW, min_size=1, max_size=5), dialect=st.sampled_from(["auto", *SEED]))
def test_whatever_the_rows_hold_only_a_data_error_comes_out(tmp_path, rows, dialect):
    ingested(tmp_path, "\n".join(map(json.dumps, rows)).encode(), "rows.jsonl", dialect=dialect)


@FUZZ
@given(
    data=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), name=st.sampled_from(["a.json", "a.jsonl"])
)
def test_whatever_the_file_holds_only_a_data_error_comes_out(tmp_path, data, name):
    assert ingested(tmp_path, data, name) is None
