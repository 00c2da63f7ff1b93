"""The exported folder is the trained model, loads without Calltune, and reaches the store whole."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from calltune import exports, models, storage
from calltune.errors import DataError, UserError
from calltune.render import Renderer, template_of
from components.export.config import ExportConfig
from components.export.merge import merged
from components.export.reference import as_trained
from components.export.step import _finish, export
from components.train.config import TrainConfig
from components.train.method import build, decide

METHODS = ("full", "lora", "qlora")


@torch.no_grad()
def log_probabilities(network, rows):
    """At the supervised positions of the rows, shape (positions, vocabulary)."""
    found = []
    for row in rows:
        positions = [i - 1 for i, on in enumerate(row["loss_mask"]) if on]
        logits = network.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0, positions]
        found.append(torch.log_softmax(logits.float(), dim=-1))
    return torch.cat(found)


def divergence(one, two):
    """Mean KL divergence in nats."""
    return float((one.exp() * (one - two)).sum(dim=-1).mean())


@pytest.fixture
def rows(dataset):
    return pq.read_table(dataset / "validation.parquet").slice(0, 6).to_pylist()


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_is_whole_and_its_weights_are_safetensors_only(exported, method, tiny_model):
    run = exported(method)
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "calltune.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".gguf", ".h5"))]
    assert [name for name in names if name.endswith(".safetensors")] == ["model.safetensors"]
    weights = load_file(run.folder / "model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    assert {name: t.shape for name, t in weights.items()} == {name: t.shape for name, t in base.items()}
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    config = json.loads((run.folder / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("method", METHODS)
def test_model_json_names_what_lies_in_the_store(exported, method):
    run = exported(method)
    told = json.loads(run.json.read_text())
    assert told["digest"] == run.folder.name == models.digest(told["files"])
    assert told["files"] == models.checksums(run.folder)
    stored = run.store / "models" / told["digest"]
    assert told["uri"] == stored.as_uri()
    assert models.checksums(stored) == told["files"] == json.loads((stored / models.MANIFEST).read_text())
    assert (told["template"], told["syntax"], told["dtype"]) == ("hermes", "hermes", "bfloat16")
    assert told["top1_agreement"] >= 0.99
    assert 0 <= told["kl"] < 1e-4
    if method == "full":
        assert told["adapter"] is None
    else:
        adapter = run.store / "adapters" / told["digest"]
        assert told["adapter"] == adapter.as_uri()
        assert {path.name for path in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_plain_transformers_shows_the_tools_in_a_process_without_calltune(plain_answers, questions):
    assert len(plain_answers) == len(questions) == 20
    for answer, record in zip(plain_answers, questions, strict=True):
        for tool in record["tools"]:
            assert f'"name": "{tool["function"]["name"]}"' in answer["prompt"]
            assert json.dumps(tool["function"]["description"], ensure_ascii=False) in answer["prompt"]
        assert answer["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert record["messages"][0]["content"] in answer["prompt"]


@pytest.mark.parametrize("method", METHODS)
def test_the_templates_stop_token_ends_generation(exported, method):
    told = json.loads((exported(method).folder / "generation_config.json").read_text())
    eos = told["eos_token_id"] if isinstance(told["eos_token_id"], list) else [told["eos_token_id"]]
    tokenizer = models.tokenizer(exported(method).folder)
    assert tokenizer.convert_ids_to_tokens(eos) == ["<|im_end|>"]
    assert tokenizer.chat_template == template_of("hermes").text
    assert not told.get("do_sample", False)
    assert json.loads((exported(method).folder / "config.json").read_text())["eos_token_id"] == eos[0]


def test_how_the_base_samples_and_penalises_does_not_go_along(tiny_model, tokenizer, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    sampling = {"do_sample": True, "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "eos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(sampling))
    _finish(base, Renderer(tokenizer, template_of("hermes")), "bfloat16", tmp_path)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told.pop("eos_token_id") in (2, [2]) and not told.keys() & sampling.keys() - {"do_sample"}
    assert not told.get("do_sample", False)


def test_the_exported_weights_are_the_trained_ones(exported, trained):
    written, kept = (load_file(path / "model.safetensors") for path in (exported("full").folder, trained("full").adapter))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in written.items())


def test_lora_is_merged_exactly(exported, trained, tiny_model, rows):
    peft = PeftModel.from_pretrained(models.load(tiny_model, dtype=torch.float32), trained("lora").adapter)
    ours = merged(tiny_model, trained("lora").adapter, "dequantized")
    assert not any("lora" in name for name, _ in ours.named_modules())
    assert (log_probabilities(peft, rows) - log_probabilities(ours, rows)).abs().max() < 1e-3


def test_qlora_is_merged_into_what_it_was_trained_against(trained, tiny_model, rows):
    config = TrainConfig(method="qlora", precision="fp32")
    quantised = build(tiny_model, decide(config, 3_000_000))
    quantised.set_attn_implementation("sdpa")
    taught = log_probabilities(PeftModel.from_pretrained(quantised, trained("qlora").adapter), rows)
    dequantised, original = (
        log_probabilities(merged(tiny_model, trained("qlora").adapter, into), rows) for into in ("dequantized", "original")
    )
    # What an export is held against is what training computed with.
    assert divergence(taught, log_probabilities(as_trained(tiny_model, trained("qlora").adapter), rows)) < 1e-9
    assert divergence(taught, dequantised) < 1e-4
    assert divergence(taught, original) > 50 * divergence(taught, dequantised)
    agreement = [(taught.argmax(-1) == other.argmax(-1)).float().mean() for other in (dequantised, original)]
    assert agreement[0] > 0.99 > agreement[1]


def test_the_same_weights_are_the_same_model_wherever_they_are_exported(exported, trained, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    for run_id in ("one", "two"):
        monkeypatch.setenv("CALLTUNE_RUN_ID", run_id)
        again = export(trained("full").adapter, dataset, tiny, ExportConfig(), tmp_path / run_id / "model.json")
        assert again.digest == exported("full").result.digest
    assert not list((tmp_path / "cache" / "exports").iterdir())


def test_an_adapter_of_qlora_can_go_onto_the_original_weights(trained, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    result = export(trained("qlora").adapter, dataset, tiny, ExportConfig(merge_into="original"), tmp_path / "model.json")
    assert 0.01 < result.kl < 0.1 and json.loads((tmp_path / "model.json").read_text())["kl"] == result.kl
    assert f"with a mean KL divergence of {result.kl:.1e} nats" in (tmp_path / "events.jsonl").read_text()


def test_an_export_that_fails_leaves_nothing_behind(trained, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").write_text("a file where the store's folder was")
    with pytest.raises(OSError, match="store"):
        export(trained("full").adapter, dataset, tiny, ExportConfig(), tmp_path / "model.json")
    assert not list((tmp_path / "cache" / "exports").iterdir()) and not list((tmp_path / "cache").glob("models/*"))


def test_an_export_is_written_over_no_model_in_the_cache_and_uploads_what_it_made(stored, trained, dataset, tiny, tmp_path):
    folder, told = stored
    copy = exports.fetch(told).path
    (copy / "config.json").chmod(0o644)
    (copy / "config.json").write_text("{}")
    again = export(trained("full").adapter, dataset, tiny, ExportConfig(), tmp_path / "model.json")
    assert again.digest == told["digest"] and models.checksums(folder) == told["files"]


@pytest.fixture
def stored(exported, tmp_path, monkeypatch):
    """A store of this test's own with the exported model, and an empty cache: the folder there, and `model.json`."""
    shutil.copytree(exported("full").store, tmp_path / "store", dirs_exist_ok=True)
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    told = json.loads(exported("full").json.read_text())
    folder = tmp_path / "store" / "models" / told["digest"]
    return folder, {**told, "uri": folder.as_uri()}


