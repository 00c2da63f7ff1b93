"""The train step on several nodes: its job in a stand-in for Kubernetes, whose pods are processes here, and a real S3 server."""

import base64
import json
import os
import signal
import threading
import time
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from calltune.errors import DataError, Stopped, UserError
from components.train import follow
from components.train.config import TrainConfig
from components.train.step import Trained, train
from components.train.trainjob import POD, Workers
from components.train.trainjob import WORKERS as TOLD
from tests.components.train.conftest import SETTINGS, same
from tests.components.train.test_trainjob import WORKERS
from tests.components.train.trainer_double import TrainerDouble, serve

QUICK = """
import os, sys, time
from pathlib import Path
from calltune import storage
from components.train.exchange import Exchange
print(f"worker {os.environ['PET_NODE_RANK']} begins", flush=True)
exchange = Exchange(storage.of_run(), sys.argv[-1])
exchange.fetch_work(Path("rows"))
"""
"""A worker without torch, for what does not depend on what it trains; more is put behind it."""
ENDS = (
    QUICK
    + """
Path("adapter").mkdir(exist_ok=True)
Path("adapter/method.json").write_text("{}")
Path("loss.csv").write_text("")
Path("metrics.json").write_text(os.environ["METRICS"])
if os.environ["PET_NODE_RANK"] == "0":
    exchange.put_result(Path("adapter"), Path("."))
"""
)
GOES_ON = QUICK + "time.sleep(600)"
METRICS = json.dumps({field.name: 9 for field in fields(Trained)})
FAILS = QUICK + "sys.exit(1)"


@pytest.fixture
def kubernetes(s3, server, tmp_path, monkeypatch):
    """The namespace team-a, in which this test is the pod step-1, whose step trains on two nodes."""
    double = TrainerDouble(tmp_path / "pods")
    running, host = serve(double)
    double.pods["step-1"] = "uid-1"
    keys = {name: server[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    double.secrets["store"] = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    parts = {"clusters": [{"name": "c", "cluster": {"server": host}}], "users": [{"name": "u", "user": {}}]}
    context = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **parts, **context}))
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    env = {name: value for name, value in server.items() if name not in keys}
    env |= {"CALLTUNE_STORAGE": os.environ["CALLTUNE_STORAGE"], "CALLTUNE_CACHE": "/models", "HOME": "/tmp"}
    env |= {"METRICS": METRICS}
    changed = {"image": "calltune", "gpus": 0, "secrets": {"store": {name: name for name in keys}}, "env": env}
    monkeypatch.setenv(TOLD, Workers(**{**WORKERS, **changed}).model_dump_json())
    for name, value in {"name": "step-1", "uid": "uid-1", "namespace": "team-a", "account": "runner"}.items():
        monkeypatch.setenv(POD[name], value)
    monkeypatch.setattr(follow, "POLL_S", 0.2)
    yield double
    running.shutdown()
    running.server_close()
    double.close()


@pytest.fixture
def step(kubernetes, rows, tiny, tmp_path):
    """A function that trains as the step does, with the given command of its workers, or with theirs."""

    def run(command=None, rows=rows, **settings):
        kubernetes.command = command and ["python3", "-c", command]
        config = TrainConfig(**{**SETTINGS, **settings})
        return train(rows, tiny, config, tmp_path / "adapter", tmp_path / "out", "code")

    return run


def created(kubernetes):
    return sum(call.startswith("POST") for call in kubernetes.calls)


def notes():
    path = Path(os.environ["CALLTUNE_EVENTS"])
    events = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return [event["message"] for event in events if event["kind"] == "note"]


def when(happens, act):
    """Do something in the background, as soon as something has happened."""

    def wait():
        until = time.monotonic() + 600
        while not happens() and time.monotonic() < until:
            time.sleep(0.05)
        act()

    threading.Thread(target=wait, daemon=True).start()


def printed_by_first(kubernetes, word):
    """A function that says whether the first worker has printed a word."""

    def look():
        workers = [worker for workers in kubernetes.workers.values() for worker in workers if worker.number == 0]
        return any(word in text for worker in workers for lines in worker.lines for _, text in lines)

    return look


