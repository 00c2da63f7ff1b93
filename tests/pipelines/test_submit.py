"""`calltune submit` and `calltune runs`: the real kfp.Client, the real S3 server, and a stand-in for KFP's API."""

import functools
import json
import ssl
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import kfp_server_api as api
import pytest

from calltune import models, runtime, tools
from calltune.errors import ConfigError, Stopped
from calltune.settings import ModelConfig
from components.format.split import matching
from components.ingest.config import IngestConfig
from components.ingest.step import ingest
from components.look.fingerprint import fingerprint
from pipelines import doctor, kubeflow, submit
from pipelines.config import load
from pipelines.inputs import Inputs
from tests.http_double import Refused

SUMMARY = {"outcome": "promoted", "promoted": {"model": "lights", "version": 3, "alias": "champion", "unchanged": False}}
REFUSAL = {"outcome": "refused", "gate": {"checks": [{"passed": False, "reason": "tool_accuracy 0.7 is below 0.8"}]}}


def summary_of(run_id, **fields):
    return {"run_id": run_id, "promoted": None, "gate": None, **fields}


def ends(cluster, s3, state, summary=None, error=None):
    """Have each run end as soon as it is asked for, with what its steps would have written."""
    plain = functools.partial(type(cluster.double).handle, cluster.double)  # not what an earlier call put in its place

    def handle(method, path, query, body):
        answer = plain(method, path, query, body)
        if method == "GET" and isinstance(answer, api.V2beta1Run) and answer.state == "RUNNING":
            if summary:
                s3.put_json(f"runs/{answer.run_id}/summary.json", summary_of(answer.run_id, **summary))
            if error:
                s3.put_json(f"runs/{answer.run_id}/steps/train.json", {"error": error})
            details = [api.V2beta1PipelineTaskDetail(display_name="train", state=state)]
            answer.run_details = api.V2beta1RunDetails(task_details=details)
            cluster.double.end(answer.run_id, state)
        return answer

    cluster.double.handle = handle


def test_submit_brings_the_inputs_uploads_a_version_and_starts_a_run(cluster, command, s3):
    code, out, err = command("submit", "-c", cluster.config)
    assert (code, err) == (0, "")
    (run,) = cluster.runs()
    assert f"{cluster.host}/#/runs/details/{run.run_id}" in out
    assert run.service_account == "runner"
    version = cluster.double.objects["versions"][run.pipeline_version_reference.pipeline_version_id]
    defaults = version.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    config = defaults["ingest_config"]["defaultValue"]
    assert config["source"].startswith(f"{s3.uri}/inputs/") and config["tools"].endswith("/tools.json")
    assert defaults["look_config"]["defaultValue"]["tools"] == config["tools"]
    # What a pod would do with them: read the rows and the JSON, and run nothing.
    (cluster.folder / "imported").unlink()
    assert [tool["function"]["name"] for tool in tools.load(config["tools"])] == ["lights"]
    done = ingest(IngestConfig(source=config["source"], tools=config["tools"]), cluster.folder / "out")
    assert done.kept == 60
    assert not (cluster.folder / "imported").exists()
    assert fingerprint(config["source"], config["tools"]) != fingerprint(config["source"], "")

    code, out, _ = command("submit", "-c", cluster.config)
    assert code == 0
    assert "uploaded" not in out and "(there already)" in out
    assert len(cluster.runs()) == 2
    assert len(cluster.double.objects["pipelines"]) == 1


@pytest.mark.parametrize(
    ("state", "summary", "error", "code", "says"),
    [
        ("SUCCEEDED", SUMMARY, None, 0, "promoted: lights version 3 is champion"),
        ("SUCCEEDED", REFUSAL, None, 3, "refused: tool_accuracy 0.7 is below 0.8"),
        ("SUCCEEDED", {"outcome": "nothing_new"}, None, 0, "nothing new"),
        ("FAILED", None, {"step": "train", "code": 2, "message": "rows.jsonl: is empty"}, 2, "train: rows.jsonl: is empty"),
        ("FAILED", None, {"step": "train", "code": 1, "message": "OutOfMemoryError"}, 1, "train: OutOfMemoryError"),
        ("FAILED", None, None, 1, "calltune runs logs"),
        ("SUCCEEDED", None, None, 1, "no step has said why"),
        ("CANCELED", None, None, 1, "was stopped"),
    ],
    ids=["promoted", "refused", "nothing_new", "data", "failure", "silent", "no_summary", "stopped"],
)
def test_wait_ends_with_the_runs_verdict(cluster, command, s3, state, summary, error, code, says):
    ends(cluster, s3, state, summary, error)
    done, out, err = command("submit", "-c", cluster.config, "--follow", "--require-promotion", "--no-preflight")
    assert done == code
    assert says in out + err
    assert "train          " in out


