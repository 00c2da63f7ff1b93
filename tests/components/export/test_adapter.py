"""The adapter by itself: a folder that PEFT and `calltune call --adapter` take, in the store, whole or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from calltune import exports, models, runtime, storage
from calltune.errors import DataError, UserError
from calltune.records import prompt_of
from calltune.render import prompt_ids, template_of
from components.evaluate.engines import hf
from components.export.reference import as_trained
from pipelines import ask

TOOLS = Path(__file__).parents[3] / "examples" / "helpdesk" / "tools.py"


@pytest.fixture
def stored(exported, tmp_path, monkeypatch):
    """A function that gives the address of a method's adapter in a store of this test's own, and an empty cache."""

    def address(method):
        shutil.copytree(exported(method).store, tmp_path / "store", dirs_exist_ok=True)
        monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
        return f"{storage.of_run().uri}/adapters/{exported(method).result.digest}"

    return address


def test_it_says_which_base_it_is_for_and_has_what_a_prompt_takes(stored, tiny_model):
    folder = exports.fetch_adapter(stored("qlora"))
    assert runtime.read_json(folder / models.SERVING) == {
        "template": "hermes", "syntax": "hermes", "base": str(tiny_model), "revision": "", "method": "qlora",
    }  # fmt: skip
    assert runtime.read_json(folder / "adapter_config.json")["base_model_name_or_path"] == str(tiny_model)
    assert models.tokenizer(folder).chat_template == template_of("hermes").text
    assert models.tokenizer(folder).convert_ids_to_tokens(models.stop_ids(folder)) == ["<|im_end|>"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
@torch.no_grad()
def test_on_its_base_it_computes_what_was_trained(stored, trained, questions, tiny_model, method):
    with torch.enable_grad():  # no test before may have trained it
        folder = exports.fetch_adapter(stored(method))
    tokenizer = models.tokenizer(folder)
    ids = torch.tensor([prompt_ids(tokenizer, prompt_of(questions[0]), questions[0]["tools"])])
    taught = as_trained(tiny_model, trained(method).adapter)
    ours = hf.load(tiny_model, folder, nf4=method == "qlora")
    ours.set_attn_implementation("sdpa")
    assert (taught(input_ids=ids).logits - ours(input_ids=ids).logits).abs().max() < 1e-3
    plain = models.load(tiny_model, dtype=torch.float32)(input_ids=ids).logits
    assert (plain - ours(input_ids=ids).logits).abs().max() > 0.1, "without it the answers are others"
    if method == "lora":
        peft = PeftModel.from_pretrained(models.load(tiny_model, dtype=torch.float32), folder)
        assert torch.allclose(peft(input_ids=ids).logits, taught(input_ids=ids).logits, atol=1e-4)


def test_call_asks_an_adapter_on_its_base(stored, tmp_path):
    folder = exports.fetch_adapter(stored("qlora"))
    shutil.copytree(folder, tmp_path / "exported" / "lora")
    answers = [ask.ask("Who is Ana?", str(place), TOOLS, 4, is_adapter=True) for place in (folder, tmp_path / "exported")]
    assert answers[0] == answers[1] and isinstance(answers[0]["calls"], list)


def test_what_is_no_adapter_is_named(exported, tmp_path):
    for place in (exported("full").folder, tmp_path / "nowhere"):
        with pytest.raises(
            UserError, match=rf"--adapter {place}: not an exported adapter: it has no calltune.json or no adapter_c"
        ):
            ask.find_adapter(str(place))
    with pytest.raises(DataError, match="not the address of an adapter: it ends in /adapters/ and its model's digest, 64 hex"):
        exports.fetch_adapter("s3://bucket/adapters/helpdesk")
    with pytest.raises(DataError, match="no whole adapter is there: it has no manifest"):
        exports.fetch_adapter(f"{storage.of_run().uri}/adapters/{'0' * 64}")


def test_a_file_that_was_changed_is_refused_in_the_store_and_here(stored):
    address = stored("lora")
    store, prefix = storage.at(address)
    config = store.get(f"{prefix}/adapter_config.json")
    store.put(f"{prefix}/adapter_config.json", json.dumps({**json.loads(config), "lora_alpha": 1}).encode())
    with pytest.raises(DataError, match=r"adapters/\w+: adapter_config.json changed since the export"):
        exports.fetch_adapter(address)
    assert not (models.cache_dir() / "adapters").is_dir() or not list((models.cache_dir() / "adapters").iterdir())
    store.put(f"{prefix}/adapter_config.json", config)
    here = exports.fetch_adapter(address) / "method.json"
    here.chmod(0o644)
    here.write_text("{}")
    with pytest.raises(DataError, match=r"method.json changed since the export"):
        exports.fetch_adapter(address)
