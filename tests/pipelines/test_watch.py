"""`calltune watch`: a run for each reason and no second one, against a real S3 server and the stand-in for KFP."""

import json
import os
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import kfp_server_api as api
import pytest

from calltune import ledger
from calltune.errors import UserError
from components.look.fingerprint import fingerprint
from pipelines import notifications, submit, watch
from pipelines.config import load
from pipelines.inputs import Inputs, store_of
from pipelines.notifications import concerns, listening, objects
from tests.pipelines.conftest import row

REFUSAL = {"outcome": "refused", "gate": {"checks": [{"passed": False, "reason": "tool_accuracy 0.7 is below 0.8"}]}}


@pytest.fixture(scope="module")
def packages():
    """The one package of this file: what is in it is the business of test_placement.py."""
    return []


@pytest.fixture
def place(cluster, s3, monkeypatch, packages):
    """The cluster with its rows in S3."""
    put(s3, "a", 60)
    real = submit.package

    def package(config):
        if not packages:
            packages.append(real(config))
        return packages[0]

    monkeypatch.setattr(submit, "package", package)
    return cluster


def put(s3, name, rows):
    s3.put(f"rows/{name}.jsonl", "".join(json.dumps(row(number)) + "\n" for number in range(rows)).encode())


@pytest.fixture
def look(place, command, s3):
    """Look once; returns the last line of what was said."""

    def once(*words, settle="0"):
        source = f"ingest.source={s3.uri}/rows"
        code, out, err = command(
            "watch", "-c", place.config, "--once", "--no-preflight", "--settle", settle, "--set", source, *words
        )
        assert (code, err) == (0, "")
        return out.splitlines()[-1]

    return once


def ends(cluster, s3, state, summary=None, error=None):
    """Let the newest run end."""
    run = cluster.runs()[-1]
    if summary:
        s3.put_json(f"runs/{run.run_id}/summary.json", {"run_id": run.run_id, "promoted": None, **summary})
    if error:
        s3.put_json(f"runs/{run.run_id}/steps/train.json", {"error": error})
    cluster.double.end(run.run_id, state)


def serve(found, name="lights"):
    entry = {"n": 1, "version": "1", "uri": "s3://x", "digest": "d", "files": {}, "run_id": "r", "fingerprint": found}
    ledger.append(name, "champion", {**entry, "reason": "passed the gate"})


def found_now(place, s3):
    """The fingerprint of a run that is submitted now, as its `look` will find it."""
    with store_of(load(place.config)) as store:
        config = Inputs(s3.uri, store).bring(load(place.config, [f"ingest.source={s3.uri}/rows"]))
        return fingerprint(config.ingest.source, config.ingest.tools, config.model.base, config.model.revision)


def test_one_run_for_each_reason_and_never_two_at_a_time(place, look, s3):
    assert "submitted" in look() and "no champion yet" in look("--dry-run")
    (run,) = place.runs()
    version = place.double.objects["versions"][run.pipeline_version_reference.pipeline_version_id]
    parameters = version.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert parameters["look_config"]["defaultValue"]["when"] == "changed"
    assert run.service_account == "runner"
    assert f"run {run.run_id} is under way" in look()
    put(s3, "b", 30)
    assert f"run {run.run_id} is under way" in look(), "one run at a time, also where there is more to see"
    ends(place, s3, "SUCCEEDED", REFUSAL)
    assert "submitted" in look()
    ends(place, s3, "SUCCEEDED", REFUSAL)
    assert "a run has tried: refused: tool_accuracy 0.7" in look()
    assert len(place.runs()) == 2
    assert "submitted" in look("--set", "gate.thresholds.tool_accuracy=0.6"), "another config may do better"


