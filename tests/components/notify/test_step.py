"""Notify: one sentence on how the run ended, whatever happened."""

import pytest

from calltune import runtime
from calltune.errors import DataError
from calltune.tracking import run_of
from components.notify.config import NotifyConfig
from components.notify.step import notify

CONFIG = NotifyConfig(name="helpdesk")


@pytest.mark.parametrize("outcome", ["promoted", "refused", "nothing_new"])
def test_a_run_with_a_summary_has_its_outcome(store, tracking, outcome):
    store.put_json("runs/run-1/summary.json", {"outcome": outcome})
    assert notify(CONFIG) == f"helpdesk: run run-1: {outcome}"
    assert tracking.get_experiment_by_name("helpdesk") is None, "and its MLflow run is left as it is"


def test_a_failed_step_is_named_with_its_reason(store, tracking):
    with runtime.step("look"):
        pass
    with pytest.raises(SystemExit), runtime.step("ingest"):
        raise DataError("questions.jsonl: no such file")
    assert notify(CONFIG) == "helpdesk: run run-1: failed at ingest: questions.jsonl: no such file"
    assert tracking.get_run(run_of("helpdesk")).info.status == "FAILED"


def test_a_run_that_ended_without_a_word_has_failed(store, tracking):
    assert notify(CONFIG) == "helpdesk: run run-1: failed"


def test_what_failed_is_said_also_where_mlflow_is_away(store, monkeypatch):
    monkeypatch.setenv("CALLTUNE_TRACKING", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit), runtime.step("look"):
        raise DataError("questions.jsonl: no such file")
    said = notify(CONFIG)
    assert said.startswith("helpdesk: run run-1: failed at look: questions.jsonl: no such file; MLflow was not told: ")


def test_it_reads_a_real_s3_store(s3, tracking):
    s3.put_json("runs/run-1/summary.json", {"outcome": "promoted"})
    s3.put_json("runs/run-2/summary.json", {"outcome": "refused"})
    assert notify(CONFIG) == "helpdesk: run run-1: promoted"


def test_its_own_failure_is_a_sentence_and_never_the_runs(store, tracking):
    store.put("runs/run-1/summary.json", b"{")
    assert "how it ended cannot be read" in notify(CONFIG)
