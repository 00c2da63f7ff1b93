"""How evaluate is to answer: what is refused before anything is started, and what `calltune check` says."""

import json
from pathlib import Path

import pytest
import yaml

from calltune.errors import ConfigError
from components.evaluate import engines
from pipelines import answering
from pipelines.config import load
from tests.conftest import HELPDESK

ODD = {"type": "object", "properties": {"n": {"type": "number", "minimum": 0.1, "maximum": 1e21}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": ODD}}
NO_GRAMMAR = r"^evaluate\.decoding: tools: the schema of 'f' cannot be a grammar"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(tools, **evaluate):
        ingest = {"source": str(HELPDESK / "questions.jsonl"), "tools": str(tools)}
        whole = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": ingest, "evaluate": evaluate}
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(whole))
        return load(file)

    return of


@pytest.fixture
def odd(tmp_path):
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([TOOL]))
    return file


def test_a_run_that_vllm_is_to_answer_is_refused_where_it_is_not(config):
    answering.require(config(HELPDESK / "tools.py"))
    with pytest.raises(ConfigError, match=r"^evaluate\.engine: vllm cannot run here: vLLM is not installed"):
        answering.require(config(HELPDESK / "tools.py", engine="vllm"))


def test_a_schema_without_a_grammar_is_refused_only_where_answers_are_held_to_it(config, odd):
    answering.require(config(HELPDESK / "tools.py", decoding="tools"))
    answering.require(config(odd))
    with pytest.raises(ConfigError, match=NO_GRAMMAR):
        answering.require(config(odd, decoding="tools"))
    with pytest.raises(ConfigError, match=NO_GRAMMAR):
        list(answering.described(config(odd, decoding="tools"), [TOOL]))


def test_check_says_it_where_it_is_not_the_usual_and_takes_a_config_for_a_cluster(config, monkeypatch):
    assert list(answering.described(config(HELPDESK / "tools.py"), [])) == []
    other = config(HELPDESK / "tools.py", engine="vllm", decoding="tools")
    engine, decoding = answering.described(other, [{**TOOL, "function": {"name": "f", "parameters": {}}}])
    assert engine.startswith("engine       vllm: on a cluster in the image calltune-python-vllm:")
    assert engine.endswith("; not on this machine, since vLLM is not installed")
    assert decoding == "decoding     held to the tools' schemas, of which grammars can be made"
    monkeypatch.setattr(engines, "lacking", lambda: "")
    assert next(answering.described(other, [])).endswith("; here, too")


@pytest.mark.parametrize("words", [["check"], ["run", "--workdir", "work"]])
def test_a_command_ends_with_one_line_and_exit_code_2(config, command, odd, tmp_path, words):
    config(odd, decoding="tools")
    code, _, error = command(*words, "-c", tmp_path / "run.yaml")
    assert code == 2
    assert "the schema of 'f' cannot be a grammar" in error and "Traceback" not in error
    assert not Path("work/s3").exists() and not Path("work/run.log").exists(), "nothing was started"