def test_two_nodes_come_to_the_losses_and_weights_of_one_process(alone, step, kubernetes, s3, tmp_path, capfd):
    result = step()
    same(alone, gathered(tmp_path))
    assert (result.steps, result.method) == (6, "full")
    assert created(kubernetes) == 1 and kubernetes.jobs == {} and s3.list("exchange") == []
    assert s3.list("checkpoints") == [] or s3.list("checkpoints")[-1].endswith("finished.json")
    told = capfd.readouterr().err
    assert "2 processes on 2 machines together" in told and '"kind": "progress"' in told
    assert any("the TrainJob calltune-train-" in note and "has been created, with 2 workers" in note for note in notes())


def gathered(tmp_path):
    (tmp_path / "out" / "adapter").symlink_to(tmp_path / "adapter")
    return tmp_path / "out"


def test_a_worker_that_is_killed_is_started_again_and_all_go_on_from_the_checkpoint(alone, step, kubernetes, s3, tmp_path, capfd):
    def kill():
        next(iter(kubernetes.workers.values()))[1].process.kill()

    when(lambda: any(key.endswith("manifest.json") for key in s3.list("checkpoints")), kill)
    step(checkpoint_minutes=1e-9)
    workers = next(iter(kubernetes.workers.values()))
    assert [worker.restarts > 0 for worker in workers] == [True, True] and created(kubernetes) == 1
    same(alone, gathered(tmp_path))
    assert "goes on from the checkpoint of step" in capfd.readouterr().err


def test_an_error_in_the_data_is_the_steps_and_ends_the_job(step, kubernetes, s3, rows, tmp_path):
    for name in ("train", "validation"):
        pq.write_table(pq.read_table(rows / f"{name}.parquet").slice(0, 0), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"train.parquet: no rows to train on"):
        step(rows=tmp_path)
    assert kubernetes.jobs == {} and s3.list("exchange") == []


