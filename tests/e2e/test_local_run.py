"""`calltune run` as a user runs it: the real DAG, S3 server and MLflow, on a tiny model and sixty rows.

The tests of this file build on one workdir and run in the order in which they stand; the first one takes the longest.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
CALLTUNE = [str(Path(sys.executable).parent / "calltune")]
TO_GATE = ["ingest", "format", "train", "export", "evaluate-base", "evaluate-candidate", "evaluate-champion", "gate"]
ROWS = 60
TIMEOUT_S = 900

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module")
def house(tmp_path_factory, tiny_model):
    """A folder with a copy of the sources (one test changes them), the rows, and a config; everything runs in it."""
    place = tmp_path_factory.mktemp("house")
    for part in ("calltune", "components", "pipelines"):
        shutil.copytree(REPO / part, place / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
    lines = (REPO / "examples" / "helpdesk" / "questions.jsonl").read_text().splitlines()[:ROWS]
    # The last line is cut off in the middle, as after a download that broke off: the good rows go on.
    (place / "questions.jsonl").write_text("\n".join([*lines, lines[0][:80]]) + "\n")
    shutil.copyfile(REPO / "examples" / "helpdesk" / "tools.py", place / "tools.py")
    (place / "config.yaml").write_text(
        f"name: tiny\n"
        f"model: {{base: {tiny_model}}}\n"
        f"ingest: {{source: questions.jsonl, tools: tools.py}}\n"
        f"format: {{max_tokens: 1024}}\n"
        f"train: {{epochs: 2, learning_rate: 1.0e-3, batch_rows: 8}}\n"
        f"evaluate: {{max_new_tokens: 16}}\n"
        f"gate: {{min_questions: 10, thresholds: {{tool_accuracy: 0.01}}}}\n"
    )
    return place


def command(house, *arguments, workdir="work"):
    where = ["--workdir", str(house / workdir)]
    return [*CALLTUNE, "run", "-c", "config.yaml", *where, *arguments]


def environment(house):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CALLTUNE_", "AWS_", "MLFLOW_"))}
    return {**clean, "PYTHONPATH": str(house / "source"), "CALLTUNE_CACHE": str(house / "cache")}


def start(house, *arguments, **options):
    """Start a run in a session of its own, as a terminal would; Ctrl-C reaches it whatever the test runner ignores."""
    return subprocess.Popen(
        command(house, *arguments, **options),
        cwd=house,
        env=environment(house),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


class Ended:
    """A run that has ended: exit code, what it printed, its summary, and the steps that ran."""

    def __init__(self, house, code, output, workdir="work"):
        self.code, self.output, self.workdir = code, " ".join(output.split()), house / workdir
        summary = self.workdir / "summary.json"
        self.summary = json.loads(summary.read_text()) if summary.exists() else None

    @property
    def ran(self):
        return [step["name"] for step in self.summary["steps"] if not step["cached"] and step["name"] in TO_GATE]


def run(house, *arguments, workdir="work"):
    process = start(house, *arguments, workdir=workdir)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return Ended(house, process.returncode, output, workdir)


@contextmanager
def training(house, *arguments):
    """A run that is some steps into training."""
    events = house / "work" / "events.jsonl"
    events.unlink()  # those of the run before
    process = start(house, *arguments)
    try:
        until = time.monotonic() + TIMEOUT_S
        while not _is_training(events):
            assert process.poll() is None, f"the run never came to train: {process.communicate()[0]}"
            assert time.monotonic() < until, "the run never came to train"
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _is_training(events):
    if not events.exists():
        return False
    seen = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    return any(event["kind"] == "progress" and event["name"] == "train" and event["done"] > 2 for event in seen)


def processes_of(house, workdir="work"):
    """Every process that has the workdir in its command line or its environment: id → command line."""
    mark, found = str(house / workdir).encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, variables = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if mark in line or mark in variables:
            found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def step_of(house):
    """The id of the running step's process; its shell has other words first, a child of it the same between fork and exec."""
    steps = {pid for pid, line in processes_of(house).items() if line.startswith("python3 -m kfp.dsl.executor_main ")}
    (step,) = [pid for pid in steps if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) not in steps]
    return step


@pytest.fixture(scope="module")
def first(house):
    """The first run of all."""
    ended = run(house)
    assert ended.code == 0, f"{ended.output}\n{(house / 'work' / 'run.log').read_text()[-5000:]}"
    return ended