def test_nothing_new_submits_nothing(place, look, s3):
    serve(found_now(place, s3))
    assert look().startswith("nothing new")
    put(s3, "b", 30)
    assert "the data or the base model has changed" in look("--dry-run")
    assert place.runs() == []


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("FAILED", {"step": "train", "code": 2, "message": "rows.jsonl: is empty"}, "rows.jsonl: is empty"),
        ("CANCELED", None, "was stopped"),
        ("deleted", None, "was deleted"),
    ],
    ids=["data", "stopped", "deleted"],
)
def test_what_would_end_the_same_way_is_not_tried_again(place, look, s3, state, error, says):
    look()
    ends(place, s3, state, error=error)
    if state == "deleted":
        place.double.objects["runs"].clear()
    assert says in look()
    assert len(place.runs()) <= 1


def test_a_run_that_has_failed_is_tried_three_times(place, look, s3):
    for _ in range(watch.TRIES):
        assert "submitted" in look()
        ends(place, s3, "FAILED", error={"step": "train", "code": 1, "message": "node lost"})
    assert "3 runs have failed; `calltune submit` tries again" in look()
    assert len(place.runs()) == watch.TRIES


def test_data_that_is_still_written_is_waited_for(place, look, s3, monkeypatch):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) < 3:
            put(s3, f"more-{len(pauses)}", 10)

    monkeypatch.setattr(watch, "time", types.SimpleNamespace(sleep=pause))
    assert "submitted" in look(settle="7")
    assert pauses == [7, 7, 7]
    place.double.objects["runs"].clear()
    put(s3, "again", 5)

    def write(seconds):
        pauses.append(seconds)
        put(s3, "growing", len(pauses))

    monkeypatch.setattr(watch.time, "sleep", write)
    assert "has not been the same for 7 s in 10 looks" in look(settle="7")
    assert place.runs() == []


def test_two_watches_submit_one_run(place, look, s3, monkeypatch):
    """Both have seen the reason; the second comes to claim it while the first is on its way."""
    real = watch.submit

    def slow(*arguments):
        place.double.calls.clear()
        assert "another watch is submitting it" in look()
        return real(*arguments)

    monkeypatch.setattr(watch, "submit", slow)
    look()
    assert len(place.runs()) == 1
    # One that has died between claim and run holds nobody up for ever.
    (key,) = s3.list("watch/lights/champion")
    long_ago = datetime.now(UTC) - watch.CLAIM - timedelta(seconds=1)
    s3.put_json(key, {"run_id": None, "time": long_ago.isoformat(), "reason": "x"})
    place.double.objects["runs"].clear()
    monkeypatch.setattr(watch, "submit", real)
    assert "submitted" in look()


def test_a_claim_is_given_back_where_submitting_fails(place, command, s3, monkeypatch):
    def refuses(*arguments):
        raise UserError("KFP is away")

    monkeypatch.setattr(watch, "submit", refuses)
    words = ("watch", "-c", place.config, "--once", "--no-preflight", "--settle", "0")
    code, _, err = command(*words, "--set", f"ingest.source={s3.uri}/rows")
    assert (code, err) == (2, "calltune: KFP is away\n")
    assert s3.list("watch") == []


def test_the_run_of_another_pipeline_in_the_experiment_is_no_obstacle(place, look, s3):
    look()
    ends(place, s3, "SUCCEEDED", REFUSAL)
    (run,) = place.runs()
    other = {"pipeline_id": "another", "pipeline_version_id": "1"}
    place.double.objects["runs"]["r2"] = api.V2beta1Run(
        run_id="r2",
        display_name="x",
        state="RUNNING",
        experiment_id=run.experiment_id,
        pipeline_version_reference=api.V2beta1PipelineVersionReference(**other),
    )
    put(s3, "b", 30)
    assert "submitted" in look()


def test_looks_go_on_after_a_failure_and_end_after_many():
    said, results = (
        [],
        iter([UserError("S3 is away"), UserError("S3 is away"), "nothing new", "nothing new", KeyboardInterrupt()]),
    )

    def look(watched, say):
        result = next(results)
        if isinstance(result, str):
            return result
        raise result

    wake = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        watch.keep_looking(None, 0, wake, said.append, look)
    assert [line.split("  ", 1)[1] for line in said] == ["warning: S3 is away", "nothing new"]

    def never(watched, say):
        said.append("look")
        raise UserError("S3 is away")

    said.clear()
    with pytest.raises(UserError, match="S3 is away"):
        watch.keep_looking(None, 0, wake, lambda line: None, never)
    assert len(said) == watch.PATIENCE


