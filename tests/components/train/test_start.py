"""Training that goes on from the champion's adapter: from its very weights, or not at all."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from calltune import models, runtime, storage
from calltune.errors import ConfigError, DataError
from calltune.settings import ModelConfig
from components.export.config import ExportConfig
from components.export.step import export
from components.train.config import TrainConfig
from components.train.method import adapter_config, build, decide
from components.train.start import champions_adapter, go_on_from
from components.train.step import train

SETTINGS = dict(method="lora", learning_rate=1e-2, epochs=1, batch_rows=8, precision="fp32", start_from="champion")
LORA = decide(TrainConfig(method="lora"), 1)


@pytest.fixture
def champion(exported, monkeypatch, tmp_path):
    """The LoRA run of the session as the champion: what look tells of it, its store, and a cache that has not seen it."""
    done = exported("lora")
    shutil.copytree(done.store, tmp_path / "store")
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    storage.open_store.cache_clear()
    return json.dumps({"digest": done.result.digest, "uri": f"{storage.of_run().uri}/models/{done.result.digest}"})


def said(tmp_path):
    events = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    return [event["message"] for event in events if event["kind"] == "note"]


def test_it_begins_with_the_champions_very_weights(champion, trained, tiny, tiny_model, tmp_path):
    from peft import get_peft_model

    config = TrainConfig(**SETTINGS)
    folder = champions_adapter(champion, tiny, LORA, config)
    network = get_peft_model(build(tiny_model, LORA), adapter_config(LORA, config))
    go_on_from(folder, network)
    theirs = load_file(trained("lora").adapter / "adapter_model.safetensors")
    ours = {name.replace(".default", ""): p for name, p in network.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(parameter.float(), theirs[name]) for name, parameter in ours.items())
    assert any("goes on from the adapter of the champion" in message for message in said(tmp_path))


def test_training_goes_on_where_the_champion_had_come_to(champion, trained, dataset, tiny, tmp_path):
    def run(name, champion):
        return train(dataset, tiny, TrainConfig(**SETTINGS), tmp_path / name / "adapter", tmp_path / name, champion=champion)

    anew, later = run("anew", ""), run("later", champion)
    assert any("there is no champion yet" in message for message in said(tmp_path))
    assert anew.started_from == "the base model" and later.started_from.startswith("the champion ")
    assert later.train_loss < anew.train_loss - 0.5
    assert later.validation_loss < trained("lora").result.validation_loss + 0.5


@pytest.mark.parametrize("known", [True, False])
def test_what_the_champion_was_trained_on_goes_on_into_the_exported_model(champion, dataset, exported, tiny, tmp_path, known):
    told = json.loads(champion)
    theirs = tmp_path / "store" / "adapters" / told["digest"]
    if not known:  # as an earlier version stored it
        (theirs / models.TRAINED_ON).unlink()
        manifest = runtime.read_json(theirs / models.MANIFEST)
        del manifest[models.TRAINED_ON]
        (theirs / models.MANIFEST).chmod(0o644)
        runtime.write_json(theirs / models.MANIFEST, manifest)
    rows = tmp_path / "rows"
    shutil.copytree(dataset, rows)
    runtime.write_json(rows / "stats.json", {**runtime.read_json(dataset / "stats.json"), "trained_on": ["f" * 16]})
    adapter = tmp_path / "second" / "adapter"
    train(rows, tiny, TrainConfig(**SETTINGS, max_steps=1), adapter, tmp_path / "second", champion=champion)
    result = export(adapter, rows, tiny, ExportConfig(), tmp_path / "model.json")
    places = [models.cache_dir() / kind / result.digest / models.TRAINED_ON for kind in ("models", "adapters")]
    if known:
        both = sorted([*runtime.read_json(exported("lora").folder / models.TRAINED_ON), "f" * 16])
        assert len(both) > 1 and [runtime.read_json(place) for place in places] == [both, both]
    else:
        assert not any(place.exists() for place in places)


def test_where_nothing_is_asked_for_nothing_is_looked_for(tiny):
    assert champions_adapter("not even JSON", tiny, LORA, TrainConfig(method="lora")) is None


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({"rank": 8}, {}, r"train\.rank is 8, and the champion's adapter has 16: set it to that, or train\.start_from: base"),
        ({"lora_alpha": 16}, {}, r"train\.lora_alpha is 16, and the champion's adapter has 32"),
        ({"method": "auto"}, {}, r"goes on from an adapter, and full trains none"),
        ({}, {"base": "org/other", "revision": "0" * 40}, r"the champion's adapter is for .*tiny.*, and not for this base model"),
    ],
)
def test_an_adapter_of_another_shape_is_refused_in_one_line(champion, tiny, settings, model, message):
    config = TrainConfig(**{**SETTINGS, **settings})
    with pytest.raises(ConfigError, match=message):
        champions_adapter(champion, ModelConfig(**{**tiny.model_dump(), **model}), decide(config, 1), config)


def test_a_champion_that_was_trained_whole_has_none_to_go_on_from(store, tiny):
    told = json.dumps({"digest": "d" * 64, "uri": f"{store.uri}/models/{'d' * 64}"})
    with pytest.raises(
        ConfigError, match=r"the champion dddddddddddd was trained whole and has no adapter: set train\.start_from"
    ):
        champions_adapter(told, tiny, LORA, TrainConfig(**SETTINGS))


def test_an_adapter_that_was_changed_in_the_store_is_not_gone_on_from(champion, tiny, tmp_path):
    told = json.loads(champion)
    file = tmp_path / "store" / "adapters" / told["digest"] / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        champions_adapter(champion, tiny, LORA, TrainConfig(**SETTINGS))


def test_another_start_is_another_training(tmp_path):
    assert TrainConfig(**SETTINGS).result_settings() != TrainConfig(**{**SETTINGS, "start_from": "base"}).result_settings()


def test_full_goes_on_from_no_adapter_and_that_is_seen_in_the_config():
    with pytest.raises(ValueError, match=r"full trains none: set method: qlora or lora"):
        TrainConfig(**{**SETTINGS, "method": "full"})