def test_an_exported_model_is_fetched_once_and_whole(stored):
    folder, told = stored
    fetched = exports.fetch(told)
    assert fetched.digest == told["digest"] and models.checksums(fetched.path) == told["files"]
    shutil.rmtree(folder)
    assert exports.fetch(told).path == fetched.path


def test_a_copy_that_was_edited_is_not_evaluated_as_what_was_exported(stored):
    _, told = stored
    folder = exports.fetch(told).path
    assert {path.stat().st_mode & 0o222 for path in folder.rglob("*") if path.is_file()} == {0}, "nobody may write"
    config = (folder / "config.json").read_text()
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(config + " ")
    (folder / "more.json").write_text("{}")
    with pytest.raises(DataError, match=rf"{told['digest']}: config.json, more.json changed since the export; remove the folder"):
        exports.fetch(told)
    shutil.rmtree(folder)
    assert (exports.fetch(told).path / "config.json").read_text() == config


def test_a_file_damaged_in_the_store_is_refused_at_fetch(stored):
    folder, told = stored
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match=r"models/\w+: not what was exported: model.safetensors"):
        exports.fetch(told)
    assert not (models.cache_dir() / "models" / told["digest"]).exists()


def test_a_file_missing_in_the_store_is_refused_at_fetch(stored):
    folder, told = stored
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json is gone$"):
        exports.fetch(told)


def test_the_export_reaches_a_real_s3_server_and_comes_back(s3, exported, trained, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    result = export(trained("full").adapter, dataset, tiny, ExportConfig(), tmp_path / "model.json")
    assert result.uri == f"{s3.uri}/models/{result.digest}" and result.digest == exported("full").result.digest
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "another machine"))
    assert models.checksums(exports.fetch(vars(result)).path) == result.files
    storage.at(result.uri)[0].put(f"{s3.prefix}/models/{result.digest}/config.json", b"{}")
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "a third machine"))
    with pytest.raises(DataError, match=r"not what was exported: config\.json"):
        exports.fetch(vars(result))