def test_the_job_is_the_steps_own_and_holds_secrets_by_name_only(step, kubernetes, server):
    seen = []
    when(lambda: kubernetes.jobs, lambda: seen.extend(kubernetes.jobs.values()))
    step(ENDS)
    (job,) = seen
    assert job["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "step-1", "uid": "uid-1"}]
    assert server["AWS_SECRET_ACCESS_KEY"] not in str(job)
    secret = {"secretKeyRef": {"name": "store", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": secret} in job["spec"]["trainer"]["env"]


def interrupted(monkeypatch):
    """Have the step's pod be lost while it follows."""
    with monkeypatch.context() as patch:
        patch.setattr(follow.Follower, "follow", lambda *_: (_ for _ in ()).throw(ConnectionError("the node is lost")))
        yield


def lose_the_step(step, monkeypatch):
    for _ in interrupted(monkeypatch):
        with pytest.raises(ConnectionError):
            step(ENDS.replace("exchange.put_result", "time.sleep(3); exchange.put_result"))


def again(kubernetes, monkeypatch):
    """The step's second pod."""
    kubernetes.pods["step-2"] = "uid-2"
    monkeypatch.setenv(POD["name"], "step-2")
    monkeypatch.setenv(POD["uid"], "uid-2")


def test_a_step_that_is_started_again_follows_the_job_that_goes_on(step, kubernetes, monkeypatch):
    lose_the_step(step, monkeypatch)
    again(kubernetes, monkeypatch)
    assert step(ENDS).steps == 9
    assert created(kubernetes) == 1 and any("goes on, and is followed" in note for note in notes())


def test_a_job_whose_owner_is_gone_is_waited_for_and_made_anew(step, kubernetes, monkeypatch):
    lose_the_step(step, monkeypatch)
    again(kubernetes, monkeypatch)
    plain = kubernetes.look
    monkeypatch.setattr(kubernetes, "look", lambda: None)  # Kubernetes takes its time
    when(lambda: "GET /api/v1/namespaces/team-a/pods/step-1" in kubernetes.calls, lambda: setattr(kubernetes, "look", plain))
    del kubernetes.pods["step-1"]
    assert step(ENDS).steps == 9
    assert created(kubernetes) == 2 and any("is on its way out, and is waited for" in note for note in notes())


def test_a_job_that_ended_before_is_made_anew(step, kubernetes, monkeypatch):
    lose_the_step(step, monkeypatch)
    (job,) = kubernetes.jobs.values()
    kubernetes.end(job, "Failed", "DeadlineExceeded", "")
    assert step(ENDS).steps == 9
    assert created(kubernetes) == 2


def test_sigterm_deletes_the_job(step, kubernetes):
    when(printed_by_first(kubernetes, "begins"), lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM: its TrainJob is deleted"):
        step(GOES_ON)
    assert kubernetes.jobs == {} and signal.getsignal(signal.SIGTERM) is before


def test_a_job_that_somebody_deletes_is_not_made_anew(step, kubernetes):
    when(printed_by_first(kubernetes, "begins"), lambda: kubernetes.delete(next(iter(kubernetes.jobs))))
    with pytest.raises(Stopped, match="somebody has deleted the TrainJob calltune-train-"):
        step(GOES_ON)
    assert created(kubernetes) == 1


def test_a_job_that_fails_says_why_and_what_each_worker_printed_last(step, kubernetes, capfd):
    kubernetes.backoff_limit = 2
    with pytest.raises(RuntimeError, match=r"calltune-train-\w+ has failed: FailedJobs: jobset failed due to"):
        step(FAILS)
    told = capfd.readouterr().err
    assert "worker 0 begins" in told and "the last lines of worker 1:\nworker 1 begins" in told


def test_each_line_of_the_first_worker_is_printed_once_also_after_a_restart(step, kubernetes, capfd):
    # The other one waits: if both failed, which of them the job ends with would be chance.
    waits = "if os.environ['PET_NODE_RANK'] == '1': time.sleep(600)\n"
    script = QUICK + waits + "print('slow', flush=True); time.sleep(1.5); print('gone', flush=True); sys.exit(1)"
    kubernetes.backoff_limit = 3
    with pytest.raises(RuntimeError):
        step(script)
    told = capfd.readouterr().err.splitlines()
    assert next(iter(kubernetes.workers.values()))[0].restarts == 3
    assert (told.count("slow"), told.count("gone")) == (4, 4) and "worker 1 begins" not in told[:2]


def test_workers_that_cannot_start_are_told_of_with_kubernetes_reason(step, kubernetes, monkeypatch):
    monkeypatch.setattr(follow, "PATIENCE_S", 0.5)
    kubernetes.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    waits = "worker 0 waits: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.; worker 1 waits: 0/3"
    when(lambda: any(waits in note for note in notes()), lambda: kubernetes.schedule(next(iter(kubernetes.jobs))))
    assert step(ENDS).steps == 9
    assert sum(waits in note for note in notes()) == 1


def test_kubernetes_may_be_away_for_a_while(step, kubernetes):
    when(printed_by_first(kubernetes, "begins"), lambda: setattr(kubernetes, "refuse", 503))
    when(
        lambda: any("the job goes on, and is looked for again" in note for note in notes()),
        lambda: setattr(kubernetes, "refuse", 0),
    )
    assert step(ENDS.replace("exchange.put_result", "time.sleep(2); exchange.put_result")).steps == 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"known": False}, r"the cluster has no TrainJobs \(trainer.kubeflow.org/v1alpha1\): .*helm install kubeflow-trainer"),
        ({"refuse": 403}, "the step's account may not do that in team-a .*runner.trainJobs: true"),
        ({"older": "runtimePatches"}, "Kubernetes refuses the TrainJob .*unknown field 'runtimePatches'"),
    ],
)
def test_what_the_cluster_lacks_is_one_line_that_says_what_to_do(step, kubernetes, change, says):
    for name, value in change.items():
        setattr(kubernetes, name, value)
    with pytest.raises(UserError, match=says):
        step(ENDS)
