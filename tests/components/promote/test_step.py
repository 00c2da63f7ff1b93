"""Promotion on a real S3 store and a real MLflow."""

import hashlib
import json
import shutil
from dataclasses import fields

import pytest
from pydantic import ValidationError

from calltune import ledger, models, runtime
from calltune import tracking as registry
from calltune.errors import DataError
from components.gate.check import Check as GatesCheck
from components.promote import step
from components.promote.config import PromoteConfig
from components.promote.decision import Check, Decision
from components.promote.step import _decided, promote

NAME = "helpdesk"


def content(label):
    """The one file of a small model."""
    return {"model.safetensors": hashlib.sha256(label.encode()).hexdigest()}


LABELS = {models.digest(content(label)): label for label in ("d0", "d1", "d2", "d3", "d4", "d5", "d9")}
D0, D1, D2, D3, D4, D5, D9 = LABELS
NUMBERS = {"observed": 0.9, "required": 0.8, "low": 0.85, "high": 0.93}


def decided(digest, compared=None, passed=True):
    """A decision as gate writes it."""
    counted = {"observed": 100, "required": 50, "low": None, "high": None}
    checks = [
        {"name": "questions", "passed": True, "reason": "100 test questions, at least 50 required.", **counted},
        {"name": "threshold: tool_accuracy", "passed": passed, "reason": "0.9, at least 0.8 is required.", **NUMBERS},
    ]
    champion = {"version": None if compared is None else "1", "digest": compared}
    return {
        "passed": passed,
        "checks": checks,
        "candidate": {"digest": digest},
        "champion": champion,
        "metrics": {"tool_accuracy": 0.9},
    }


@pytest.fixture
def act(s3, tracking, tmp_path, monkeypatch):
    """A function that promotes the model of the given digest after a gate that compared with the given champion.

    `stored` is the content of its one file in the store; None: as it was exported, empty: there is none.
    """

    def run(digest, compared=None, passed=True, run_id="run-1", about=None, alias="champion", stored=None, edit=None):
        monkeypatch.setenv("CALLTUNE_RUN_ID", run_id)
        if stored != b"":
            s3.put(f"models/{digest}/model.safetensors", stored or LABELS[digest].encode())
        model = {"uri": f"{s3.uri}/models/{digest}", "digest": digest, "files": content(LABELS[digest])}
        decision = decided(about or digest, compared, passed)
        if edit:
            edit(decision)
        runtime.write_json(tmp_path / "model.json", model)
        runtime.write_json(tmp_path / "decision.json", decision)
        out = tmp_path / "promotion.json"
        config = PromoteConfig(name=NAME, alias=alias, config_sha256="c0ffee")
        result = promote(tmp_path / "model.json", tmp_path / "decision.json", "print-1", config, out)
        assert json.loads(out.read_text()) == vars(result)
        return result

    return run


def named():
    return registry.aliases(NAME)


def tags(version):
    return registry.client().get_model_version(NAME, version).tags


def test_the_first_promotion_makes_a_champion_without_a_previous(act, s3):
    result = act(D1)
    assert (result.version, result.alias, result.previous) == ("1", "champion", None)
    assert result.promoted and not result.unchanged and result.reason == "passed the gate"
    assert named() == {"champion": "1"}
    found = tags("1")
    assert json.loads(found.pop("decision_json")) == decided(D1) == s3.get_json("runs/run-1/decision.json")
    known = {"digest": D1, "run_id": "run-1", "fingerprint": "print-1", "decision": "passed", "config_sha256": "c0ffee"}
    told = {"tool_accuracy": "0.9", "decision_uri": f"{s3.uri}/runs/run-1/decision.json"}
    assert found == {**known, **told, **registry.git_commit()}
    (entry,) = ledger.entries(NAME, "champion")
    assert entry.pop("time")
    assert entry == {
        "n": 1,
        "version": "1",
        "uri": f"{s3.uri}/models/{D1}",
        "digest": D1,
        "files": content("d1"),
        "run_id": "run-1",
        "fingerprint": "print-1",
        "reason": "passed the gate",
    }


