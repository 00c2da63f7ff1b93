"""A champion whose files are gone or damaged: the gate refuses and says why, and no cached result outlives the damage."""

import hashlib
import json

import pytest

from calltune import exports, models
from calltune.errors import UserError
from calltune.settings import ModelConfig
from components.evaluate.step import run
from components.gate.config import GateConfig
from components.gate.step import gate

WEIGHTS = b"weights"


@pytest.fixture(params=["store", "s3"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    return request.getfixturevalue(request.param)


@pytest.fixture
def champion(place):
    """A champion as the ledger has it, its one file in the store."""
    files = {"model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}
    found = {"uri": f"{place.uri}/models/{models.digest(files)}", "digest": models.digest(files), "files": files, "version": "4"}
    place.put(f"models/{found['digest']}/model.safetensors", WEIGHTS)
    return found


def key(champion):
    return f"models/{champion['digest']}/model.safetensors"


def seen(champion):
    """As look finds it now."""
    return json.dumps({**champion, "stored": exports.state(champion)}, sort_keys=True)


def evaluated(source, folder):
    settings = {"model": ModelConfig(base="none").model_dump()}
    return run("champion", source, folder / "dataset", settings, "code", folder / "metrics.json", folder / "predictions.jsonl")


@pytest.mark.parametrize(("left", "says"), [(None, "nothing is there"), (b"other", "not what was exported: model.safetensors")])
def test_damage_is_a_result_which_the_gate_refuses_with_its_reason(place, champion, tmp_path, left, says):
    place.delete(key(champion)) if left is None else place.put(key(champion), left)
    result = evaluated(seen(champion), tmp_path)
    told = {"version": "4", "model_digest": champion["digest"], "error": f"{champion['uri']}: {says}"}
    assert result == {"present": True, "which": "champion", **told} == json.loads((tmp_path / "metrics.json").read_text())
    assert (tmp_path / "predictions.jsonl").read_text() == ""
    decision = gate({}, None, result, GateConfig(thresholds={"tool_accuracy": 0.5}))
    (check,) = [check for check in decision.checks if check.name == "champion: results"]
    assert not check.passed and check.reason == f"the evaluation failed: {champion['uri']}: {says}."
    assert decision.champion == {"version": "4", "digest": champion["digest"]}


def test_a_damaged_champion_is_asked_for_otherwise_than_a_whole_one_and_again_otherwise_when_mended(place, champion):
    whole = seen(champion)
    place.delete(key(champion))
    gone = seen(champion)
    place.put(key(champion), b"other")
    changed = seen(champion)
    assert len({whole, gone, changed}) == 3
    assert seen(champion) == changed, "while nothing changes the question stays, and so does what KFP has cached for it"


def test_damage_since_look_is_no_result_that_might_be_cached_for_the_whole_champion(place, champion, tmp_path):
    before = seen(champion)
    place.delete(key(champion))
    with pytest.raises(UserError, match=r"were changed while this run went on, which must be run again: .*nothing is there"):
        evaluated(before, tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_store_that_does_not_answer_is_an_error_and_no_result(s3, champion, tmp_path, monkeypatch):
    asked = seen(champion)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    exports.storage.open_store.cache_clear()
    with pytest.raises(UserError, match="SignatureDoesNotMatch"):
        evaluated(asked.replace(champion["uri"], f"{s3.uri}/models/{champion['digest']}"), tmp_path)
    assert not (tmp_path / "metrics.json").exists()
