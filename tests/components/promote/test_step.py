"""Promotion on a real S3 store and a real MLflow."""

import json
import shutil

import pytest
from pydantic import ValidationError

from calltune import ledger, runtime
from calltune import tracking as registry
from calltune.errors import DataError
from components.promote.config import PromoteConfig
from components.promote.step import _decided, promote

NAME = "helpdesk"


@pytest.fixture
def act(s3, tracking, tmp_path, monkeypatch):
    """A function that promotes a model of the given digest after a gate that compared with the given champion."""

    def run(digest, compared=None, passed=True, run_id="run-1", about=None, alias="champion", stored=True):
        monkeypatch.setenv("CALLTUNE_RUN_ID", run_id)
        if stored:
            s3.put(f"models/{digest}/model.safetensors", b"")
        model = {"uri": f"{s3.uri}/models/{digest}", "digest": digest, "files": {"model.safetensors": f"sha of {digest}"}}
        checks = [{"name": "questions", "passed": True}, {"name": "threshold: tool_accuracy", "passed": passed}]
        champion = {"version": None, "digest": compared}
        decision = {"passed": passed, "checks": checks, "candidate": {"digest": about or digest}, "champion": champion}
        runtime.write_json(tmp_path / "model.json", model)
        runtime.write_json(tmp_path / "decision.json", decision)
        out = tmp_path / "promotion.json"
        result = promote(
            tmp_path / "model.json", tmp_path / "decision.json", "print-1", PromoteConfig(name=NAME, alias=alias), out
        )
        assert json.loads(out.read_text()) == vars(result)
        return result

    return run


def named():
    return registry.aliases(NAME)


def tags(version):
    return registry.client().get_model_version(NAME, version).tags


def test_the_first_promotion_makes_a_champion_without_a_previous(act, s3):
    result = act("d1")
    assert (result.version, result.alias, result.previous) == ("1", "champion", None)
    assert result.promoted and not result.unchanged and result.reason == "passed the gate"
    assert named() == {"champion": "1"}
    known = {"digest": "d1", "run_id": "run-1", "fingerprint": "print-1", "decision": "passed"}
    assert tags("1") == {**known, **registry.git_commit()}
    (entry,) = ledger.entries(NAME, "champion")
    assert entry.pop("time")
    assert entry == {
        "n": 1,
        "version": "1",
        "uri": f"{s3.uri}/models/d1",
        "digest": "d1",
        "files": {"model.safetensors": "sha of d1"},
        "run_id": "run-1",
        "fingerprint": "print-1",
        "reason": "passed the gate",
    }


def test_the_second_promotion_makes_the_champion_the_previous_one(act):
    act("d1")
    second = act("d2", compared="d1", run_id="run-2")
    assert (second.version, second.previous) == ("2", "1")
    assert named() == {"champion": "2", "previous": "1"}
    third = act("d3", compared="d2", run_id="run-3")
    assert (third.version, third.previous) == ("3", "2")
    assert named() == {"champion": "3", "previous": "2"}


def test_a_refused_candidate_is_a_version_and_nothing_more(act):
    act("d1")
    refused = act("d2", compared="d1", passed=False, run_id="run-2")
    assert (refused.version, refused.promoted, refused.previous) == ("2", False, None)
    assert refused.reason == "the gate refused: threshold: tool_accuracy"
    assert named() == {"champion": "1"}
    assert tags("2")["decision"] == "refused"
    assert len(ledger.entries(NAME, "champion")) == 1


def test_a_first_candidate_that_is_refused_leaves_no_champion(act):
    assert not act("d1", passed=False).promoted
    assert named() == {} and ledger.entries(NAME, "champion") == []


def test_the_champion_itself_again_changes_nothing_and_writes_nothing(act, s3):
    act("d1")
    before = s3.list("")
    again = act("d1", compared="d1", run_id="run-2")
    assert again.promoted and again.unchanged and again.version == "1" and again.previous is None
    assert [key for key in s3.list("") if not key.startswith("mlflow/")] == [k for k in before if not k.startswith("mlflow/")]
    assert len(registry.versions(NAME)) == 1 and named() == {"champion": "1"}


def test_a_champion_that_fails_a_stricter_gate_is_refused_and_stays_champion(act):
    act("d1")
    refused = act("d1", compared="d1", passed=False, run_id="run-2")
    assert (refused.version, refused.promoted, refused.unchanged) == ("1", False, True)
    assert refused.reason == "the gate refused: threshold: tool_accuracy; it is the champion, and stays it"
    assert named() == {"champion": "1"} and len(registry.versions(NAME)) == 1 and len(ledger.entries(NAME, "champion")) == 1


@pytest.mark.parametrize("compared", [None, "d0"])
def test_a_champion_that_changed_since_the_gate_compared_is_told(act, compared):
    act("d1")
    late = act("d2", compared=compared, run_id="run-2")
    assert not late.promoted
    assert late.reason == "the champion has changed since the gate compared: evaluate and gate again"
    assert named() == {"champion": "1"} and len(ledger.entries(NAME, "champion")) == 1


def test_a_gate_that_compared_with_a_champion_that_is_gone_is_told_so_too(act):
    assert not act("d2", compared="d1").promoted
    assert named() == {}


def test_a_decision_about_another_model_promotes_nothing(act):
    result = act("d1", about="d9")
    assert not result.promoted and result.reason == "the gate decided about another model"
    assert ledger.entries(NAME, "champion") == []


