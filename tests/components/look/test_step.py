"""Look: the reason to train, the champion as later steps need it, and the run in MLflow."""

import json
import os

import pytest

from calltune import exports, ledger, runtime, storage
from calltune.errors import ConfigError, DataError
from calltune.tracking import aliases, register, run_of
from components.look.config import LookConfig
from components.look.fingerprint import fingerprint
from components.look.step import flat, look


@pytest.fixture
def config(tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"id": "1"}\n')
    (tmp_path / "tools.json").write_text("[]")
    return LookConfig(
        name="helpdesk",
        source=str(tmp_path / "questions.jsonl"),
        tools=str(tmp_path / "tools.json"),
        alias="champion",
        config_sha256="c0" * 32,
        run={"name": "helpdesk", "train": {"rank": 16, "lr": "auto"}, "gate": {}},
    )


def changed(config):
    return config.model_copy(update={"when": "changed"})


def serve(config, print_):
    uri = f"{storage.of_run().uri}/models/d1"
    version = register("helpdesk", uri, "d1", run_of("helpdesk"), {})
    entry = {"n": 1, "version": version, "uri": uri, "digest": "d1", "files": {"a": "b"}}
    ledger.append("helpdesk", "champion", {**entry, "run_id": "run-0", "fingerprint": print_, "reason": "passed the gate"})


def test_a_first_run_finds_no_champion(store, tracking, config):
    seen = look(changed(config))
    assert seen.fingerprint == fingerprint(config.source, config.tools)
    assert (seen.champion, seen.reason) == ("", "no champion yet")


def test_the_champion_is_told_as_evaluate_needs_it(store, tracking, config):
    serve(config, "old")
    seen = look(config)
    told = {"uri": f"{store.uri}/models/d1", "digest": "d1", "files": {"a": "b"}, "version": "1"}
    assert json.loads(seen.champion) == {**told, "stored": exports.state(told)}
    assert seen.reason == "asked for"
    assert look(config).champion == seen.champion, "equal text, so that a cached evaluation is found again"
    store.put("models/d1/a", b"restored")
    assert look(config).champion != seen.champion, "other files, of which no cached evaluation says anything"


def test_training_goes_on_from_the_champion_only_if_asked_to_and_not_from_its_version(store, tracking, config):
    asked = config.model_copy(update={"run": {**config.run, "train": {"start_from": "champion"}}})
    assert look(asked).start == ""
    serve(config, "old")
    assert json.loads(look(asked).start) == {"uri": f"{store.uri}/models/d1", "digest": "d1"}
    assert look(config).start == "", "another champion is then no reason to train again"


def test_changed_data_is_a_reason_to_train(store, tracking, config):
    serve(config, "old")
    assert look(changed(config)).reason == "the data or the base model has changed"


def test_the_data_of_a_model_that_was_rolled_back_from_are_nothing_new(store, tracking, config):
    serve(config, "old")
    first, now = ledger.entries("helpdesk", "champion")[0], fingerprint(config.source, config.tools)
    version = register("helpdesk", "s3://x/models/d2", "d2", run_of("helpdesk"), {})
    second = {"uri": "s3://x/models/d2", "digest": "d2", "fingerprint": now, "version": version}
    ledger.append("helpdesk", "champion", {**first, **second, "n": 2})
    ledger.append("helpdesk", "champion", {**first, "n": 3, "by": "ana", "rolled_back": "d2"})
    assert look(changed(config)).reason == ""
    third = {"uri": f"{store.uri}/models/d3", "digest": "d3", "fingerprint": "newer", "run_id": "run-3"}
    ledger.append("helpdesk", "champion", {**first, **third, "n": 4})
    assert look(changed(config)).reason == "the data or the base model has changed", "a run has promoted since"


def test_changed_weights_of_a_base_model_in_a_folder_are_a_reason_to_train(store, tracking, config, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"1")
    based = changed(config.model_copy(update={"run": {**config.run, "model": {"base": str(tmp_path / "base")}}}))
    serve(config, look(based).fingerprint)
    assert look(based).reason == ""
    (tmp_path / "base" / "model.safetensors").write_bytes(b"2")
    assert look(based).reason == "the data or the base model has changed"


def test_another_base_model_or_revision_is_a_reason_to_train(store, tracking, config, monkeypatch):
    def based(base, revision=""):
        return changed(config.model_copy(update={"run": {"model": {"base": base, "revision": revision}}}))

    serve(config, look(based("org/model", "0" * 40)).fingerprint)
    assert look(based("org/model", "0" * 40)).reason == ""
    others = [based("org/model", "1" * 40), based("org/other", "0" * 40), based("bundled:smollm2-135m")]
    for number, other in enumerate(others, 2):
        monkeypatch.setenv("CALLTUNE_RUN_ID", f"run-{number}")
        assert look(other).reason == "the data or the base model has changed"