def test_the_second_promotion_makes_the_champion_the_previous_one(act):
    act(D1)
    second = act(D2, compared=D1, run_id="run-2")
    assert (second.version, second.previous) == ("2", "1")
    assert named() == {"champion": "2", "previous": "1"}
    third = act(D3, compared=D2, run_id="run-3")
    assert (third.version, third.previous) == ("3", "2")
    assert named() == {"champion": "3", "previous": "2"}


def test_a_refused_candidate_is_a_version_and_nothing_more(act):
    act(D1)
    refused = act(D2, compared=D1, passed=False, run_id="run-2")
    assert (refused.version, refused.promoted, refused.previous) == ("2", False, None)
    assert refused.reason == "the gate refused: threshold: tool_accuracy"
    assert named() == {"champion": "1"}
    assert tags("2")["decision"] == "refused"
    assert len(ledger.entries(NAME, "champion")) == 1


def test_a_first_candidate_that_is_refused_leaves_no_champion(act):
    assert not act(D1, passed=False).promoted
    assert named() == {} and ledger.entries(NAME, "champion") == []


def test_the_champion_itself_again_changes_nothing_and_writes_nothing(act, s3):
    act(D1)
    before = s3.list("")
    again = act(D1, compared=D1, run_id="run-2")
    assert again.promoted and again.unchanged and again.version == "1" and again.previous is None
    assert [key for key in s3.list("") if not key.startswith("mlflow/")] == [k for k in before if not k.startswith("mlflow/")]
    assert len(registry.versions(NAME)) == 1 and named() == {"champion": "1"}


def test_a_champion_that_fails_a_stricter_gate_is_refused_and_stays_champion(act):
    act(D1)
    refused = act(D1, compared=D1, passed=False, run_id="run-2")
    assert (refused.version, refused.promoted, refused.unchanged) == ("1", False, True)
    assert refused.reason == "the gate refused: threshold: tool_accuracy; it is the champion, and stays it"
    assert named() == {"champion": "1"} and len(registry.versions(NAME)) == 1 and len(ledger.entries(NAME, "champion")) == 1


@pytest.mark.parametrize("compared", [None, D0])
def test_a_champion_that_changed_since_the_gate_compared_is_told(act, compared):
    act(D1)
    late = act(D2, compared=compared, run_id="run-2")
    assert not late.promoted
    assert late.reason == "the champion has changed since the gate compared: evaluate and gate again"
    assert named() == {"champion": "1"} and len(ledger.entries(NAME, "champion")) == 1


def test_a_gate_that_compared_with_a_champion_that_is_gone_is_told_so_too(act):
    assert not act(D2, compared=D1).promoted
    assert named() == {}


def test_the_version_names_the_config_that_look_has_written(act, s3):
    s3.put_json("runs/run-1/config.json", {"name": NAME})
    act(D1)
    assert tags("1")["config_uri"] == f"{s3.uri}/runs/run-1/config.json"


def test_a_decision_that_is_too_long_for_a_tag_has_its_address_alone(act, s3):
    act(D1, edit=lambda decision: decision["checks"][0].update(reason="x" * step.DECISION_BYTES))
    assert "decision_json" not in tags("1") and tags("1")["decision"] == "passed"
    assert len(s3.get(tags("1")["decision_uri"].removeprefix(f"{s3.uri}/"))) > step.DECISION_BYTES


def changed(*path, value):
    def edit(decision):
        for key in path[:-1]:
            decision = decision[key]
        decision[path[-1]] = value

    return edit


def without(*path):
    def edit(decision):
        for key in path[:-1]:
            decision = decision[key]
        del decision[path[-1]]

    return edit