@pytest.mark.parametrize("passed", [True, False])
def test_a_retried_step_registers_no_second_version_and_says_the_same(act, passed):
    act("d0", run_id="run-0")
    first = act("d1", compared="d0", passed=passed)
    again = act("d1", compared="d0", passed=passed)
    assert again == first and first.promoted == passed
    assert len(registry.versions(NAME)) == 2
    assert len(ledger.entries(NAME, "champion")) == (2 if passed else 1)


@pytest.mark.parametrize(
    ("module", "function", "calls"),
    [(registry, "register", 1), (ledger, "append", 1), (ledger, "heal", 1), (ledger, "heal", 2), (runtime, "write_json", 3)],
)
def test_a_promotion_that_ends_after_any_of_its_steps_is_finished_by_its_retry(act, monkeypatch, module, function, calls):
    act("d0", run_id="run-0")
    real, done = getattr(module, function), []

    def ends_after(*args, **kwargs):
        result = real(*args, **kwargs)
        done.append(function)
        if len(done) == calls:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, function, ends_after)
        with pytest.raises(KeyboardInterrupt):
            act("d1", compared="d0")
    again = act("d1", compared="d0")
    assert (again.version, again.previous, again.promoted, again.unchanged) == ("2", "1", True, False)
    assert len(registry.versions(NAME)) == len(ledger.entries(NAME, "champion")) == 2
    assert named() == {"champion": "2", "previous": "1"}


def test_a_crash_between_ledger_and_alias_is_healed_by_the_next_run(act):
    act("d1")
    registry.register(NAME, "s3://x", "d2", registry.run_of(NAME), {})
    ledger.append(
        NAME, "champion", {**ledger.entries(NAME, "champion")[0], "n": 2, "version": "2", "digest": "d2", "run_id": "run-2"}
    )
    assert named() == {"champion": "1"}
    act("d3", compared="d2", passed=False, run_id="run-3")
    assert named() == {"champion": "2", "previous": "1"}


def test_after_the_registry_was_lost_promotion_goes_on(act, empty_mlflow, tmp_path, monkeypatch):
    act("d1")
    act("d2", compared="d1", run_id="run-2")
    monkeypatch.setenv("CALLTUNE_TRACKING", f"sqlite:///{shutil.copyfile(empty_mlflow, tmp_path / 'new.db')}")
    again = act("d2", compared="d2", run_id="run-3")
    assert again.unchanged and tags(again.version)["digest"] == "d2" and named()["champion"] == again.version
    third = act("d3", compared="d2", run_id="run-4")
    assert third.promoted and third.previous == again.version
    assert {alias: tags(version)["digest"] for alias, version in named().items()} == {"champion": "d3", "previous": "d2"}


def test_a_run_with_another_alias_never_moves_the_champion(act):
    act("d1")
    staged = act("d2", run_id="run-2", alias="staging")
    assert (staged.promoted, staged.version, staged.previous) == (True, "2", None)
    assert named() == {"champion": "1", "staging": "2"}
    refused = act("d3", compared="d1", passed=False, run_id="run-3")
    assert not refused.promoted and named() == {"champion": "1", "staging": "2"}
    second = act("d3", compared="d1", run_id="run-4")
    assert second.promoted and second.previous == "1"
    assert {alias: tags(version)["digest"] for alias, version in named().items()} == {
        "champion": "d3",
        "previous": "d1",
        "staging": "d2",
    }


def test_another_alias_may_be_another_name_for_the_champion(act):
    act("d1")
    act("d1", alias="live")
    assert named() == {"champion": "1", "live": "1"}


@pytest.mark.parametrize("passed", [True, False])
def test_a_model_that_the_store_has_not_is_neither_registered_nor_promoted(act, passed):
    with pytest.raises(DataError, match=r"models/d1: the store has no model.safetensors, and .* is no whole copy"):
        act("d1", passed=passed, stored=False)
    assert registry.versions(NAME) == [] and named() == {} and ledger.entries(NAME, "champion") == []


@pytest.mark.parametrize("alias", ["previous", "Previous-staging"])
def test_the_names_of_versions_before_are_no_alias_for_a_champion(alias):
    with pytest.raises(ValidationError, match=r"neither previous or previous-… .the version that served before."):
        PromoteConfig(name=NAME, alias=alias)


def test_an_entry_whose_answer_was_lost_is_found_by_its_number_where_older_ones_are_gone(tracking, store):
    """The store kept entry 5, the promoter heard nothing, and its retry meets it; entries 1 to 3 were deleted long ago."""
    exported = {"uri": "s3://x/models/d5", "digest": "d5", "files": {}}
    common = {"files": {}, "run_id": "run-1", "fingerprint": "print-1", "reason": "passed the gate"}
    before, own = ({"n": n, "version": str(n), "uri": f"s3://x/models/d{n}", "digest": f"d{n}", **common} for n in (4, 5))
    for entry in (before, own):
        ledger.append(NAME, "champion", entry)
    verdict = {"passed": True, "candidate": {"digest": "d5"}, "champion": {"digest": "d4"}}
    result = _decided(NAME, "5", exported, verdict, "print-1", [before], PromoteConfig(name=NAME))
    assert result.promoted and result.reason == "passed the gate"