def test_a_rule_for_a_tool_that_there_is_not_is_refused_before_training(store, tracking, config, tmp_path, monkeypatch):
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "find", "description": "Find.", "parameters": parameters}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]))

    def ruled(rule):
        return config.model_copy(update={"run": {"evaluate": {"arguments": {rule: "ast"}}}})

    look(ruled("find.x"))
    with pytest.raises(ConfigError, match=r"evaluate\.arguments: 'fnid\.x' is no tool's argument; there is find\.x$"):
        look(ruled("fnid.x"))
    with pytest.raises(ConfigError, match=r"evaluate\.arguments: 'find\.y' is no tool's argument; there is find\.x$"):
        look(ruled("find.y"))
    (tmp_path / "questions.jsonl").write_text('{"id": "1", "tools": [{"name": "own"}]}\n')
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-2")
    look(ruled("own.y"))  # the row may bring it: evaluation knows


def test_unchanged_data_ends_the_run_with_a_summary(store, tracking, config):
    serve(config, fingerprint(config.source, config.tools))
    assert look(changed(config)).reason == ""
    summary = store.get_json("runs/run-1/summary.json")
    assert (summary["run_id"], summary["outcome"], summary["config_sha256"]) == ("run-1", "nothing_new", "c0" * 32)
    assert summary["dataset"] == {"fingerprint": fingerprint(config.source, config.tools)}
    top = "run_id outcome reason config_sha256 dataset baseline candidate champion gate promoted steps artifacts"
    assert list(summary) == top.split(), "the keys of every summary"
    (step,) = summary["steps"]
    assert step["name"] == "look" and step["seconds"] > 0 and step["peak_rss_mib"] > 0 and step["cached"] is False
    assert tracking.get_run(run_of("helpdesk")).info.status == "FINISHED"


def test_asked_for_trains_on_unchanged_data_too(store, tracking, config):
    serve(config, fingerprint(config.source, config.tools))
    assert look(config).reason == "asked for"
    assert store.get_json("runs/run-1/summary.json") is None


def test_the_run_in_mlflow_has_the_config_and_the_fingerprint(store, tracking, config):
    seen = look(config)
    look(config)  # a retried step
    found = tracking.get_run(run_of("helpdesk"))
    assert found.data.params == {"name": "helpdesk", "train.rank": "16", "train.lr": "auto", "gate": "{}"}
    assert found.data.tags["fingerprint"] == seen.fingerprint
    assert found.info.status == "RUNNING"


def test_the_store_has_the_config_whole_as_a_person_would_write_it(store, tracking, config):
    look(config.model_copy(update={"run": {"train": {"rank": 16.0, "lr": "x" * 7000}}}))
    assert store.get_json("runs/run-1/config.json") == {"train.rank": 16, "train.lr": "x" * 7000}


def test_the_datas_age_is_told_only_where_the_gate_asks(store, tracking, config):
    assert look(config).data_age_days == "", "or the gate, which is cached, would judge the same each day anew"
    asked = config.model_copy(update={"run": {"gate": {"max_data_age_days": 30.0}}})
    assert look(asked).data_age_days == "0"
    os.utime(config.source, (0, 0))
    assert int(look(asked).data_age_days) > 20_000


def test_aliases_are_healed_before_anything_is_compared(store, tracking, config):
    serve(config, "old")
    assert aliases("helpdesk") == {}
    look(config)
    assert aliases("helpdesk") == {"champion": "1"}


def test_no_data_is_a_data_error(store, tracking, config):
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such data file"):
        look(config.model_copy(update={"source": "nowhere.jsonl"}))


def test_flat_names_are_dotted():
    assert flat({"a": {"b": {"c": 1}}, "d": [1], "e": {}}) == {"a.b.c": 1, "d": [1], "e": {}}


def test_what_kfp_has_made_a_double_is_a_whole_number_again():
    assert {key: str(value) for key, value in flat({"epochs": 4.0, "rate": 0.001, "on": True}).items()} == {
        "epochs": "4",
        "rate": "0.001",
        "on": "True",
    }


def test_the_reason_is_said(store, tracking, config, tmp_path):
    look(config)
    said = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["message"] for event in said if event["kind"] == "note"] == ["look: asked for"]
    assert runtime.run_id() == "run-1"