@pytest.fixture(scope="module")
def registry(house, first):
    """MLflow's client on the workdir's own database."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{house / 'work' / 'mlflow.db'}")


def named(registry):
    return {alias: int(version) for alias, version in registry.get_registered_model("tiny").aliases.items()}


def last_run(registry):
    return max(registry.search_runs([registry.get_experiment_by_name("tiny").experiment_id]), key=lambda run: run.info.start_time)


def test_the_summary_has_the_keys_of_its_contract_and_no_others(first):
    summary = first.summary
    top = "run_id outcome reason config_sha256 dataset baseline candidate champion gate promoted steps artifacts"
    assert list(summary) == top.split()
    assert summary["outcome"] == "promoted" and summary["champion"] is None
    counts = "fingerprint read kept quarantined duplicates train validation test"
    assert list(summary["dataset"]) == counts.split()
    data = summary["dataset"]
    assert (data["read"], data["kept"], data["quarantined"], data["duplicates"]) == (61, 60, 1, 0)
    assert data["train"] + data["validation"] + data["test"] == 60 and data["test"] == 20
    for results in (summary["baseline"], summary["candidate"]):
        assert {"tool_accuracy", "call_accuracy", "valid_call_rate", "max_length_stop_rate"} <= set(results)
        assert all(set(row) == {"value", "low", "high", "n"} for row in results.values())
    assert set(summary["gate"]) == {"passed", "checks"} and summary["gate"]["passed"] is True
    assert all(list(check) == ["name", "passed", "observed", "required", "reason"] for check in summary["gate"]["checks"])
    assert summary["promoted"] == {"model": "tiny", "version": 1, "alias": "champion", "previous": None, "unchanged": False}
    assert all(set(step) == {"name", "seconds", "peak_rss_mib", "cached"} for step in summary["steps"])
    assert [step["name"] for step in summary["steps"]] == ["look", *TO_GATE, "promote"]
    assert not any(step["cached"] for step in summary["steps"])
    assert set(summary["artifacts"]) == {"adapter", "model", "report", "predictions"}
    assert summary["artifacts"]["model"].startswith("s3://calltune/models/")


def test_the_workdir_has_the_report_and_the_model(first, tiny_model):
    page = (first.workdir / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and first.summary["run_id"] in page
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page
    model = first.workdir / "model"
    assert model.is_symlink() and (model / "model.safetensors").stat().st_size > 1_000_000
    assert model.resolve().name == first.summary["artifacts"]["model"].rsplit("/", 1)[1]
    assert (model / "model.safetensors").read_bytes() != (tiny_model / "model.safetensors").read_bytes()


def test_a_row_cut_off_in_the_middle_is_in_quarantine_with_its_line_and_reason(first):
    (file,) = [path for path in (first.workdir / "kfp").rglob("quarantine.jsonl") if path.stat().st_size]
    row = json.loads(file.read_text())
    assert (row["row"], row["rule"]) == (61, "not_json") and row["message"]
    assert row["source"].endswith("questions.jsonl")


def test_it_said_what_it_did(first):
    for words in ("On the held-out questions", "The gate", "The steps", "promoted: tiny version 1 is champion", "report.html"):
        assert words in first.output
    assert "Traceback" not in first.output
    assert "format.template: hermes" in first.output and "full at learning rate 0.001" in first.output


def test_mlflow_has_the_run_its_params_metrics_and_loss_curve(first, registry):
    experiment = registry.get_experiment_by_name("tiny")
    (found,) = registry.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags["calltune.run_id"] == first.summary["run_id"]
    assert found.data.tags["fingerprint"] == first.summary["dataset"]["fingerprint"]
    assert found.data.params["train.epochs"] == "2" and found.data.params["gate.thresholds.tool_accuracy"] == "0.01"
    assert found.data.metrics["candidate.tool_accuracy"] == first.summary["candidate"]["tool_accuracy"]["value"]
    steps = registry.get_metric_history(found.info.run_id, "train_loss")
    assert len({point.step for point in steps}) == len(steps) == found.data.metrics["train.steps"] > 4
    assert len(registry.get_metric_history(found.info.run_id, "validation_loss")) == 2
    version = registry.get_model_version_by_alias("tiny", "champion")
    assert version.source == first.summary["artifacts"]["model"] and version.tags["decision"] == "passed"


def test_the_store_has_the_model_the_report_and_the_artifacts_of_the_run(first, registry, house, monkeypatch):
    from calltune import models, storage
    from pipelines.embedded import s3_server

    with s3_server(house / "work" / "s3") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        store = storage.S3("calltune")
        keys = store.list("")
        digest = first.summary["artifacts"]["model"].rsplit("/", 1)[1]
        place = f"runs/{first.summary['run_id']}"
        exported = {key.removeprefix(f"models/{digest}/") for key in keys if key.startswith("models/")}
        assert exported == {*models.checksums(house / "work" / "model"), models.MANIFEST}
        assert {f"{place}/summary.json", f"{place}/report.html", f"{place}/predictions.jsonl"} <= set(keys)
        assert {f"{place}/steps/{name}.json" for name in ["look", *TO_GATE, "promote", "report", "notify"]} <= set(keys)
        assert [key for key in keys if key.startswith("ledger/")] == ["ledger/tiny/champion/000001.json"]
        artifacts = [key.rsplit("/artifacts/", 1)[1] for key in keys if "/artifacts/" in key]
        assert sorted(artifacts) == ["decision.json", "predictions.jsonl", "report.html"]
    assert processes_of(house) == {}


def test_a_run_leaves_no_process_and_no_temporary_file_behind(first, house):
    assert processes_of(house) == {}
    assert not (first.workdir / ".calltune-tmp").exists()
    looked_in = re.findall(r"component_module_path `(.*)/tmp\.", (first.workdir / "run.log").read_text())
    assert set(looked_in) == {str(first.workdir / ".calltune-tmp")}, "KFP made its folders there, and not in /tmp"


def test_another_store_in_the_same_workdir_is_refused_and_changes_nothing(first, house):
    ended = run(house, "--set", "storage.uri=./store")
    assert ended.code == 2
    assert "was used with storage.uri embedded" in ended.output and "use another --workdir, or delete this one" in ended.output
    assert ended.summary == first.summary and not (house / "store").exists()


def test_a_run_with_nothing_new_has_a_summary_of_the_same_keys(first, house):
    ended = run(house, "--set", "retrain.when=changed", "--set", "retrain.drift.questions=questions.jsonl")
    assert ended.code == 0 and ended.summary["outcome"] == "nothing_new"
    assert "drift: not known: 60 recent questions, and 200 are needed" in ended.output, "the first run has left its profile"
    assert list(ended.summary) == list(first.summary)
    assert ended.summary["config_sha256"] != first.summary["config_sha256"] and len(ended.summary["config_sha256"]) == 64
    assert ended.summary["dataset"] == {"fingerprint": first.summary["dataset"]["fingerprint"]}
    assert [step["name"] for step in ended.summary["steps"]] == ["look"]


@pytest.fixture(scope="module")
def second(house, first):
    """The same again: now there is a champion to compare with."""
    return run(house)


def test_the_same_again_runs_only_what_the_new_champion_concerns(second, first):
    assert second.code == 0
    assert second.ran == ["evaluate-champion", "gate"]
    assert second.summary["promoted"] == {**first.summary["promoted"], "unchanged": True}
    assert second.summary["dataset"] == first.summary["dataset"]
    assert second.summary["candidate"] == first.summary["candidate"] == second.summary["champion"]
    assert "measured before on the same questions" in second.output
    assert "unchanged: tiny version 1 is champion already" in second.output


@dataclass(frozen=True)
class Stopped:
    """A run that Ctrl-C ended in the middle of training, and the run after it.

    Attributes:
        meanwhile: a run that was started beside it.
        left: its processes and temporary files, once it had ended.
        status: what MLflow says of it.
        aliases: before it.
        after: the next run.
    """

    code: int
    output: str
    meanwhile: Ended
    left: list[str]
    status: str
    aliases: dict[str, int]
    after: Ended


@pytest.fixture(scope="module")
def stopped(house, second, registry):
    """Ctrl-C in the middle of training, and the run after it, which is the second one again."""
    aliases = named(registry)
    with training(house, "--set", "train.epochs=500") as process:
        assert any("weed" in line for line in processes_of(house).values())
        meanwhile = run(house)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    left = [*processes_of(house).values(), *map(str, (house / "work").glob(".calltune-tmp"))]
    status = last_run(registry).info.status
    return Stopped(process.returncode, output, meanwhile, left, status, aliases, run(house))


def test_ctrl_c_in_the_middle_of_training_leaves_nothing_and_the_next_run_starts_clean(stopped, registry):
    assert stopped.meanwhile.code == 2 and "another run" in stopped.meanwhile.output and "work" in stopped.meanwhile.output
    assert stopped.code not in (0, 2, 3) and "Traceback" not in stopped.output
    assert stopped.left == []
    assert stopped.status == "KILLED"
    assert stopped.after.code == 0, stopped.after.output
    assert stopped.after.summary["outcome"] == "promoted"
    assert named(registry) == stopped.aliases == {"champion": 1}


def test_everything_up_to_the_gate_comes_from_the_cache_when_nothing_has_changed(stopped):
    assert stopped.after.ran == []
    assert stopped.after.summary["promoted"]["unchanged"] is True


@pytest.fixture(scope="module")
def refused(house, stopped):
    """A gate that nobody passes."""
    return run(house, "--set", "gate.thresholds.tool_accuracy=0.999", "--require-promotion")


def test_a_changed_threshold_runs_the_gate_and_nothing_before_it(refused):
    assert refused.ran == ["gate"]


def test_a_refused_candidate_with_required_promotion_is_exit_code_3(refused, registry):
    assert refused.code == 3
    assert refused.summary["outcome"] == "refused" and refused.summary["promoted"] is None
    checks = {check["name"]: check for check in refused.summary["gate"]["checks"]}
    assert not refused.summary["gate"]["passed"] and not checks["threshold: tool_accuracy"]["passed"]
    assert all(check["reason"] for check in checks.values())
    assert "at least 0.999 is required" in refused.output and "the alias stays where it was" in refused.output
    assert named(registry) == {"champion": 1}


@pytest.fixture(scope="module")
def rewritten(house, refused):
    """A line of the train step is another, which makes another model; and nobody passes the gate."""
    file = house / "source" / "components" / "train" / "step.py"
    before, line = file.read_text(), "        learning_rate=method.learning_rate,\n        max_steps="
    assert before.count(line) == 1
    file.write_text(before.replace(line, line.replace("rate,", "rate / 2,")))
    try:
        return run(house, "--set", "gate.thresholds.tool_accuracy=0.999")
    finally:
        file.write_text(before)


def test_a_changed_line_of_a_step_runs_it_and_what_follows(rewritten):
    assert {"train", "export", "gate"} <= set(rewritten.ran)
    assert not {"ingest", "format", "evaluate-base"} & set(rewritten.ran)


def test_a_refused_candidate_is_exit_code_0_and_a_version_but_no_champion(rewritten, registry):
    assert rewritten.code == 0 and rewritten.summary["outcome"] == "refused" and rewritten.summary["promoted"] is None
    failed = [check["name"] for check in rewritten.summary["gate"]["checks"] if not check["passed"]]
    assert failed == ["threshold: tool_accuracy"]
    newest = max(registry.search_model_versions("name = 'tiny'"), key=lambda version: int(version.version))
    assert newest.tags["decision"] == "refused"
    assert int(newest.version) not in named(registry).values()


@pytest.fixture(scope="module")
def renewed(house, rewritten):
    """A row is another, and so is the seed; and the gate lets a champion of the same strength be replaced."""
    rows = house / "questions.jsonl"
    lines = rows.read_text().splitlines()
    changed = json.loads(lines[7])
    changed["messages"][0]["content"] += " Thanks!"
    rows.write_text("\n".join([*lines[:7], json.dumps(changed), *lines[8:]]) + "\n")
    against = "gate.against_champion={tool_accuracy: {test: point, margin: -1.0}}"
    try:
        return run(house, "--set", "train.seed=5", "--set", against)
    finally:
        rows.write_text("\n".join(lines) + "\n")


def test_a_changed_row_runs_ingest_and_what_follows(renewed, first):
    assert renewed.ran == TO_GATE
    assert renewed.summary["dataset"]["fingerprint"] != first.summary["dataset"]["fingerprint"]


def test_another_passing_model_becomes_champion_and_the_one_before_it_previous(renewed, registry):
    assert renewed.code == 0, renewed.output
    assert renewed.summary["outcome"] == "promoted"
    version = renewed.summary["promoted"]["version"]
    assert version > 1 and renewed.summary["promoted"]["previous"] == 1
    assert named(registry) == {"champion": version, "previous": 1}
    assert renewed.summary["champion"] is not None
    assert "against champion: tool_accuracy" in {check["name"] for check in renewed.summary["gate"]["checks"]}


def test_a_step_killed_with_sigkill_is_exit_code_1_and_named(house, renewed, registry):
    with training(house, "--set", "train.epochs=501") as process:
        os.kill(step_of(house), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "train: was killed before it could end" in " ".join(output.split()) and "Traceback" not in output
    assert processes_of(house) == {}
    assert not (house / "work" / "summary.json").exists()
    assert last_run(registry).info.status == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "ingest.source=nowhere.jsonl"], "nowhere.jsonl: no such data file"),
        (["--set", "train.epoch=3"], "train.epoch: unknown key; did you mean epochs?"),
        (["--set", "train.epochs=many"], "train.epochs: must be a whole number, not 'many'"),
        (["-c", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    ],
)
def test_a_users_mistake_is_exit_code_2_and_one_line(house, arguments, message):
    ended = run(house, "--set", "storage.uri=./store", *arguments, workdir="mistakes")
    assert ended.code == 2
    assert message in ended.output and "Traceback" not in ended.output
    assert processes_of(house, "mistakes") == {}


def test_a_file_of_many_rows_that_are_not_utf8_is_exit_code_2_and_says_where(house):
    latin = [b'{"id": "%d", "messages": "caf\xe9"}\n' % number for number in range(61, 66)]
    (house / "latin.jsonl").write_bytes(b"".join(latin) + (house / "questions.jsonl").read_bytes())
    ended = run(house, "--set", "ingest.source=latin.jsonl")
    assert ended.code == 2 and "5 not_utf8" in ended.output
    assert "first, row 1: byte 29 of the file: not UTF-8 (0xe9)" in ended.output
