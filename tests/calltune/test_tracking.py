"""Runs, registry and aliases on a real MLflow, its artifacts on a real S3 server or in a folder."""

import subprocess

import pytest
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

from calltune import tracking as mlflow_of
from calltune.tracking import aliases, end, git_commit, hurried, log, register, run_of, set_alias, versions


def test_one_pipeline_run_is_one_mlflow_run(store, tracking, monkeypatch):
    first = run_of("helpdesk")
    assert run_of("helpdesk") == first
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-2")
    assert run_of("helpdesk") != first
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-1")
    assert run_of("helpdesk") == first
    assert tracking.get_run(first).data.tags[mlflow_of.RUN_TAG] == "run-1"
    assert tracking.get_experiment_by_name("helpdesk").artifact_location == f"{store.uri}/mlflow/helpdesk"


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with one committed file in a folder."""
    folder = tmp_path / "checkout" / "sources"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("A = 1\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def head(folder):
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_of_a_clean_checkout_is_a_tag_and_a_changed_file_makes_it_dirty(checkout):
    subprocess.run(["git", "-C", str(checkout), "tag", "v1"], check=True)
    assert git_commit(checkout) == {"git_commit": head(checkout)}
    (checkout / "a.py").write_text("A = 2\n")
    assert git_commit(checkout) == {"git_commit": f"{head(checkout)}-dirty"}


def test_outside_of_a_checkout_there_is_no_commit(checkout, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    assert git_commit(tmp_path / "plain") == {}
    installed = checkout / ".venv" / "calltune"  # in a checkout of something else
    installed.mkdir(parents=True)
    (installed / "a.py").touch()
    assert git_commit(installed) == {}
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no git
    assert git_commit(checkout) == {}


def test_a_run_has_the_commit_of_the_sources(store, tracking):
    tags = tracking.get_run(run_of("helpdesk")).data.tags
    assert {name: value for name, value in tags.items() if name == "git_commit"} == git_commit()


def test_who_is_in_a_hurry_leaves_no_hurry_behind_and_the_users_own_patience_stays(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with hurried(tries=1, seconds=5):
        patience = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()
        with hurried():  # the hurry of who looks is that of what it calls, too
            assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0
    assert patience == (0, 77)
    assert not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set()
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77


def test_an_ambient_mlflow_run_is_ignored(store, tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "somebody-elses")
    run = run_of("helpdesk")
    log(run, metrics={"a": 1.0})
    assert tracking.get_run(run).data.metrics == {"a": 1.0}
    assert tracking.get_experiment_by_name("somebody-elses") is None


def test_params_metrics_curve_and_tags_are_logged(store, tracking):
    run = run_of("helpdesk")
    curve = [
        {"step": "1", "epoch": "0.5", "train_loss": "2.5", "validation_loss": ""},
        {"step": "2", "epoch": "1.0", "train_loss": "1.5", "validation_loss": ""},
        {"step": "2", "epoch": "1.0", "train_loss": "", "validation_loss": "1.75"},
    ]
    log(
        run,
        params={"train.rank": 16, "x": None},
        metrics={"candidate.tool_accuracy": 0.9},
        curve=curve,
        tags={"outcome": "promoted"},
    )
    found = tracking.get_run(run).data
    assert found.params == {"train.rank": "16", "x": "None"}
    assert found.tags["outcome"] == "promoted"
    assert found.metrics["candidate.tool_accuracy"] == 0.9
    points = [(point.step, point.value) for point in tracking.get_metric_history(run, "train_loss")]
    assert sorted(points) == [(1, 2.5), (2, 1.5)]
    assert [(p.step, p.value) for p in tracking.get_metric_history(run, "validation_loss")] == [(2, 1.75)]
    assert "epoch" not in found.metrics


def test_more_than_mlflow_takes_at_a_time_is_logged_whole(store, tracking):
    run = run_of("helpdesk")
    curve = [{"step": str(step), "train_loss": str(1 / step)} for step in range(1, 251)]
    log(run, params={f"p{number}": number for number in range(230)}, curve=curve, tags={"a": "b"})
    assert len(tracking.get_metric_history(run, "train_loss")) == 250
    found = tracking.get_run(run).data
    assert len(found.params) == 230 and found.tags["a"] == "b"


def test_a_param_too_long_for_mlflow_is_cut_and_not_an_error(store, tracking):
    run = run_of("helpdesk")
    log(run, params={"long": "x" * 10_000})
    assert tracking.get_run(run).data.params["long"] == "x" * 6000


def test_a_retried_step_may_log_again(store, tracking):
    run = run_of("helpdesk")
    for _ in range(2):
        log(run, params={"a": 1}, metrics={"m": 0.5})
    assert tracking.get_run(run).data.metrics == {"m": 0.5}


@pytest.mark.parametrize(("ok", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_a_run_is_ended_well_or_not(store, tracking, ok, status):
    run = run_of("helpdesk")
    end(run, ok)
    assert tracking.get_run(run).info.status == status


def test_artifacts_lie_in_the_runs_store_on_s3(s3, tracking, tmp_path):
    run = run_of("helpdesk")
    (tmp_path / "report.html").write_text("<p>")
    log(run, files={"report.html": tmp_path / "report.html"})
    assert s3.list("mlflow/helpdesk/") == [f"mlflow/helpdesk/{run}/artifacts/report.html"]
    assert s3.get(f"mlflow/helpdesk/{run}/artifacts/report.html") == b"<p>"


def test_a_model_is_registered_once_in_a_run(store, tracking, monkeypatch):
    first = register("helpdesk", "s3://x/models/d1", "d1", run_of("helpdesk"), {"decision": "passed"})
    assert register("helpdesk", "s3://x/models/d1", "d1", run_of("helpdesk"), {"decision": "passed"}) == first == "1"
    assert register("helpdesk", "s3://x/models/d2", "d2", run_of("helpdesk"), {}) == "2"
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-2")
    assert register("helpdesk", "s3://x/models/d1", "d1", run_of("helpdesk"), {}) == "3"
    assert [version.version for version in versions("helpdesk")] == [3, 2, 1] or [
        version.version for version in versions("helpdesk")
    ] == ["3", "2", "1"]
    found = tracking.get_model_version("helpdesk", "1")
    assert found.source == "s3://x/models/d1" and found.tags == {"digest": "d1", "decision": "passed"}


def test_versions_beyond_nine_come_in_the_order_of_their_numbers(store, tracking):
    for number in range(11):
        register("helpdesk", f"s3://x/models/{number}", str(number), run_of("helpdesk"), {})
    assert [int(version.version) for version in versions("helpdesk")] == list(range(11, 0, -1))


def test_aliases_are_set_moved_and_taken_away(store, tracking):
    assert aliases("helpdesk") == {}
    for digest in ("d1", "d2"):
        register("helpdesk", f"s3://x/models/{digest}", digest, run_of("helpdesk"), {})
    assert aliases("helpdesk") == {}
    set_alias("helpdesk", "champion", "1")
    set_alias("helpdesk", "champion", "2")
    set_alias("helpdesk", "previous", "1")
    assert aliases("helpdesk") == {"champion": "2", "previous": "1"}
    set_alias("helpdesk", "previous", None)
    assert aliases("helpdesk") == {"champion": "2"}
