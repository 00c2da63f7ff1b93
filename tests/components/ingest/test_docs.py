"""Every example in docs/dialects.md and docs/own-data.md, read as a user's file would be."""

import json
import re
from pathlib import Path

import pytest
import yaml

from calltune import tools
from calltune.dialects import DIALECTS
from calltune.records import expected_calls, read_jsonl, user_text
from components.ingest.config import IngestConfig
from components.ingest.step import ingest
from pipelines import config, plain_yaml

DOCS = Path(__file__).parents[3] / "docs"
DIALECTS_PAGE, OWN_DATA = ((DOCS / name).read_text(encoding="utf-8") for name in ("dialects.md", "own-data.md"))
ROWS = dict(re.findall(r"^## (\w+)\n.*?```json\n(.*?)```", DIALECTS_PAGE, re.DOTALL | re.MULTILINE))
QUESTION = "Where is my parcel? Order A-1042."
CALL = {"name": "order_status", "arguments": {"order_number": "A-1042", "detail": "delivery"}}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", OWN_DATA, re.DOTALL)


@pytest.fixture
def shop(tmp_path):
    """The folder that own-data.md describes, as a user who copies its examples has it."""
    folder = tmp_path / "my-shop"
    folder.mkdir()
    (folder / "tools.py").write_text(next(block for block in blocks("python") if "order_status" in block))
    (folder / "questions.jsonl").write_text("".join(blocks("json")))
    (folder / "shop.yaml").write_text(next(block for block in blocks("yaml") if block.startswith("name: shop")))
    return folder


def read(source, out, **settings):
    result = ingest(IngestConfig(source=str(source), **settings), out)
    return result, list(read_jsonl(out / "records.jsonl"))


def test_there_is_a_row_of_every_dialect():
    assert ROWS.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_row_of_a_dialect_is_read_as_it_and_says_the_same(dialect, shop, tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS[dialect])
    tools_file = {"tools": str(shop / "tools.py")} if dialect == "tool_choice" else {}
    result, (record,) = read(tmp_path / "rows.jsonl", tmp_path / "out", **tools_file)
    assert (result.dialect, result.read, result.kept) == (dialect, 1, 1)
    if dialect == "alpaca":
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"]
        assert "tool_calls" not in record["messages"][1]
        return
    assert user_text(record) == QUESTION
    (made,) = next(message["tool_calls"] for message in record["messages"] if "tool_calls" in message)
    left_out = {"detail"} if dialect == "bfcl" else set()  # an argument that may be absent
    assert made["function"] == {**CALL, "arguments": {key: v for key, v in CALL["arguments"].items() if key not in left_out}}
    assert [tool["function"]["name"] for tool in record["tools"]] == ["order_status"]
    accepted = {"order_number": ["A-1042", "1042"], "detail": ["delivery", ""]}
    if dialect == "bfcl":
        assert expected_calls(record) == [{"name": "order_status", "arguments": accepted}]


def test_the_leaderboards_two_files_are_joined_as_the_page_says(tmp_path, monkeypatch):
    row = json.loads(ROWS["bfcl"])
    name = "BFCL_v4_live_simple.json"
    answers = tmp_path / "bfcl_eval" / "data" / "possible_answer"
    answers.mkdir(parents=True)
    (answers / name).write_text(json.dumps({"id": row["id"], "ground_truth": row.pop("ground_truth")}) + "\n")
    (answers.parent / name).write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", DIALECTS_PAGE, re.DOTALL)
    exec(script, {})
    assert json.loads((tmp_path / "bfcl.jsonl").read_text()) == json.loads(ROWS["bfcl"])


def test_the_shops_rows_are_kept_and_its_tool_has_a_schema(shop, tmp_path):
    result, records = read(shop / "questions.jsonl", tmp_path / "out", tools=str(shop / "tools.py"))
    assert (result.dialect, result.read, result.kept) == ("openai", 4, 4)
    assert [len(record["messages"][-1].get("tool_calls", [])) for record in records] == [1, 2, 0, 1]
    (tool,) = tools.load(str(shop / "tools.py"))
    assert tool["function"]["parameters"]["required"] == ["order_number"]
    assert tool["function"]["parameters"]["properties"]["detail"]["enum"] == ["delivery", "invoice"]


def test_the_shops_config_is_one(shop):
    assert config.load(shop / "shop.yaml").gate.over_baseline == {"tool_accuracy": 0.1}


def test_the_readmes_config_is_the_same(shop):
    assert f"```yaml\n{(shop / 'shop.yaml').read_text()}```" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_the_other_lines_of_config_fit_into_it(shop):
    others = [block for block in blocks("yaml") if not block.startswith("name: shop")]
    assert others
    for block in others:
        whole = plain_yaml.read((shop / "shop.yaml").read_text())
        for section, settings in plain_yaml.read(block).items():
            whole[section] = {**whole.get(section, {}), **settings}
        (shop / "other.yaml").write_text(yaml.safe_dump(whole))
        assert config.load(shop / "other.yaml").ingest.source == "my-shop/questions.jsonl"