NO_DECISIONS = {
    "written by hand": (changed("checks", value=[]), "checks: List should have at least 1 item"),
    "no checks": (without("checks"), "checks: Field required"),
    "a check that is a word": (changed("checks", 0, value="passed"), "checks.0: Input should be a valid dict"),
    "a check without a reason": (without("checks", 0, "reason"), "checks.0.reason: Field required"),
    "a check with an empty reason": (changed("checks", 0, "reason", value=""), "checks.0.reason: String should have at least 1"),
    "a check without its interval": (without("checks", 0, "low"), "checks.0.low: Field required"),
    "a check that passed a little": (changed("checks", 0, "passed", value=1), "checks.0.passed: Input should be a valid bool"),
    "a number that is a text": (changed("checks", 0, "observed", value="0.9"), "checks.0.observed: Input should be a valid num"),
    "passed with a check that failed": (
        changed("checks", 1, "passed", value=False),
        "says passed: true, and 1 of 2 checks failed",
    ),
    "refused with none that failed": (changed("passed", value=False), "it says passed: false, and every check passed"),
    "passed that is no truth": (changed("passed", value="true"), "passed: Input should be a valid boolean"),
    "more than the gate says": (changed("approved", value=True), "approved: Extra inputs are not permitted"),
    "of no candidate": (without("candidate"), "candidate: Field required"),
    "against nobody knows what": (without("champion", "digest"), "champion.digest: Field required"),
    "a list": (lambda decision: decision.clear(), "passed: Field required"),
}


@pytest.mark.parametrize(("edit", "says"), NO_DECISIONS.values(), ids=NO_DECISIONS)
def test_a_decision_that_the_gate_has_not_written_is_refused_in_one_line(act, edit, says):
    with pytest.raises(DataError, match=r"decision.json: not a decision of the gate: ") as refused:
        act(D1, edit=edit)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert registry.versions(NAME) == [] and named() == {} and ledger.entries(NAME, "champion") == []


@pytest.mark.parametrize("passed", [True, False])
def test_a_decision_about_another_model_is_refused(act, passed):
    with pytest.raises(DataError, match=f"the gate decided about another model: {D9[:12]}, not {D1[:12]}$"):
        act(D1, about=D9, passed=passed)
    assert registry.versions(NAME) == [] and ledger.entries(NAME, "champion") == []


def test_a_refusal_that_could_not_tell_whose_results_they_are_is_one_and_a_pass_is_none(act):
    nobody = changed("candidate", "digest", value=None)
    assert act(D1, passed=False, edit=nobody).reason == "the gate refused: threshold: tool_accuracy"
    with pytest.raises(DataError, match=f"about another model: unknown, not {D1[:12]}$"):
        act(D1, edit=nobody)


def test_a_check_is_what_the_gate_calls_one():
    assert [*Check.model_fields] == [field.name for field in fields(GatesCheck)]


def test_a_model_whose_file_was_changed_in_the_store_is_not_promoted(act):
    act(D0, run_id="run-0")
    with pytest.raises(DataError, match=f"models/{D1}: the store has another model.safetensors than was exported, and .* is no"):
        act(D1, compared=D0, stored=b"other")
    assert named() == {"champion": "1"} and len(ledger.entries(NAME, "champion")) == 1
    assert act(D1, compared=D0).promoted


def test_a_refused_model_is_not_read(act):
    assert not act(D1, passed=False, stored=b"other").promoted


@pytest.mark.parametrize("passed", [True, False])
def test_a_retried_step_registers_no_second_version_and_says_the_same(act, passed):
    act(D0, run_id="run-0")
    first = act(D1, compared=D0, passed=passed)
    again = act(D1, compared=D0, passed=passed)
    assert again == first and first.promoted == passed
    assert len(registry.versions(NAME)) == 2
    assert len(ledger.entries(NAME, "champion")) == (2 if passed else 1)


@pytest.mark.parametrize(
    ("module", "function", "calls"),
    [(registry, "register", 1), (ledger, "append", 1), (ledger, "heal", 1), (ledger, "heal", 2), (runtime, "write_json", 3)],
)
def test_a_promotion_that_ends_after_any_of_its_steps_is_finished_by_its_retry(act, monkeypatch, module, function, calls):
    act(D0, run_id="run-0")
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
            act(D1, compared=D0)
    again = act(D1, compared=D0)
    assert (again.version, again.previous, again.promoted, again.unchanged) == ("2", "1", True, False)
    assert len(registry.versions(NAME)) == len(ledger.entries(NAME, "champion")) == 2
    assert named() == {"champion": "2", "previous": "1"}


