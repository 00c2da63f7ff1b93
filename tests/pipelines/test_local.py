"""What the steps of a run find in their environment, and runs that end with look."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from calltune import ledger, tracking
from calltune.errors import DataError
from calltune.processes import in_environment
from components.look.config import LookConfig
from components.look.step import look
from pipelines import local
from pipelines.config import RunConfig, absolute, load
from pipelines.local import environment, variables_of
from pipelines.screen import Screen
from pipelines.workdir import remember_places

NOISY = """
import warnings
from tqdm.auto import tqdm
list(tqdm(range(3)))
warnings.warn("in version 6 this will have another name", FutureWarning)
warnings.warn("this is wrong")
"""


def stderr(tmp_path):
    sections = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": "rows.jsonl"}}
    found = dict(os.environ) | variables_of(RunConfig.model_validate(sections), tmp_path)
    return subprocess.run([sys.executable, "-c", NOISY], env=found, capture_output=True, text=True, check=True).stderr


def test_a_steps_log_has_no_bars_and_no_deprecations_but_other_warnings(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    (line,) = stderr(tmp_path).splitlines()
    assert "UserWarning: this is wrong" in line


def test_who_asks_for_warnings_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    assert "FutureWarning" in stderr(tmp_path)


def test_the_environment_is_as_before_after_a_block_of_its_own(monkeypatch):
    monkeypatch.setenv("CALLTUNE_STORAGE", "mine")
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), in_environment({"CALLTUNE_STORAGE": "the run's", "CALLTUNE_X": "1"}):
        assert (os.environ["CALLTUNE_STORAGE"], os.environ["CALLTUNE_X"]) == ("the run's", "1")
        os.environ["CALLTUNE_Y"] = "2"
        raise KeyboardInterrupt
    assert dict(os.environ) == before


def test_what_a_block_leaves_alone_in_the_environment_is_there_all_the_time(monkeypatch):
    taken_out, unsetenv = [], os.unsetenv
    monkeypatch.setattr(os, "unsetenv", lambda name: (taken_out.append(name), unsetenv(name)))
    with in_environment({"CALLTUNE_X": "1"}):  # other threads read it, too
        pass
    assert taken_out == [b"CALLTUNE_X"]


@pytest.fixture
def run_by_hand(tmp_path, empty_mlflow):
    """A workdir, and a config of a run that trains only if something has changed; calls `calltune run` with it."""
    config = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": "rows.jsonl"}}
    config |= {"storage": {"uri": "./store"}, "retrain": {"when": "changed"}}
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "work").mkdir()
    shutil.copyfile(empty_mlflow, tmp_path / "work" / "mlflow.db")

    def run(*arguments):
        command = [str(Path(sys.executable).parent / "calltune"), "run", "-c", "run.yaml", "--workdir", "work", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    return tmp_path / "work", run


def champion_of_these_rows(workdir):
    """Promote a model that was made from what the config names, as it is now."""
    config = absolute(load(workdir.parent / "run.yaml"))
    with environment(config, workdir) as variables, in_environment({**variables, "CALLTUNE_RUN_ID": "before"}):
        fingerprint = look(LookConfig(**config.for_step("look"))).fingerprint
        made = {"uri": "file:///models/d1", "digest": "d1", "files": {"a": "b"}}
        version = tracking.register("shop", made["uri"], made["digest"], tracking.run_of("shop"), {})
        entry = {**made, "n": 1, "version": version, "run_id": "before", "fingerprint": fingerprint, "reason": "passed"}
        ledger.append("shop", "champion", entry)
    remember_places(config, workdir)


def test_a_run_with_nothing_new_keeps_the_report_before_and_names_nothing_as_made(run_by_hand, monkeypatch):
    workdir, run = run_by_hand
    monkeypatch.chdir(workdir.parent)
    champion_of_these_rows(workdir)
    (workdir / "report.html").write_text("the last one")
    (workdir / "model").symlink_to(workdir.parent)
    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads((workdir / "summary.json").read_text())["outcome"] == "nothing_new"
    assert (workdir / "report.html").read_text() == "the last one"
    assert done.stdout.splitlines()[-1] == "summary work/summary.json"


def test_a_store_below_a_file_is_exit_code_2_and_says_so(run_by_hand):
    workdir, run = run_by_hand
    (workdir.parent / "file").touch()
    done = run("--set", "storage.uri=./file/store")
    assert done.returncode == 2
    said = f"look: file://{workdir.parent}/file/store: the store cannot be written: Not a directory"
    assert done.stderr.startswith(f"calltune: {said}") and "Traceback" not in done.stdout + done.stderr
    assert "✓ look" not in done.stdout and done.stderr.count("cannot be written") == 1
    assert not (workdir / "places.json").exists(), "a store that does not answer is not the workdir's"


def test_a_file_that_is_gone_leaves_no_summary_of_the_run_before(run_by_hand, monkeypatch):
    workdir, _ = run_by_hand
    monkeypatch.chdir(workdir.parent)
    (workdir.parent / "rows.jsonl").unlink()
    remember_places(load("run.yaml"), workdir)
    for name in ("summary.json", "events.jsonl"):
        (workdir / name).write_text('{"outcome": "promoted"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: no such data file"):
        local.run(load("run.yaml"), workdir, Screen(Console()))
    assert not (workdir / "summary.json").exists() and not (workdir / "events.jsonl").exists()


def test_whoever_is_to_be_told_is_told_of_a_file_that_is_gone(run_by_hand, monkeypatch):
    workdir, run = run_by_hand
    told = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("CALLTUNE_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}")
    (workdir.parent / "rows.jsonl").unlink()
    done = run("--set", "notify.via=[webhook]")
    server.shutdown()
    assert done.returncode == 2 and "rows.jsonl: no such data file" in done.stderr
    (message,) = told
    assert (message["outcome"], message["step"]) == ("failed", "look") and "rows.jsonl: no such data file" in message["error"]


def test_an_interrupted_run_is_killed_in_mlflow_too(run_by_hand):
    workdir, _ = run_by_hand
    command = [str(Path(sys.executable).parent / "calltune"), "run", "-c", "run.yaml", "--workdir", "work"]
    process = subprocess.Popen(command, cwd=workdir.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 300
    while not (workdir / "places.json").exists():  # written when look has ended
        assert process.poll() is None and time.monotonic() < until, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and output.endswith("calltune: stopped\n")
    import mlflow

    registry = mlflow.MlflowClient(tracking_uri=f"sqlite:///{workdir / 'mlflow.db'}")
    (found,) = registry.search_runs([registry.get_experiment_by_name("shop").experiment_id])
    assert found.info.status == "KILLED"