EVENTS = {
    "s3": (
        {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "rows/my+day%3D1.jsonl"}}}]},
        "s3://b/rows/my day=1.jsonl",
    ),
    "seaweedfs": ({"key": "/buckets/b/rows/x y.jsonl", "event_type": "create", "message": {}}, "s3://b/rows/x y.jsonl"),
}


@pytest.mark.parametrize("sender", EVENTS)
def test_a_notification_names_its_objects(sender):
    event, address = EVENTS[sender]
    assert objects(json.dumps(event).encode()) == [address]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"Records": 3}', b'{"Records": [{"s3": 1}]}', b'{"key": "/etc/x"}', b"[" * 5000, b"\xff"]
)
def test_what_is_no_notification_is_refused(body):
    with pytest.raises(ValueError, match="no bucket notification"):
        objects(body)


def test_only_what_is_watched_concerns():
    assert concerns("s3://b/rows/a.jsonl", ["s3://b/rows/"]) and concerns(
        "s3://b/tools.json", ["s3://b/rows", "s3://b/tools.json"]
    )
    assert not concerns("s3://b/rows-2/a.jsonl", ["s3://b/rows"])
    assert not concerns("s3://other/rows/a.jsonl", ["s3://b/rows"])


def test_a_bucket_tells_of_every_source_that_is_in_it(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "name: shop\nmodel: {base: s3://b/base}\ngate: {thresholds: {tool_accuracy: 0.8}}\n"
        "ingest: {source: rows.jsonl, tools: s3://b/tools.json, more: [{source: s3://b/more}, {source: also.jsonl}]}\n"
    )
    assert watch.in_buckets(load(tmp_path / "run.yaml")) == ["s3://b/more", "s3://b/tools.json", "s3://b/base"]


def post(address, body, **headers):
    """Status and text of what is answered."""
    request = urllib.request.Request(address, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_endpoint_wakes_for_what_is_watched_and_for_nobody_without_the_token(monkeypatch):
    woken = []
    event = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "rows/a.jsonl"}}}]}
    other = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "models/x"}}}]}
    with listening("127.0.0.1:0", ["s3://b/rows"], lambda: woken.append(1), "t0ken") as address:
        assert post(address, event)[0] == 401
        assert post(address, event, Authorization="Bearer tok\u00e9n")[0] == 401
        assert woken == []
        known = {"Authorization": "Bearer t0ken"}
        assert post(address, event, **known)[0] == 202 and len(woken) == 1
        assert post(address, other, **known)[0] == 200
        assert post(address, b"not JSON", **known)[0] == 400
        monkeypatch.setattr(notifications, "MAX_BYTES", 10)
        assert post(address, event, **known)[0] == 413
        assert len(woken) == 1
        with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_a_notification_has_a_run_submitted_by_the_command_itself(cluster, s3):
    put(s3, "a", 60)
    serve(found_now(cluster, s3))
    command = [sys.executable, "-c", "import pipelines.cli as cli; cli.main()", "watch", "-c", str(cluster.config)]
    command += ["--set", f"ingest.source={s3.uri}/rows", "--listen", "127.0.0.1:0", "--settle", "0.1", "--no-preflight"]
    process = subprocess.Popen(command, cwd=cluster.folder, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        address = process.stdout.readline().split()[1].rstrip(",")
        assert "nothing new" in process.stdout.readline()
        put(s3, "b", 30)
        bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
        event = {"Records": [{"s3": {"bucket": {"name": bucket}, "object": {"key": f"{prefix}/rows/b.jsonl"}}}]}
        assert post(address, event)[0] == 202
        while "submitted" not in process.stdout.readline():
            assert process.poll() is None
        assert len(cluster.runs()) == 1
    finally:
        process.terminate()
        process.wait(timeout=300)
        process.stdout.close()
