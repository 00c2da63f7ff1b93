"""`calltune call`: one model answers alike from its folder, from its address in the store, and by its name in the registry."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calltune import models, runtime, storage, tracking
from calltune.errors import UserError
from calltune.render import template_of
from pipelines.ask import ask, find
from pipelines.config import load
from pipelines.standalone import standalone

REPO = Path(__file__).parents[2]
TOOLS = REPO / "examples" / "helpdesk" / "tools.py"
QUESTION = "How do I reset my password?"
NEW_TOKENS = 4


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """The tiny model as export leaves it."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("exported") / "model")
    template = template_of("hermes")
    (folder / "chat_template.jinja").write_text(template.text)
    runtime.write_json(folder / models.SERVING, {"template": template.name, "syntax": template.syntax})
    return folder


@pytest.fixture(scope="module")
def answer(folder):
    """What it answers where it lies."""
    return ask(QUESTION, str(folder), TOOLS, NEW_TOKENS)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))


def stored(folder, store):
    """Put the folder into the store as export does; returns its address and its digest."""
    files = models.checksums(folder)
    digest = models.digest(files)
    for name in files:
        store.upload(folder / name, f"models/{digest}/{name}")
    return f"{store.uri}/models/{digest}", digest


def test_the_answer_is_an_object_with_its_calls(answer):
    assert isinstance(answer["calls"], list) and set(answer) <= {"calls", "content", "rejected"}


def test_a_folder_may_be_named_as_an_address(folder, answer, tmp_path):
    there = shutil.copytree(folder, tmp_path / "with a space")
    assert find(there.as_uri()).path == there
    assert ask(QUESTION, there.as_uri(), TOOLS, NEW_TOKENS) == answer


def test_a_model_in_the_store_answers_as_its_folder_does(folder, answer, s3, tmp_path):
    uri, digest = stored(folder, s3)
    assert ask(QUESTION, uri, TOOLS, NEW_TOKENS) == answer
    assert models.checksums(tmp_path / "cache" / "models" / digest) == models.checksums(folder)


def test_what_export_wrote_may_be_named_as_it_may_to_evaluate(folder, tmp_path):
    there = shutil.copytree(folder, tmp_path / "exported" / "model")
    assert find(str(tmp_path / "exported")).path == there
    assert find((tmp_path / "exported").as_uri()).path == there


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nowhere", "nowhere: not an exported model: it has no calltune.json"),
        ("file:///no/where", "/no/where: not an exported model: it has no calltune.json"),
        ("s3://bucket/models/helpdesk", "s3://bucket/models/helpdesk: not the address of an exported model"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(model, said):
    with pytest.raises(UserError, match=said) as raised:
        ask(QUESTION, model, TOOLS, NEW_TOKENS)
    assert "\n" not in str(raised.value)


def test_a_question_that_the_template_does_not_take_is_refused_in_one_line(folder, tmp_path):
    there = shutil.copytree(folder, tmp_path / "model")
    (there / "chat_template.jinja").write_text("{{ raise_exception('a text holds the marker <escape>') }}")
    with pytest.raises(UserError, match=r"^the question: the model's chat template does not take it: a text holds the marker "):
        ask("What is <escape>?", str(there), TOOLS, NEW_TOKENS)


@pytest.fixture
def registered(folder, tmp_path, empty_mlflow):
    """A workdir whose registry has the tiny model as shop@champion, in its embedded store; yields the config's path."""
    config = {"name": "shop", "model": {"base": str(folder)}, "ingest": {"source": "none.jsonl", "tools": str(TOOLS)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "work").mkdir()
    shutil.copyfile(empty_mlflow, tmp_path / "work" / "mlflow.db")
    with standalone(load(tmp_path / "run.yaml"), tmp_path / "work", store=True):
        uri, digest = stored(folder, storage.of_run())
        version = tracking.register("shop", uri, digest, tracking.run_of("shop"), {})
        tracking.set_alias("shop", "champion", version)
    return tmp_path / "run.yaml"


def call(config, model):
    """`calltune call` in a process of its own."""
    command = [str(Path(sys.executable).parent / "calltune"), "call", "--model", model, "--tools", str(TOOLS), QUESTION]
    command += ["--max-new-tokens", str(NEW_TOKENS)]
    command += ["-c", str(config), "--workdir", str(config.parent / "work")] if config else []
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_a_registered_model_answers_by_its_alias(registered, answer):
    done = call(registered, "models:/shop@champion")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answer


def test_a_name_that_the_registry_does_not_have_is_refused_in_one_line(registered):
    from pipelines.registry import address

    settings, work = load(registered), registered.parent / "work"
    for model, said in {
        "models:/shop@best": "the registry has no such alias of shop; there is champion",
        "models:/shoe@champion": "the registry has no such alias of shoe; there is none",
        "models:/shop/1": "not a registered model: models:/shop@champion would be one",
    }.items():
        with standalone(settings, work), pytest.raises(UserError) as raised:
            address(settings, work, model)
        assert str(raised.value) == f"{model}: {said}"


def test_a_registered_model_needs_a_config(tmp_path):
    done = call(None, "models:/shop@champion")
    assert done.returncode == 2
    assert done.stderr.strip() == "calltune: --model models:/shop@champion: in which registry? Add -c FILE, the config of a run"