def test_a_crash_between_ledger_and_alias_is_healed_by_the_next_run(act):
    act(D1)
    registry.register(NAME, "s3://x", D2, registry.run_of(NAME), {})
    ledger.append(
        NAME, "champion", {**ledger.entries(NAME, "champion")[0], "n": 2, "version": "2", "digest": D2, "run_id": "run-2"}
    )
    assert named() == {"champion": "1"}
    act(D3, compared=D2, passed=False, run_id="run-3")
    assert named() == {"champion": "2", "previous": "1"}


def test_after_the_registry_was_lost_promotion_goes_on(act, empty_mlflow, tmp_path, monkeypatch):
    act(D1)
    act(D2, compared=D1, run_id="run-2")
    monkeypatch.setenv("CALLTUNE_TRACKING", f"sqlite:///{shutil.copyfile(empty_mlflow, tmp_path / 'new.db')}")
    again = act(D2, compared=D2, run_id="run-3")
    assert again.unchanged and tags(again.version)["digest"] == D2 and named()["champion"] == again.version
    third = act(D3, compared=D2, run_id="run-4")
    assert third.promoted and third.previous == again.version
    assert {alias: tags(version)["digest"] for alias, version in named().items()} == {"champion": D3, "previous": D2}


def test_a_run_with_another_alias_never_moves_the_champion(act):
    act(D1)
    staged = act(D2, run_id="run-2", alias="staging")
    assert (staged.promoted, staged.version, staged.previous) == (True, "2", None)
    assert named() == {"champion": "1", "staging": "2"}
    refused = act(D3, compared=D1, passed=False, run_id="run-3")
    assert not refused.promoted and named() == {"champion": "1", "staging": "2"}
    second = act(D3, compared=D1, run_id="run-4")
    assert second.promoted and second.previous == "1"
    assert {alias: tags(version)["digest"] for alias, version in named().items()} == {
        "champion": D3,
        "previous": D1,
        "staging": D2,
    }


def test_another_alias_may_be_another_name_for_the_champion(act):
    act(D1)
    act(D1, alias="live")
    assert named() == {"champion": "1", "live": "1"}


@pytest.mark.parametrize("passed", [True, False])
def test_a_model_that_the_store_has_not_is_neither_registered_nor_promoted(act, passed):
    with pytest.raises(DataError, match=f"models/{D1}: the store has no model.safetensors, and .* is no whole copy"):
        act(D1, passed=passed, stored=b"")
    assert registry.versions(NAME) == [] and named() == {} and ledger.entries(NAME, "champion") == []


@pytest.mark.parametrize("alias", ["previous", "Previous-staging"])
def test_the_names_of_versions_before_are_no_alias_for_a_champion(alias):
    with pytest.raises(ValidationError, match=r"neither previous or previous-… .the version that served before."):
        PromoteConfig(name=NAME, alias=alias)


def test_an_entry_whose_answer_was_lost_is_found_by_its_number_where_older_ones_are_gone(tracking, store):
    """The store kept entry 5, the promoter heard nothing, and its retry meets it; entries 1 to 3 were deleted long ago."""
    store.put(f"models/{D5}/model.safetensors", b"d5")
    exported = {"uri": f"{store.uri}/models/{D5}", "digest": D5, "files": content("d5")}
    common = {"files": {}, "run_id": "run-1", "fingerprint": "print-1", "reason": "passed the gate"}
    before, own = (
        {"n": n, "version": str(n), "uri": f"s3://x/models/{digest}", "digest": digest, **common}
        for n, digest in ((4, D4), (5, D5))
    )
    for entry in (before, own):
        ledger.append(NAME, "champion", entry)
    verdict = Decision.model_validate(decided(D5, compared=D4))
    result = _decided(NAME, "5", exported, verdict, "print-1", [before], PromoteConfig(name=NAME))
    assert result.promoted and result.reason == "passed the gate"
