"""What the suite `execution` needs: said by `check` before anything is started, and brought into the store by `submit`."""

import json
from pathlib import Path

import pytest
import yaml

from calltune import input_files as files
from calltune.errors import ConfigError, DataError
from components.evaluate.measuring import recorded
from components.evaluate.suites.execution.questions import prepare
from pipelines import suites
from pipelines.config import absolute, load
from pipelines.inputs import Inputs

EXAMPLE = Path(__file__).parents[2] / "examples" / "helpdesk"
WHOLE = {"questions": "asked.jsonl", "tools": "tools.py", "documents": "documents"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with the suite's files, and a function that loads a config of them."""
    monkeypatch.chdir(tmp_path)
    Path("asked.jsonl").write_text('{"question": "How?", "document": "a.md"}\n')
    Path("tools.py").write_text(
        'def search_knowledge_base(query: str) -> str:\n    """Search.\n\n    Args:\n        query: What.\n    """\n'
    )
    Path("documents").mkdir()
    Path("documents/a.md").write_text("Like this.\n")

    def config(execution=WHOLE, **sections):
        whole = {
            "name": "shop",
            "ingest": {"source": str(EXAMPLE / "questions.jsonl")},
            "model": {"base": "org/model", "revision": "0" * 40},
        }
        Path("run.yaml").write_text(yaml.safe_dump({**whole, "evaluate": {"execution": execution}, **sections}))
        return load("run.yaml")

    return config


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (
            {"questions": "asked.jsonl"},
            "evaluate.execution: questions and tools are needed together, and documents only with them",
        ),
        ({"tools": "tools.py"}, "evaluate.execution: questions and tools are needed together"),
        ({"documents": "documents"}, "evaluate.execution: questions and tools are needed together, and documents only with them"),
        ({**WHOLE, "tools": "tools.json"}, "evaluate.execution: tools: tools.json has no functions that could be run"),
        ({**WHOLE, "timeout_s": 0}, "evaluate.execution.timeout_s: must be at least 1"),
        ({**WHOLE, "max_turns": 0}, "evaluate.execution.max_turns: must be at least 1"),
        ({**WHOLE, "tools": "s3://b/tools.py"}, "evaluate.execution.tools: must be a path on this machine"),
    ],
)
def test_settings_that_do_not_fit_are_refused(here, execution, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        here(execution)


@pytest.mark.parametrize("condition", ["suites", "regression"])
def test_a_condition_on_what_is_not_measured_is_refused(here, condition):
    with pytest.raises(ConfigError, match=rf"gate\.{condition}: 'execution\.sucess' is not measured; .* 'execution\.success'$"):
        here(gate={condition: {"execution.sucess": 0.5}})
    with pytest.raises(ConfigError, match=rf"gate\.{condition}: 'execution\.success' is not measured: nothing of evaluate\.exec"):
        here({}, gate={condition: {"execution.success": 0.5}})
    with pytest.raises(ConfigError, match=rf"gate\.{condition}: 'execution\.retrieved' is not measured"):
        here({**WHOLE, "documents": ""}, gate={condition: {"execution.retrieved": 0.5}})
    # Which rows say what would be right, is seen where the file is read.
    config = here(gate={condition: {"execution.answered": 0.5, "execution.retrieved": 0.5}})
    with pytest.raises(
        ConfigError,
        match=rf"^gate\.{condition}: 'execution\.answered' is not measured: no row of asked\.jsonl says what would be right$",
    ):
        suites.require(config)


def test_what_is_measured_is_what_rows_say_something_of(here):
    assert suites.require(here()).measures == ["execution.success", "execution.finished", "execution.retrieved"]
    assert suites.require(here({})).measures == []


@pytest.mark.parametrize(
    ("execution", "change", "says"),
    [
        ({**WHOLE, "questions": "aksed.jsonl"}, {}, "aksed.jsonl: no such evaluate.execution.questions file"),
        ({**WHOLE, "documents": "docs"}, {}, "docs: no such evaluate.execution.documents file"),
        (WHOLE, {"asked.jsonl": '{"question": "x", "document": "b.md"}'}, "asked.jsonl, line 1: there is no document 'b.md'"),
        (WHOLE, {"tools.py": "import nothing_of_that_name"}, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_check_says_in_one_line_what_evaluate_would_stumble_over(here, command, execution, change, says):
    here(execution, gate={"suites": {"execution.success": 0.8}})
    for name, text in change.items():
        Path(name).write_text(text)
    code, _, error = command("check", "-c", "run.yaml")
    assert code == 2
    assert says in error and "Traceback" not in error


def test_bm25s_that_is_not_installed_is_said(here, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("components.evaluate.measuring.version", absent)
    with pytest.raises(ConfigError, match=r"^evaluate\.execution needs the package bm25s, which is not installed: pip install"):
        recorded(here().evaluate)
    assert "versions" not in recorded(here({**WHOLE, "documents": ""}).evaluate)["execution"]


def test_tools_questions_and_documents_count_by_their_content(here):
    before = recorded(here().evaluate)["execution"]
    assert before["versions"].keys() == {"bm25s"}
    assert recorded(absolute(here()).evaluate)["execution"] == before
    for name in ("asked.jsonl", "tools.py", "documents/a.md"):
        text = Path(name).read_text()
        Path(name).write_text(f"{text}\n")
        assert recorded(here().evaluate)["execution"] != before, name
        Path(name).write_text(text)


def test_submit_brings_the_tools_file_and_the_folder_into_the_store_and_a_pod_runs_them(here, s3, tmp_path, monkeypatch):
    config = here(storage={"uri": s3.uri})
    first = Inputs(s3.uri, s3)
    brought = first.bring(config).evaluate
    execution = brought.execution
    assert execution.tools == f"{s3.uri}/inputs/{files.content('x', 'tools.py')}/tools.py"
    assert {key.split("/", 2)[2] for key in first.uploaded} >= {"tools.py", "asked.jsonl", "a.md"}
    assert recorded(brought) == recorded(config.evaluate), "it is the same evaluation, here and there"
    assert type(brought)(**json.loads(brought.model_dump_json())) == brought, "a pod takes it for a config"

    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "pod"))
    there = prepare(brought.with_files(files.local).execution)
    assert [passage.document for passage in there.knowledge.search("like")] == ["a.md"]
    assert [tool["function"]["name"] for tool in there.tools] == ["search_knowledge_base"]


def test_a_program_among_the_documents_is_not_brought_into_the_store(here, s3):
    Path("documents/run.py").write_text("")
    with pytest.raises(DataError, match=r"documents: .*run\.py is a program, and a pod runs none out of the store"):
        Inputs(s3.uri, s3).bring(here(storage={"uri": s3.uri}))


def test_the_examples_line_in_its_readme_is_a_config_that_check_takes(monkeypatch, command):
    monkeypatch.chdir(EXAMPLE.parents[1])
    (line,) = [line for line in (EXAMPLE / "README.md").read_text().splitlines() if "evaluate.execution=" in line]
    given = line.split("--set ")[1].strip("'")
    config = load("pipelines/recipes/helpdesk.yaml", [given])
    measured = ["execution.success", "execution.finished", "execution.retrieved", "execution.answered"]
    assert suites.require(config).measures == measured
