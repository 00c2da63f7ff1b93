"""What the suites of evaluate need of this machine and of a store, and what of it is in the keys of caches."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

from calltune import input_files as files
from calltune import models, storage
from calltune.errors import ConfigError, DataError
from components.evaluate import engines
from components.evaluate.config import EvaluateConfig
from components.evaluate.measuring import recorded
from pipelines import suites
from pipelines.config import absolute, load
from pipelines.inputs import Inputs

TASK = "task: letters\ndataset_path: json\noutput_type: multiple_choice\n"
NOTIFIED = "notify.via=[webhook]"
ROWS = Path(__file__).parents[2] / "examples" / "helpdesk" / "questions.jsonl"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a text and a folder of tasks, and a function that loads a config of them."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("One document.\n\nAnother.\n")
    Path("tasks").mkdir()
    Path("tasks/letters.yaml").write_text(TASK)
    Path("tasks/letters.jsonl").write_text("{}\n")
    Path("tasks/.hidden").write_text("x")

    def config(general, **sections):
        whole = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": str(ROWS)}}
        Path("run.yaml").write_text(yaml.safe_dump({**whole, "evaluate": {"general": general}, **sections}))
        return load("run.yaml")

    return config


def test_files_are_named_by_their_content_in_every_key(here):
    config = here({"text": "text.txt"})
    before = recorded(config.evaluate), suites.keyed(config, {"evaluate": "c", "gate": "g"})
    Path("elsewhere.txt").write_text(Path("text.txt").read_text())
    moved = here({"text": "elsewhere.txt"})
    assert (recorded(moved.evaluate), suites.keyed(moved, {"evaluate": "c", "gate": "g"})) == before
    Path("elsewhere.txt").write_text("Another text.")
    changed = recorded(moved.evaluate), suites.keyed(moved, {"evaluate": "c", "gate": "g"})
    assert changed[0] != before[0]
    assert changed[1]["evaluate"] != before[1]["evaluate"] and changed[1]["gate"] == "g"


def test_a_config_without_suites_has_the_keys_that_it_had(here):
    assert suites.keyed(here({}), {"evaluate": "c"}) == {"evaluate": "c"}
    assert "general" not in recorded(EvaluateConfig())


def test_the_key_says_where_the_answers_come_from(here, monkeypatch):
    before = suites.keyed(here({}), {"evaluate": "c", "gate": "g"})
    monkeypatch.setattr(engines, "device", lambda: "cuda")
    after = suites.keyed(here({}), {"evaluate": "c", "gate": "g"})
    assert after["evaluate"] != before["evaluate"] and after["gate"] == before["gate"]


def test_the_key_says_which_engine_auto_came_to_where_it_is_not_the_usual_one(here, monkeypatch):
    texts = here({"text": "text.txt"})
    before = suites.keyed(texts, {"evaluate": "c"})
    monkeypatch.setattr(engines, "lacking", lambda: "")
    assert suites.keyed(here({}), {"evaluate": "c", "gate": "g"})["evaluate"] != "c"
    assert suites.keyed(here({}), {"evaluate": "c", "gate": "g"})["gate"] == "g"
    assert suites.keyed(texts, {"evaluate": "c"}) not in (before, suites.keyed(here({}), {"evaluate": "c"}))
    named = load("run.yaml", ["evaluate.engine=vllm"])
    assert suites.keyed(named, {"evaluate": "c"}) == {"evaluate": "c"}, "of these the setting says it"


def test_paths_are_made_absolute_and_the_configs_hash_has_only_their_names(here, tmp_path):
    config = here({"tasks": ["letters"], "tasks_folder": "tasks", "text": "text.txt"})
    there = absolute(config)
    assert there.evaluate.general.text == str(tmp_path / "text.txt")
    assert there.evaluate.general.tasks_folder == str(tmp_path / "tasks")
    assert absolute(there) == there
    assert there.sha256 == config.sha256
    assert here({"text": "text.txt"}).sha256 != config.sha256
    assert absolute(here({})).evaluate == here({}).evaluate


@pytest.mark.parametrize(
    ("general", "missing"),
    [
        ({"text": "txet.txt"}, r"^txet\.txt: no such evaluate\.general\.text file in /"),
        ({"tasks": ["letters"], "tasks_folder": "taks"}, r"^taks: no such evaluate\.general\.tasks_folder file in /"),
        ({"text": "tasks"}, r"^tasks: cannot be read: Is a directory"),
        ({"text": "empty.txt"}, r"^empty\.txt: no text in it"),
        (
            {"tasks": ["letters"], "tasks_folder": "text.txt"},
            r"^evaluate\.general\.tasks_folder: text\.txt is a file; the folder",
        ),
    ],
)
def test_a_file_that_no_suite_can_read_is_said_before_anything_is_started(here, general, missing):
    Path("empty.txt").touch()
    with pytest.raises(DataError, match=missing):
        suites.require(here(general))


RUN = ["run", "--workdir", "work"]
NO_TEXT = {"text": "txet.txt"}, "txet.txt: no such evaluate.general.text file"
NO_TASK = {"tasks": ["leters"], "tasks_folder": "tasks"}, "'leters' is no task of lm-eval's; the nearest is 'letters'"


# That there is no such task is known once lm-eval's 15,000 are read, which takes long: for one command of the three.
@pytest.mark.parametrize(
    ("words", "general", "says"),
    [(["check"], *NO_TEXT), (RUN, *NO_TEXT), ([*RUN, "--set", NOTIFIED], *NO_TEXT), ([*RUN, "--set", NOTIFIED], *NO_TASK)],
)
def test_a_command_ends_with_one_line_and_exit_code_2(here, command, words, general, says):
    here(general, gate={"thresholds": {"tool_accuracy": 0.8}})
    code, _, error = command(*words, "-c", "run.yaml")
    assert code == 2
    assert says in error and "Traceback" not in error
    assert not Path("work/s3").exists() and not Path("work/run.log").exists(), "nothing was started"


def test_lm_eval_that_is_not_installed_is_said_before_anything_is_started(here, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("components.evaluate.measuring.version", absent)
    with pytest.raises(ConfigError, match=r"^evaluate\.general needs the package lm-eval, which is not installed: pip install"):
        suites.require(here({"tasks": ["calltune_knowledge"]}))
    suites.require(here({"text": "text.txt"}))


def test_on_a_cluster_the_image_has_lm_eval_and_this_machine_need_not(here, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("components.evaluate.measuring.version", absent)
    monkeypatch.setattr(suites, "find_spec", lambda _: None)
    config = here({"tasks": ["calltune_knowledge"], "text": "text.txt"})
    said = ["suites       general.text_loss", "warning: lm-eval is not installed here: whether it has "]
    assert [line[: len(start)] for line, start in zip(suites.described(config, here=False), said, strict=True)] == said
    with pytest.raises(ConfigError, match="which is not installed"):
        list(suites.described(config, here=True))


def test_a_condition_on_another_metric_than_the_tasks_names_that(here):
    config = here({"tasks": ["gsm8k"]}, gate={"regression": {"general.gsm8k.acc": 0.05}})
    with pytest.raises(
        ConfigError, match=r"^gate\.regression: 'general\.gsm8k\.acc' is not measured, but 'general\.gsm8k\.exact_match' is$"
    ):
        suites.require(config)
    right = here({"tasks": ["gsm8k"], "text": "text.txt"}, gate={"regression": {"general.gsm8k.exact_match": 0.05}})
    assert suites.require(right).measures == ["general.gsm8k.exact_match", "general.text_loss"]


def test_check_says_what_is_measured_and_what_the_gate_makes_of_it(here):
    from pipelines.check import check

    general = {"tasks": ["calltune_knowledge"], "text": "text.txt"}
    gate = {"suites": {"general.calltune_knowledge.acc": 0.5}, "regression": {"general.text_loss": 0.1}}
    lines = list(check(here(general, gate=gate)))
    assert "suites       general.calltune_knowledge.acc" in lines
    assert "             general.text_loss" in lines
    assert "             general.calltune_knowledge.acc at least 0.5" in lines
    assert "             general.text_loss at most 0.1 worse than the base model's" in lines
    assert not [line for line in lines if "no condition" in line]
    del gate["suites"]
    lines = list(check(here(general, gate=gate)))
    assert "warning: the gate has no condition and will refuse every model: set gate.thresholds" in lines


def test_a_pass_from_before_does_not_survive_a_gate_whose_data_is_gone(here, command):
    here({})
    Path("candidate.json").write_text("{}")
    Path("decision.json").write_text('{"passed": true}')
    asked = ["--set", "gate.max_data_age_days=30", "--set", "ingest.source=gone.jsonl"]
    code, _, error = command("gate", "-c", "run.yaml", "--candidate", "candidate.json", "-o", "decision.json", *asked)
    assert code == 2 and "gone.jsonl" in error
    assert not Path("decision.json").exists()


def test_a_benchmark_is_named_by_its_content_in_formats_key_and_looked_at_before_anything_is_started(here, tmp_path):
    Path("bench.json").write_text('{"question": "Who is Ana?"}\n')
    config = here({}, format={"contamination": {"benchmarks": ["bench.json"]}})
    key = suites.keyed(config, {"format": "f"})
    assert key["format"] != "f" and suites.keyed(here({}), {"format": "f"}) == {"format": "f"}
    there = absolute(config)
    assert there.format.contamination.benchmarks == [str(tmp_path / "bench.json")]
    assert there.sha256 == config.sha256 and suites.keyed(there, {"format": "f"}) == key
    assert "benchmarks   bench.json: no training row may ask what its 1 questions ask" in list(
        suites.described(config, here=True)
    )
    Path("bench.json").write_text('{"question": "Who is Eva?"}\n')
    assert suites.keyed(config, {"format": "f"}) != key
    Path("bench.json").write_text('{"answer": "Ana"}\n')
    with pytest.raises(DataError, match=r"bench\.json, row 1: it asks nothing"):
        suites.require(config)
    Path("bench.json").unlink()
    with pytest.raises(DataError, match=r"bench\.json: no such format\.contamination\.benchmarks file"):
        suites.require(config)


# In a cluster


def test_a_benchmark_is_brought_into_the_store_under_its_content_and_comes_back(here, s3, tmp_path, monkeypatch):
    Path("bench.json").write_text('{"question": "Who is Ana?"}\n')
    config = here({}, format={"contamination": {"benchmarks": ["bench.json"]}}, storage={"uri": s3.uri})
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": "org/model"})})
    brought = Inputs(s3.uri, s3).bring(config).format
    (place,) = brought.contamination.benchmarks
    assert place.startswith(f"{s3.uri}/inputs/") and place.endswith("/bench.json")
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "pod"))
    (file,) = brought.with_files(files.local).contamination.benchmarks
    assert Path(file).read_text() == '{"question": "Who is Ana?"}\n'
    # Such a config can be submitted once more, as `watch` does it, from where no file of it is.
    Path("bench.json").unlink()
    again = config.model_copy(update={"format": brought})
    assert suites.require(again).measures == []
    assert list(suites.described(again, here=False))[-1] == f"benchmarks   {place}: in the store"


def test_files_are_brought_into_the_store_once_under_their_content_and_come_back(here, s3, tmp_path, monkeypatch):
    config = here({"tasks": ["letters"], "tasks_folder": "tasks", "text": "text.txt"}, storage={"uri": s3.uri})
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": "org/model"})})
    first = Inputs(s3.uri, s3)
    brought = first.bring(config).evaluate
    there = [key.split("/", 2)[2] for key in first.uploaded]
    assert {"letters.jsonl", "letters.yaml", "text.txt"} <= set(there) and ".hidden" not in there
    assert recorded(brought) == recorded(config.evaluate), "it is the same evaluation, here and there"
    again = Inputs(s3.uri, s3)
    assert again.bring(config).evaluate == brought and again.uploaded == []
    assert EvaluateConfig(**json.loads(brought.model_dump_json())) == brought, "a pod takes it for a config"
    assert Inputs(s3.uri, s3).bring(config.model_copy(update={"evaluate": brought})).evaluate == brought

    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "pod"))
    general = brought.with_files(files.local).general
    assert Path(general.text).read_text() == "One document.\n\nAnother.\n"
    assert sorted(file.name for file in Path(general.tasks_folder).iterdir()) == ["letters.jsonl", "letters.yaml"]
    assert files.content("x", general.tasks_folder) == recorded(config.evaluate)["general"]["tasks_folder"]
    for key in storage.of_run().list("inputs"):
        s3.delete(key)
    assert brought.with_files(files.local).general == general, "and is not fetched twice"


def test_what_the_store_has_lost_is_said(here, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "pod"))
    place = f"{s3.uri}/inputs/{'0' * 64}/text.txt"
    with pytest.raises(DataError, match=r"/inputs/0{64}/text\.txt: no such evaluate\.general\.text file"):
        EvaluateConfig(general={"text": place}).with_files(files.local)
    assert not list((models.cache_dir() / "inputs").glob("*"))


def test_a_program_among_the_tasks_is_not_brought_into_the_store(here, s3):
    Path("tasks/utils.py").write_text("")
    config = here({"tasks": ["letters"], "tasks_folder": "tasks"}, storage={"uri": s3.uri})
    with pytest.raises(DataError, match=r"tasks_folder: .*utils\.py is a program, and a pod runs none out of the store"):
        Inputs(s3.uri, s3).bring(config)


# Instructions


@pytest.fixture
def asking(here):
    """A function that loads a config whose instructions are in a file of two rows."""
    rows = [{"instruction": f"Name a {thing}.", "input": "", "output": "x"} for thing in ("color", "bird")]
    Path("asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(judge=None, **sections):
        instructions = {"questions": "asked.jsonl", **({"judge": judge} if judge else {})}
        whole = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": str(ROWS)}}
        Path("run.yaml").write_text(yaml.safe_dump({**whole, "evaluate": {"instructions": instructions}, **sections}))
        return load("run.yaml")

    return config


def test_check_says_how_many_instructions_there_are_and_who_judges(asking, monkeypatch):
    monkeypatch.delenv("CALLTUNE_JUDGE_TOKEN", raising=False)
    assert list(suites.described(asking(), here=True)) == [
        "suites       instructions.rouge_l",
        "             instructions.exact_match",
        "             instructions: 2 questions, to each of the models",
    ]
    judged = asking({"url": "http://judge:8000/v1", "model": "m"}, gate={"suites": {"instructions.win_rate": 0.3}})
    assert list(suites.described(judged, here=True))[3:] == [
        "             instructions: 2 questions, to each of the models",
        "             judged by m at http://judge:8000/v1, without a CALLTUNE_JUDGE_TOKEN here; 4 verdicts for each",
    ]
    monkeypatch.setenv("CALLTUNE_JUDGE_TOKEN", "x")
    assert ", with a CALLTUNE_JUDGE_TOKEN here; " in list(suites.described(judged, here=True))[-1]
    Path("asked.jsonl").write_text('{"instruction": "a"}\n')
    with pytest.raises(DataError, match=r"asked\.jsonl: the rows have the fields of no known dialect"):
        suites.require(judged)


def test_check_reads_each_file_of_questions_once(asking, monkeypatch):
    Path("bench.json").write_text('{"question": "Who is Ana?"}\n')
    config = asking(format={"contamination": {"benchmarks": ["bench.json"]}})
    read = []
    for name in ("questions", "benchmark_questions"):
        real = getattr(suites, name)
        monkeypatch.setattr(suites, name, lambda *given, name=name, real=real: read.append(name) or real(*given))
    said = list(suites.described(config, here=True))
    assert any("2 questions" in line for line in said) and any("its 1 questions" in line for line in said)
    assert sorted(read) == ["benchmark_questions", "questions"]


def test_instructions_are_brought_into_the_store_and_come_back(asking, s3, tmp_path, monkeypatch):
    config = asking({"url": "http://judge:8000/v1", "model": "m"}, storage={"uri": s3.uri})
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": "org/model"})})
    first = Inputs(s3.uri, s3)
    brought = first.bring(config)
    assert [key for key in first.uploaded if key.endswith("/asked.jsonl")]
    assert recorded(brought.evaluate) == recorded(config.evaluate)
    assert suites.keyed(brought, {"evaluate": "c"}) == suites.keyed(config, {"evaluate": "c"}) != {"evaluate": "c"}
    assert list(suites.described(brought, here=True))[-1].endswith("; two verdicts for each answer"), (
        "they were counted where they were brought"
    )
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "pod"))
    there = brought.evaluate.with_files(files.local)
    assert Path(there.instructions.questions).read_text() == Path("asked.jsonl").read_text()
