"""Rollback on a real S3 store and a real MLflow: who, when and why in the ledger; nothing moves to files that are not whole."""

import hashlib
from datetime import datetime

import pytest

from calltune import exports, ledger, models, runtime
from calltune import tracking as registry
from calltune.errors import DataError, UserError
from components.promote.config import PromoteConfig
from components.promote.rollback import Rollback, rollback
from components.promote.step import promote

NAME = "helpdesk"
NUMBERS = dict.fromkeys(("observed", "required", "low", "high"))
CONFIG = PromoteConfig(name=NAME)


def exported(s3, text):
    """What export writes of a model of one file, which is in the store."""
    files = {"model.safetensors": hashlib.sha256(text.encode()).hexdigest()}
    digest = models.digest(files)
    s3.put(f"models/{digest}/model.safetensors", text.encode())
    return {"uri": f"{s3.uri}/models/{digest}", "digest": digest, "files": files}


@pytest.fixture
def run(s3, tracking, tmp_path, monkeypatch):
    """A function that is a run with this model: its gate has compared with the present champion."""

    def act(text, passed=True):
        model, history = exported(s3, text), ledger.entries(NAME, "champion")
        champion = {key: history[-1][key] if history else None for key in ("version", "digest")}
        decision = {
            "passed": passed,
            "checks": [{"name": "threshold", "passed": passed, "reason": "Because.", **NUMBERS}],
            "candidate": {"digest": model["digest"]},
            "metrics": {},
        }
        runtime.write_json(tmp_path / "model.json", model)
        runtime.write_json(tmp_path / "decision.json", {**decision, "champion": champion})
        with monkeypatch.context() as patch:
            patch.setenv("CALLTUNE_RUN_ID", f"run-{text}-{len(history)}")
            out = tmp_path / "promotion.json"
            return promote(tmp_path / "model.json", tmp_path / "decision.json", f"print-{text}", CONFIG, out)

    return act


def back(to=None, reason="wrong refunds"):
    return rollback(CONFIG, to, reason, "ana@laptop")


def named():
    return registry.aliases(NAME)


def state(s3):
    return named(), ledger.entries(NAME, "champion")


def test_the_version_before_serves_again_and_the_ledger_says_who_when_and_why(run, s3):
    run("a"), run("b")
    first, second = ledger.entries(NAME, "champion")
    assert back() == Rollback(version="1", before="2")
    assert named() == {"champion": "1", "previous": "2"}
    entry = ledger.entries(NAME, "champion")[2]
    assert datetime.fromisoformat(entry.pop("time")) >= datetime.fromisoformat(second["time"])
    model = {key: first[key] for key in ("version", "uri", "digest", "files", "fingerprint")}
    told = {"run_id": "run-1", "reason": "wrong refunds", "by": "ana@laptop", "rolled_back": second["digest"]}
    assert entry == {"n": 3, **model, **told}
    assert len(registry.versions(NAME)) == 2


def test_any_version_that_has_served_can_be_named(run):
    run("a"), run("b"), run("c")
    assert back(to=1) == Rollback(version="1", before="3")
    assert back(to=3) == Rollback(version="3", before="1")
    assert named() == {"champion": "3", "previous": "1"}


@pytest.mark.parametrize(
    ("damage", "says"), [(None, "model.safetensors is gone"), (b"x", "model.safetensors is not what was exp")]
)
def test_a_model_whose_files_are_not_whole_never_serves(run, s3, damage, says):
    run("a"), run("b")
    before, key = state(s3), f"models/{ledger.entries(NAME, 'champion')[0]['digest']}/model.safetensors"
    s3.delete(key) if damage is None else s3.put(key, damage)
    with pytest.raises(DataError, match=says):
        back()
    assert state(s3) == before


def test_a_refused_version_cannot_be_named(run, s3):
    run("a"), run("b"), run("c", passed=False)
    before = state(s3)
    with pytest.raises(UserError, match=r"helpdesk@champion: version 3 has never served, .*; there is 1, 2$"):
        back(to=3)
    assert state(s3) == before


def test_without_a_version_before_there_is_nothing_to_go_back_to(run):
    with pytest.raises(UserError, match="nothing has been promoted yet"):
        back()
    run("a")
    with pytest.raises(UserError, match="version 1 is the first champion"):
        back()


def test_a_second_rollback_never_brings_back_what_was_bad(run):
    run("a"), run("b"), back()
    with pytest.raises(UserError, match=r"version 1 came by a rollback from version 2 already \(wrong refunds\): name .* --to"):
        back()
    assert named()["champion"] == "1" and len(ledger.entries(NAME, "champion")) == 3
    run("c")
    assert back() == Rollback(version="1", before="3")


def test_a_rollback_that_was_cut_off_before_the_alias_moved_is_finished_by_the_same_command(run, monkeypatch):
    run("a"), run("b")

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, "append", lambda *entry, write=ledger.append: cut_off(write(*entry)))
        back(to=1)
    assert named()["champion"] == "2"
    assert back(to=1) == Rollback(version="1", before="1")
    assert named() == {"champion": "1", "previous": "2"} and len(ledger.entries(NAME, "champion")) == 3


def test_somebody_who_promotes_meanwhile_wins(run, monkeypatch):
    run("a"), run("b")
    monkeypatch.setattr(exports, "require_whole", lambda _: run("c"))
    with pytest.raises(UserError, match="somebody else has promoted meanwhile"):
        back()
    assert named() == {"champion": "3", "previous": "2"} and len(ledger.entries(NAME, "champion")) == 3


def test_no_run_promotes_what_was_rolled_back_from_but_a_rollback_can(run):
    run("a"), run("b"), back()
    again = run("b")
    assert not again.promoted
    assert again.reason == (
        "it was rolled back from (wrong refunds), so that no run promotes it again; `calltune models rollback --to 2` would"
    )
    assert named()["champion"] == "1"
    back(to=2, reason="it was the data")
    assert named()["champion"] == "2"
    assert run("b").unchanged and run("c").promoted