def test_resubmit_tries_a_failure_again_and_never_a_data_error(cluster, command, s3):
    ends(cluster, s3, "FAILED", error={"step": "train", "code": 1, "message": "node lost"})
    assert command("submit", "-c", cluster.config, "--wait", "--resubmit", "2", "--no-preflight")[0] == 1
    assert len(cluster.runs()) == 3
    assert len({run.pipeline_version_reference.pipeline_version_id for run in cluster.runs()}) == 1
    cluster.double.objects["runs"].clear()
    ends(cluster, s3, "FAILED", error={"step": "train", "code": 2, "message": "no rows"})
    assert command("submit", "-c", cluster.config, "--wait", "--resubmit", "2", "--no-preflight")[0] == 2
    assert len(cluster.runs()) == 1


def preempted(run_id, monkeypatch, s3):
    """What a train step leaves in the store whose node is drained."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit), runtime.step("train"):
        patch.setenv("CALLTUNE_RUN_ID", run_id)
        raise Stopped(f"stopped by SIGTERM at step 3 of 8: the checkpoint of step 3 is in {s3.uri}/checkpoints")


def ends_by_sigterm(cluster, monkeypatch, s3, first):
    """Have each run go through `first`, a function of the run, and then end as one whose train step was stopped."""
    plain = functools.partial(type(cluster.double).handle, cluster.double)

    def handle(method, path, query, body):
        answer = plain(method, path, query, body)
        if method == "GET" and isinstance(answer, api.V2beta1Run) and answer.finished_at is None:
            first(answer)
            if answer.state != "CANCELING" or answer.display_name == "seen":
                preempted(answer.run_id, monkeypatch, s3)
                cluster.double.end(answer.run_id, "FAILED")
            answer.display_name = "seen"
        return answer

    cluster.double.handle = handle


def test_a_training_that_was_preempted_is_submitted_again(cluster, command, s3, monkeypatch):
    ends_by_sigterm(cluster, monkeypatch, s3, lambda run: None)
    code, out, err = command("submit", "-c", cluster.config, "--wait", "--resubmit", "1", "--no-preflight")
    assert (code, len(cluster.runs())) == (1, 2)
    assert "train: stopped by SIGTERM at step 3 of 8" in out and "; submitted again" in out and "SIGTERM" in err


@pytest.mark.parametrize(("status", "code", "says"), [(503, 1, "the run goes on, `calltune runs show"), (404, 2, "not found")])
def test_an_api_that_is_away_while_a_run_goes_on_is_no_error_in_it(cluster, command, monkeypatch, status, code, says):
    plain, asked = cluster.double.handle, []

    def handle(method, path, query, body):
        if method == "GET" and path.startswith("/apis/v2beta1/runs/"):
            asked.append(path)
            raise Refused(status, "no")
        return plain(method, path, query, body)

    cluster.double.handle = handle
    monkeypatch.setattr(submit, "PATIENCE_S", 0.2)
    done, _, err = command("submit", "-c", cluster.config, "--wait", "--no-preflight")
    assert done == code and (status == 503 or len(asked) == 1)
    assert says in err


def away(cluster, where, times, status=503, done=False):
    """Have a gateway answer so many requests of a method and a path; `done`: after the API has done what was asked for."""
    plain, left = cluster.double.handle, [times]

    def handle(method, path, query, body):
        if where in f"{method} {path}" and left[0] > 0:
            left[0] -= 1
            if done:
                plain(method, path, query, body)
            raise Refused(status, "no upstream")
        return plain(method, path, query, body)

    cluster.double.handle = handle


@pytest.mark.parametrize("where", ["GET /apis/v2beta1/pipelines", "POST /apis/v2beta1/experiments", "POST /apis/v2beta1/runs"])
def test_an_api_that_is_away_for_a_moment_while_a_run_is_submitted_is_asked_again(cluster, command, where):
    away(cluster, where, times=3)
    code, out, err = command("submit", "-c", cluster.config, "--no-preflight")
    assert (code, err, len(cluster.runs())) == (0, "", 1)
    assert "does not answer (HTTP 503): no upstream; asked again for" in out


def test_a_run_that_began_although_the_answer_was_lost_is_not_begun_again(cluster, command):
    away(cluster, "POST /apis/v2beta1/runs", times=1, status=504, done=True)
    code, out, _ = command("submit", "-c", cluster.config, "--no-preflight")
    (run,) = cluster.runs()
    assert code == 0 and run.run_id in out


def test_a_run_whose_answer_was_lost_is_looked_for_and_not_asked_for_twice(cluster, command, monkeypatch):
    away(cluster, "POST /apis/v2beta1/runs", times=1, status=504)
    monkeypatch.setattr(submit, "SUBMIT_S", 0.5)
    code, _, err = command("submit", "-c", cluster.config, "--no-preflight")
    assert (code, cluster.double.calls.count("POST /apis/v2beta1/runs")) == (2, 1)
    assert "(HTTP 504): no upstream; whether the run 'lights 20" in err and "`calltune runs list` says later" in err


def test_a_pipeline_that_another_command_makes_at_the_same_moment_is_the_one(cluster, command):
    away(cluster, "POST /apis/v2beta1/pipelines/upload", times=1, status=409, done=True)
    assert command("submit", "-c", cluster.config, "--no-preflight")[0] == 0
    assert (len(cluster.double.objects["pipelines"]), len(cluster.runs())) == (1, 1)


def test_an_api_that_stays_away_ends_the_command(cluster, command, monkeypatch):
    away(cluster, "POST /apis/v2beta1/runs", times=100)
    monkeypatch.setattr(submit, "SUBMIT_S", 0.2)
    code, _, err = command("submit", "-c", cluster.config, "--no-preflight")
    assert (code, cluster.runs()) == (2, [])
    assert err.count("\n") == 1 and "does not answer (HTTP 503)" in err


def test_a_minute_is_a_minute_also_where_each_answer_is_waited_for(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def silent(again):
        now[0] += 2 * kubeflow.ANSWER_S
        raise kubeflow.Away("nobody")

    with pytest.raises(kubeflow.Away):
        submit._patiently(silent, submit.SUBMIT_S)
    assert now[0] < 2 * submit.SUBMIT_S + kubeflow.ANSWER_S


def test_an_api_that_is_away_when_a_failed_run_is_to_be_submitted_again_is_no_error_in_it(cluster, command, s3, monkeypatch):
    ends_by_sigterm(cluster, monkeypatch, s3, lambda run: away(cluster, "POST /apis/v2beta1/runs", times=100))
    monkeypatch.setattr(submit, "SUBMIT_S", 0.2)
    code, _, err = command("submit", "-c", cluster.config, "--wait", "--resubmit", "1", "--no-preflight")
    assert (code, len(cluster.runs())) == (1, 1)
    assert "does not answer (HTTP 503): no upstream; not submitted again" in err


def test_an_answer_that_does_not_come_is_not_waited_for(cluster, command, monkeypatch):
    plain, ended = cluster.double.handle, threading.Event()

    def handle(method, path, query, body):
        if path.endswith("/runs"):
            ended.wait(60)
        return plain(method, path, query, body)

    cluster.double.handle = handle
    monkeypatch.setattr(kubeflow, "ANSWER_S", 0.1)
    code, _, err = command("runs", "list", "-c", cluster.config)
    ended.set()
    assert (code, err.count("\n")) == (2, 1)
    assert cluster.double.calls.count("GET /apis/v2beta1/runs") == 2, "once more, by a new connection"
    assert "Kubeflow Pipelines has not answered within 0.1 s: kubectl get pods -n kubeflow" in err


def stopping(run):
    run.state = "CANCELING"


def stopped_between_two_polls(run):
    run.state_history = [api.V2beta1RuntimeStatus(state=state) for state in ("RUNNING", "CANCELING", "FAILED")]


@pytest.mark.parametrize("how", ["KFP says so while it ends", "KFP's history says so", "the store says so"])
def test_a_run_that_somebody_stopped_is_not_submitted_again(cluster, command, s3, monkeypatch, how):
    def stopped_by_command(run):
        s3.put_json(f"runs/{run.run_id}/stopped.json", {})

    ways = {"KFP says so while it ends": stopping, "KFP's history says so": stopped_between_two_polls}
    ends_by_sigterm(cluster, monkeypatch, s3, ways.get(how, stopped_by_command))
    code, _, err = command("submit", "-c", cluster.config, "--wait", "--resubmit", "2", "--no-preflight")
    assert (code, len(cluster.runs())) == (1, 1)
    assert err.endswith("was stopped\n")


def test_stop_tells_the_store_where_it_knows_it(cluster, command, s3):
    for words in (("-c", cluster.config), ("--host", cluster.host, "--namespace", "team-a")):
        assert command("submit", "-c", cluster.config, "--no-preflight")[0] == 0
        run = cluster.runs()[-1]
        assert command("runs", "stop", run.run_id, *words)[0] == 0
        told = s3.get_json(f"runs/{run.run_id}/stopped.json")
        assert (told is not None) == (words[0] == "-c")


def test_a_dry_run_asks_nobody(cluster, command):
    code, out, err = command("submit", "-c", cluster.config, "--dry-run")
    assert (code, err, cluster.double.calls) == (0, "", [])
    assert "calltune-lights" in out
    assert "not asked: whether the store can be written, Kubeflow Pipelines, the namespace, its secrets and accounts" in out


def test_compile_says_what_submit_would_bring_and_the_package_does_not(cluster, command):
    compile = ("compile", "-c", cluster.config, "-o", cluster.folder / "package.yaml")
    code, _, err = command(*compile, "--set", "model={base: 'bundled:smollm2-135m'}", "--set", "ingest.more=[{source: rows}]")
    assert code == 0
    assert [line.split(": `")[0] for line in err.splitlines()] == [
        "calltune: note: ingest.source: rows.jsonl, which no pod can read",
        "calltune: note: ingest.more[0].source: rows, which no pod can read",
        "calltune: note: ingest.tools: tools.py, which no pod can read",
        "calltune: note: model.base: bundled:smollm2-135m, which is in no image",
    ]
    says = "`calltune submit` makes JSON Schema of it, and uploads that; this package alone does not run with it"
    assert says in err and "note" not in (cluster.folder / "package.yaml").read_text()
    in_buckets = ("--set", "ingest={source: 's3://b/rows', tools: 's3://b/tools.json'}")
    code, _, err = command(*compile, *in_buckets)
    assert (code, err) == (0, "")
    code, _, err = command(*compile, *in_buckets, "--set", "tracking.uri=embedded")
    assert code == 0 and "note: tracking.uri: embedded is on this machine: set an MLflow server" in err


def nobody_known(cluster):
    cluster.double.token = "new"


def no_namespace(cluster):
    del cluster.double.kube["namespaces/team-a"]


def one_user(cluster):
    cluster.double.multi_user = False


def nothing_to_see(cluster):
    cluster.double.kube["namespaces/team-a"] = 403


@pytest.mark.parametrize(
    ("prepare", "host", "fine", "says"),
    [
        (None, None, True, "answers, has many users, and takes you; namespace team-a is there"),
        (nothing_to_see, None, True, "whether namespace team-a is there was not looked at: Kubernetes says 403"),
        (nobody_known, None, False, "your token or cookie has expired"),
        (no_namespace, None, False, "namespace team-a: there is none"),
        (one_user, None, False, "set cluster.namespace: kubeflow"),
        (None, "http://127.0.0.1:9", False, "does not answer"),
        (None, "''", False, "not asked: cluster.host does not say where it is"),
    ],
)
def test_the_doctor_asks_kubeflow_pipelines(cluster, prepare, host, fine, says):
    if prepare:
        prepare(cluster)
    found = doctor._kubeflow(load(cluster.config, [] if host is None else [f"cluster.host={host}"]))
    assert (found.what, found.fine, found.needed) == ("KFP", fine, False)
    assert says in found.text and "\n" not in found.text


def test_a_gateway_whose_certificate_nobody_knows_is_known_by_its_file(cluster, command, certificate, monkeypatch):
    runs, over_tls = ("runs", "list", "-c", cluster.config), cluster.host.replace("http:", "https:")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    code, _, said = command(*runs, "--host", over_tls)
    assert code == 2 and said.startswith(f"calltune: {over_tls}: TLS fails: is it http://, not https://?")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    cluster.server.socket = context.wrap_socket(cluster.server.socket, server_side=True)
    code, _, said = command(*runs, "--host", over_tls)
    assert (code, said.count("\n")) == (2, 1) and "its certificate is not trusted: REQUESTS_CA_BUNDLE=FILE names" in said
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert command(*runs, "--host", over_tls) == (0, "", "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "none.pem")
    code, _, said = command(*runs, "--host", over_tls)
    assert code == 2 and said.startswith("calltune: REQUESTS_CA_BUNDLE: ") and "none.pem" in said


def test_a_proxy_of_the_environment_is_asked_but_not_for_a_port_forward(cluster, command, monkeypatch):
    runs = ("runs", "list", "-c", cluster.config)
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", cluster.host)
    assert command(*runs, "--host", "http://kfp.example") == (0, "", "")
    assert [call.split("/")[-1] for call in cluster.double.calls] == ["healthz", "runs"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert command(*runs) == (0, "", "")
    code, _, said = command(*runs, "--host", "http://kfp.example")
    assert code == 2 and "does not answer (ProxyError)" in said


def test_every_command_reaches_the_store_by_the_address_that_this_machine_has_for_it(cluster, command):
    # The environment has it; the config has that of pods.
    pods = ("storage.endpoint_url=http://127.0.0.1:9", "tracking.uri=sqlite:///mlflow.db")
    code, _, said = command("models", "history", "-c", cluster.config, "--set", pods[0], "--set", pods[1])
    assert code == 0, said
    found = doctor._store(*doctor._places(load(cluster.config, pods))[:2])
    assert found.fine, found.text


def test_the_doctor_needs_no_mlflow_that_only_pods_reach():
    for on_cluster in (True, False):
        found = doctor._tracking("http://127.0.0.1:9", on_cluster)
        assert (found.fine, found.needed) == (False, not on_cluster)
        assert ("from a pod `helm test` asks it" in found.text) == on_cluster


def test_a_model_folder_is_brought_file_by_file_once(cluster, s3, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    config = load(cluster.config, [f"model.base={folder}", "model.revision=''"])
    first = Inputs(s3.uri, s3)
    brought = first.bring(config)
    assert sorted(Path(key).name for key in first.uploaded) == ["config.json", "model.safetensors", "rows.jsonl", "tools.json"]
    fetched = models.fetch(ModelConfig(base=brought.model.base)).path
    assert (fetched / "model.safetensors").read_bytes() == b"weights"
    second = Inputs(s3.uri, s3)
    assert second.bring(config) == brought
    assert second.uploaded == []


def test_a_folder_of_rows_is_brought_as_run_reads_it(cluster, s3, tmp_path):
    folder = tmp_path / "rows"
    (folder / "more").mkdir(parents=True)
    (folder / "_old").mkdir()
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "a.jsonl").write_text("".join(lines[:40]))
    (folder / "more" / "b.jsonl").write_text("".join(lines[40:]))
    (folder / "README.md").write_text("not rows")
    (folder / "_old" / "c.jsonl").write_text("not read either")
    (folder / "tools.json").write_text(json.dumps(tools.load(cluster.folder / "tools.py")))
    config = load(cluster.config, [f"ingest.source={folder}", f"ingest.tools={folder}/tools.json"])
    inputs = Inputs(s3.uri, s3)
    brought = inputs.bring(config)
    assert sorted(key.split("/", 2)[2] for key in inputs.uploaded) == ["a.jsonl", "more/b.jsonl", "tools.json"]
    assert ingest(IngestConfig(source=brought.ingest.source, tools=brought.ingest.tools), tmp_path / "out").kept == 60
    again = Inputs(s3.uri, s3)
    assert again.bring(config) == brought and again.uploaded == []


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ("held.txt", ["held.txt.json"]),
        ("data/held.txt", ["held.txt.json"]),
        ("./data/rows.jsonl", ["rows.jsonl"]),
        ("rows/test/*", ["test/b.jsonl", "test/c.jsonl"]),
        ("{here}/rows/test/c.jsonl", ["test/c.jsonl"]),
        ("test/*", ["test/b.jsonl", "test/c.jsonl"]),
        ("s3://bucket/test/*", []),
    ],
)
def test_the_tests_source_is_that_of_the_copies_which_have_other_folders(cluster, s3, tmp_path, wanted, held):
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    for number, name in enumerate(["data/held.txt", "data/rows.jsonl", "rows/a.jsonl", "rows/test/b.jsonl", "rows/test/c.jsonl"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("".join(lines[number : number + 2]))
    sources = "[{source: data/held.txt}, {source: data/rows.jsonl}, {source: rows}]"
    named = wanted.format(here=tmp_path)
    inputs = Inputs(s3.uri, s3)
    config = inputs.bring(load(cluster.config, [f"ingest.more={sources}", f"format.split.test_source='{named}'"]))
    with pytest.raises(ConfigError, match="'data/\\*' means 2 files here, which in the store no pattern tells from the others"):
        inputs.bring(load(cluster.config, [f"ingest.more={sources}", "format.split.test_source='data/*'"]))
    asked, copies = config.format.split.test_source, [f"{s3.uri}/{key}" for key in inputs.uploaded if "tools" not in key]
    if not held:
        assert asked == named
        return
    assert sorted(uri.removeprefix(f"{s3.uri}/inputs/").split("/", 1)[1] for uri in matching(copies, asked)) == held
    assert config.ingest.source not in matching(copies, asked)


def test_room_for_a_brought_model_is_that_of_its_files(cluster, s3):
    brought = Inputs(s3.uri, None).bring(load(cluster.config, ["model={base: 'bundled:smollm2-135m'}"]))
    assert {step: brought.resources[step].scratch_gib for step in ("format", "train", "export", "evaluate")} == {
        "format": 12,
        "train": 12,
        "export": 12,
        "evaluate": 12,
    }
    assert brought.resources["train"].gpu == 1


def test_runs_list_show_and_stop(cluster, command, s3):
    cluster.double.page_size = 2
    for _ in range(3):
        assert command("submit", "-c", cluster.config, "--no-preflight")[0] == 0
    first, _, last = cluster.runs()
    _, out, _ = command("runs", "list", "-c", cluster.config)
    assert [line.split()[0] for line in out.splitlines()] == [run.run_id for run in reversed(cluster.runs())]
    assert len(command("runs", "list", "-c", cluster.config, "--experiment", "lights", "-n", "1")[1].splitlines()) == 1
    assert command("runs", "stop", first.run_id, "-c", cluster.config)[0] == 0
    assert first.state == "CANCELING"
    cluster.double.end(first.run_id, "FAILED")
    assert f"run {first.run_id} was stopped" in command("runs", "show", first.run_id, "-c", cluster.config)[1]
    s3.put_json(f"runs/{last.run_id}/summary.json", summary_of(last.run_id, **SUMMARY))
    cluster.double.end(last.run_id, "SUCCEEDED")
    code, out, _ = command("runs", "show", last.run_id, "-c", cluster.config)
    assert code == 0 and "promoted: lights version 3" in out
    code, out, _ = command("runs", "show", last.run_id, "-c", cluster.config, "--json")
    assert json.loads(out)["run_id"] == last.run_id


def test_logs_are_those_of_the_steps_and_not_of_kfps_drivers(cluster, command):
    base = "namespaces/team-a/pods"
    names = {"p1": "wf.root.train-driver", "p2": "wf.root.condition-2.train.executor", "p3": "wf.root.ingest.executor"}
    stamp = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    cluster.double.kube[base] = {
        "items": [
            {"metadata": {"name": pod, "creationTimestamp": stamp, "annotations": {"workflows.argoproj.io/node-name": node}}}
            for pod, node in names.items()
        ]
    }
    for pod in names:
        cluster.double.kube[f"{base}/{pod}/log"] = f"said by {pod}\n"
    code, out, _ = command("runs", "logs", "r1", "-c", cluster.config)
    assert code == 0 and "train          said by p2" in out and "said by p3" in out and "p1" not in out
    assert "p3" not in command("runs", "logs", "r1", "--step", "train", "-c", cluster.config)[1]


def test_a_token_file_is_read_anew_for_each_request(cluster, command, tmp_path):
    cluster.double.token = "secret-1"
    (tmp_path / "token").write_text("secret-1")
    assert command("runs", "list", "-c", cluster.config, "--token-file", tmp_path / "token")[0] == 0


def test_the_double_refuses_what_the_models_refuse(cluster):
    client = api.ApiClient(api.Configuration(host=cluster.host))
    runs = api.RunServiceApi(client)
    with pytest.raises(api.ApiException, match="does not exist"):
        runs.run_service_create_run(run=api.V2beta1Run(display_name="x", experiment_id="none"))
    with pytest.raises(api.ApiException, match="unknown field 'nonsense'"):
        client.call_api("/apis/v2beta1/runs", "POST", body={"nonsense": 1}, header_params={"Content-Type": "application/json"})
    with pytest.raises(api.ApiException, match="SOMETIMES"):
        body = {"display_name": "x", "mode": "SOMETIMES"}
        client.call_api("/apis/v2beta1/recurringruns", "POST", body=body, header_params={"Content-Type": "application/json"})
