"""Merging tensor by tensor writes what merging in memory gives, in the base's own files, and needs little memory."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from benchmarks import export as benchmark
from calltune import models
from calltune.errors import DataError
from components.export import merge, shards


@pytest.fixture
def sharded(tiny_model, tmp_path):
    """A function that makes a copy of the tiny model, in several files, in a dtype, with an index."""

    def make(dtype=torch.bfloat16):
        folder = tmp_path / "sharded"
        models.load(tiny_model, dtype=torch.float32).to(dtype).save_pretrained(folder, max_shard_size="64KB")
        return folder

    return make


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A function from a method's name to a folder as train writes it, its weights random: large enough to move every weight."""
    folder = tmp_path_factory.mktemp("trained")
    network = models.load(tiny_model, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network.save_pretrained(folder / "full")
        settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(network, settings).save_pretrained(folder / "lora")
    shutil.copytree(folder / "lora", folder / "qlora")
    for method in ("full", "lora", "qlora"):
        (folder / method / "method.json").write_text(json.dumps({"method": method}))
    return lambda method: folder / method


def written(folder):
    return {name: tensor for file in shards.files(folder) for name, tensor in load_file(folder / file).items()}


@pytest.mark.parametrize(
    ("method", "into"), [("lora", "dequantized"), ("qlora", "dequantized"), ("qlora", "original"), ("full", "dequantized")]
)
def test_tensor_by_tensor_is_bit_for_bit_what_merging_in_memory_gives(sharded, trained, tmp_path, method, into):
    base, adapter = sharded(), trained(method)
    merge.write_merged(base, adapter, into, "bfloat16", tmp_path / "out")
    in_memory = merge.merged(base, adapter, into).to(torch.bfloat16).state_dict()
    ours = written(tmp_path / "out")
    assert ours and all(torch.equal(tensor, in_memory[name]) for name, tensor in ours.items())
    moved = [name for name, tensor in written(base).items() if not torch.equal(tensor, ours[name])]
    assert len(moved) == (0 if method == "full" else 14), "each linear layer, and nothing else"


def test_the_files_are_the_bases_and_the_index_leads_to_every_tensor(sharded, trained, tmp_path):
    base = sharded()
    merge.write_merged(base, trained("lora"), "dequantized", "auto", tmp_path / "out")
    before, after = (json.loads((folder / shards.INDEX).read_text()) for folder in (base, tmp_path / "out"))
    assert len(shards.files(base)) > 3 and after["weight_map"] == before["weight_map"]
    assert after["metadata"]["total_size"] == sum(t.nbytes for t in written(tmp_path / "out").values())
    shutil.copyfile(base / "config.json", tmp_path / "out" / "config.json")
    loaded = models.load(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in written(tmp_path / "out").items())


@pytest.mark.parametrize(
    ("own", "dtype", "expected"),
    [
        ("float32", "auto", "float32"),
        ("float16", "auto", "float16"),
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
    ],
)
def test_the_dtype_is_the_bases_or_the_one_that_is_set(sharded, trained, tmp_path, own, dtype, expected):
    base = sharded(getattr(torch, own))
    assert merge.write_merged(base, trained("lora"), "dequantized", dtype, tmp_path / "out") == expected
    assert {tensor.dtype for tensor in written(tmp_path / "out").values()} == {getattr(torch, expected)}


def test_what_is_no_float_and_what_is_empty_go_along_as_they_are(tmp_path):
    kept = {"flag": torch.tensor([True, False, True]), "count": torch.tensor(7), "none": torch.empty(0, 3),
            "weight": torch.randn(3, 5)}  # fmt: skip
    (tmp_path / "base").mkdir()
    save_file(kept, tmp_path / "base" / shards.WHOLE)
    assert shards.rewrite(tmp_path / "base", tmp_path / "out", lambda _, tensor: tensor, "float16") == "float16"
    ours = written(tmp_path / "out")
    assert torch.equal(ours["flag"], kept["flag"]) and torch.equal(ours["count"], kept["count"])
    assert ours["none"].shape == (0, 3) and torch.equal(ours["weight"], kept["weight"].half())


def renamed(base):
    """Names in the files that are not the network's, as in an old checkpoint."""
    for file in shards.files(base):
        tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(base / file).items()}
        save_file(tensors, base / file, metadata={"format": "pt"})
    index = json.loads((base / shards.INDEX).read_text())
    index["weight_map"] = {name.removeprefix("model."): file for name, file in index["weight_map"].items()}
    (base / shards.INDEX).write_text(json.dumps(index))


def test_a_base_that_names_its_weights_otherwise_is_merged_in_memory(sharded, trained, tmp_path):
    base, adapter = sharded(), trained("qlora")
    merge.write_merged(base, adapter, "dequantized", "auto", tmp_path / "expected")
    renamed(base)
    assert merge.write_merged(base, adapter, "dequantized", "auto", tmp_path / "out") == "bfloat16"
    expected, ours = written(tmp_path / "expected"), written(tmp_path / "out")
    assert shards.files(tmp_path / "out") == [shards.WHOLE]
    assert expected.keys() == ours.keys() and all(torch.equal(tensor, ours[name]) for name, tensor in expected.items())


def test_an_adapter_that_is_no_number_is_named(sharded, trained, tmp_path):
    adapter = shutil.copytree(trained("lora"), tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    (name,) = [name for name in weights if "layers.1.mlp.down_proj.lora_B" in name]
    weights[name][0, 0] = torch.inf
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model.layers.1.mlp.down_proj.weight is not finite once it is merged"):
        merge.write_merged(sharded(), adapter, "dequantized", "auto", tmp_path / "out")


def test_a_weight_that_is_too_large_for_the_dtype_is_named(tmp_path):
    (tmp_path / "base").mkdir()
    save_file({"weight": torch.tensor([1.0, 1e5], dtype=torch.bfloat16)}, tmp_path / "base" / shards.WHOLE)
    with pytest.raises(DataError, match=r"weight is not finite once it is merged, in torch.float16: .*too large for that dtype"):
        shards.rewrite(tmp_path / "base", tmp_path / "out", lambda _, tensor: tensor, "float16")


def test_the_memory_above_the_imports_is_that_of_one_shard(tmp_path):
    base, adapter = benchmark.make(tmp_path, layers=8, hidden=768, intermediate=3072)
    sizes = [(base / file).stat().st_size for file in shards.files(base)]
    found = benchmark.measured("dequantized", base, adapter, tmp_path / "out")
    limit = benchmark.limit_mib(base, adapter)
    assert len(sizes) == 8 and found["peak_mib"] <= limit < sum(sizes) / 2**20, "the whole base would not fit below the limit"
