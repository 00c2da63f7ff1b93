"""The GGUF file is the exported model: by the library's reader, by transformers' own one, and value by value."""

import json
import shutil

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.small_models import MARKERS, llama, model_folder, qwen3, tokenizer_of
from calltune import models
from calltune.errors import ConfigError, DataError
from calltune.render import template_of
from calltune.settings import ModelConfig
from components.export import gguf_check, gguf_model, gguf_tokens
from components.export.config import ExportConfig
from components.export.step import export
from components.export.verify import ExportError

KINDS = ("f16", "bf16", "q8_0")


@pytest.fixture
def folder(tmp_path):
    """A random Llama with weights of its own for the output, and more token ids than its tokenizer has."""
    return model_folder(tmp_path / "llama", llama(tie_word_embeddings=False), tokenizer_of("llama-bpe"))


def fields(file):
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def values(file):
    """Each tensor's values in float32, by its name in the file."""
    tensors = GGUFReader(file).tensors
    return {one.name: dequantize(one.data, one.tensor_type).reshape(tuple(map(int, reversed(one.shape)))) for one in tensors}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_transformers_own_reader_finds_the_same_network_in_it(folder, tmp_path, kind):
    gguf_model.write(folder, kind, tmp_path / "model.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(40).reshape(1, -1)
    ours, theirs = (network(input_ids=ids).logits for network in (models.load(folder, dtype=torch.float32), read))
    apart = (ours - theirs).abs().max() / ours.std()
    assert apart < {"f16": 0.01, "bf16": 0.05, "q8_0": 0.1}[kind]
    assert read.config.num_key_value_heads == 2 and read.config.rope_parameters["rope_theta"] == 10000


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_the_exported_one_rounded(folder, tmp_path, kind):
    gguf_model.write(folder, kind, tmp_path / "model.gguf")
    there, ours = values(tmp_path / "model.gguf"), load_file(folder / "model.safetensors")
    assert len(there) == len(ours) == 21
    swap = {"attn_q": 4, "attn_k": 2}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    names |= {f"model.layers.{n}.{part}": f"blk.{n}.{to}" for n in (0, 1) for part, to in parts.items()}
    for name, weight in ours.items():
        to = names[name.removesuffix(".weight")]
        expected = weight
        if to[6:] in swap:
            # Row 2i of a head is row i of its first half, row 2i + 1 row i of its second.
            rows = weight.shape[0] // swap[to[6:]]
            order = [
                head * rows + half * rows // 2 + i for head in range(swap[to[6:]]) for i in range(rows // 2) for half in (0, 1)
            ]
            expected = weight[order]
        found = torch.from_numpy(np.ascontiguousarray(there[f"{to}.weight"]))
        if weight.dim() == 1:
            assert torch.equal(found, weight)
        elif kind == "q8_0":
            steps = expected.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
            # Half a step, and up to 127 times the rounding of the step itself to float16.
            assert ((found - expected).reshape(-1, 32).abs() <= (0.5 + 127 * 2**-11) * steps + 1e-6).all()
        else:
            assert torch.equal(found, expected.to({"f16": torch.float16, "bf16": torch.bfloat16}[kind]).float())


def test_tied_weights_stand_once_even_where_the_base_stores_them_twice(tmp_path):
    network = llama(tie_word_embeddings=True)
    folder = model_folder(tmp_path / "llama", network, tokenizer_of("llama-bpe"))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    gguf_model.write(folder, "f16", tmp_path / "model.gguf")
    assert "output.weight" not in values(tmp_path / "model.gguf")
    gguf_check.verify(folder, "f16", tmp_path / "model.gguf")


def test_the_tokenizer_its_markers_and_the_template_are_in_it(folder, tmp_path):
    gguf_model.write(folder, "q8_0", tmp_path / "model.gguf")
    told = fields(tmp_path / "model.gguf")
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    tokenizer = models.tokenizer(folder)
    texts, types = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    assert texts[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer))) and len(texts) == 270
    assert {texts[i] for i, kind in enumerate(types) if kind == 3} == set(MARKERS)
    assert {texts[i] for i, kind in enumerate(types) if kind == 4} == {"<tool_call>", "</tool_call>"}
    assert [texts[i] for i, kind in enumerate(types) if kind == 5] == [f"[PAD{i}]" for i in range(len(tokenizer), 270)]
    assert told["tokenizer.ggml.merges"][2] == "Ġt he"
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert [told["tokenizer.ggml.eos_token_id"], told["tokenizer.ggml.eot_token_id"]] == ends
    assert told["tokenizer.chat_template"] == template_of("hermes").text
    assert told["llama.attention.head_count_kv"] == 2 and told["general.file_type"] == 7
    assert told["tokenizer.ggml.add_bos_token"] is False


def test_a_bos_is_added_only_where_the_tokenizer_does_and_training_saw_it(tmp_path):
    tokenizer = tokenizer_of("llama-bpe", bos=True)
    folder = model_folder(tmp_path / "bos", llama(), tokenizer)
    assert gguf_tokens.read(folder, 270).add_bos is True
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert gguf_tokens.read(model_folder(tmp_path / "none", llama(), tokenizer), 270).add_bos is False


@pytest.mark.parametrize("name", gguf_tokens.CUTS)
def test_each_known_way_to_cut_text_is_recognised(tmp_path, name):
    tokenizer_of(name).save_pretrained(tmp_path)
    assert gguf_tokens.cut_of(tmp_path) == name


def test_llama_3s_scaled_positions_are_in_it(tmp_path):
    rope = dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=128,
    )  # fmt: skip
    folder = model_folder(tmp_path / "llama", llama(rope_parameters=rope), tokenizer_of("llama-bpe"))
    gguf_model.write(folder, "f16", tmp_path / "model.gguf")
    factors = values(tmp_path / "model.gguf")["rope_freqs.weight"]
    assert factors.shape == (8,) and factors[0] == 1 and np.isclose(factors[-1], 8) and (np.diff(factors) >= 0).all()
    gguf_check.verify(folder, "f16", tmp_path / "model.gguf")


@torch.no_grad()
def test_qwen3_is_not_put_in_another_order(tmp_path):
    network = qwen3(head_dim=128)  # transformers' reader takes no other from the file
    folder = model_folder(tmp_path / "qwen3", network, tokenizer_of("qwen2"))
    gguf_model.write(folder, "f16", tmp_path / "model.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(40).reshape(1, -1)
    ours = network.eval()(input_ids=ids).logits
    assert (ours - read(input_ids=ids).logits).abs().max() / ours.std() < 0.01
    gguf_check.verify(folder, "f16", tmp_path / "model.gguf")


def test_a_weight_too_large_for_float16_is_named_and_bfloat16_takes_it(tmp_path):
    network = llama()
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight[3, 5] = 1e5
    folder = model_folder(tmp_path / "llama", network, tokenizer_of("llama-bpe"))
    with pytest.raises(
        DataError, match=r"layers\.1\.mlp\.up_proj\.weight: a weight is too large for float16: set export.gguf: bf16"
    ):
        gguf_model.write(folder, "f16", tmp_path / "model.gguf")
    gguf_model.write(folder, "bf16", tmp_path / "model.gguf")


def test_rows_that_are_no_multiple_of_32_stay_f16(tmp_path):
    folder = model_folder(tmp_path / "llama", llama(intermediate_size=100), tokenizer_of("llama-bpe"))
    gguf_model.write(folder, "q8_0", tmp_path / "model.gguf")
    kinds = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "model.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    gguf_check.verify(folder, "q8_0", tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": {"architectures": ["GPT2LMHeadModel"]}}, "GPT2LMHeadModel is not supported"),
        ({"config.json": {"attention_bias": True}}, "a network with biases"),
        ({"config.json": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}}, "scaled by 'dynamic'"),
        ({"tokenizer.json": {"normalizer": {"type": "Lowercase"}}}, "normalises text"),
        ({"tokenizer.json": {"pre_tokenizer": {"type": "Whitespace"}}}, "cuts text in another way"),
        ({"tokenizer.json": {"model": {"type": "Unigram"}}}, "its tokenizer is Unigram, not byte-level BPE"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused_in_one_line(folder, change, message):
    for name, settings in change.items():
        told = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**told, **settings}))
    with pytest.raises(ConfigError, match=rf"^export\.gguf: llama: .*{message}.* are supported; set export\.gguf: none$"):
        gguf_model.require_convertible(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_is_found(folder, tmp_path, kind):
    file = tmp_path / "model.gguf"
    gguf_model.write(folder, kind, file)
    assert gguf_check.verify(folder, kind, file) < 0.01
    one = next(tensor for tensor in GGUFReader(file).tensors if tensor.name == "blk.1.attn_q.weight")
    data = bytearray(file.read_bytes())
    data[int(one.data_offset) + 9] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(ExportError, match=r"blk\.1\.attn_q\.weight is not the exported weight: a value is off by"):
        gguf_check.verify(folder, kind, file)


def test_another_template_or_other_tensors_are_found(folder, tmp_path):
    gguf_model.write(folder, "f16", tmp_path / "model.gguf")
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ExportError, match=r"tokenizer\.chat_template is not the exported folder's"):
        gguf_check.verify(other, "f16", tmp_path / "model.gguf")
    deeper = model_folder(tmp_path / "deeper", llama(tie_word_embeddings=True), tokenizer_of("llama-bpe"))
    with pytest.raises(ExportError, match=r"other tensors than planned: output\.weight"):
        gguf_check.verify(deeper, "f16", tmp_path / "model.gguf")


def test_export_puts_it_into_the_store_beside_the_model_whose_digest_stays(
    exported, trained, dataset, tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    result = export(trained("full").adapter, dataset, tiny, ExportConfig(gguf="q8_0"), tmp_path / "model.json")
    assert result.digest == exported("full").result.digest and exported("full").result.gguf is None
    stored = tmp_path / "store" / "gguf" / result.digest / "q8_0"
    assert result.gguf == (stored / "model.gguf").as_uri() == json.loads((tmp_path / "model.json").read_text())["gguf"]
    assert json.loads((stored / "manifest.json").read_text()) == models.checksums(stored)
    assert models.checksums(tmp_path / "cache" / "gguf" / result.digest / "q8_0") == models.checksums(stored)
    assert "GGUF, q8_0: " in (tmp_path / "events.jsonl").read_text()


def test_export_refuses_before_it_merges(trained, dataset, tiny_model, tmp_path, monkeypatch):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "config.json").write_text((base / "config.json").read_text().replace("LlamaForCausalLM", "MptForCausalLM"))
    with pytest.raises(ConfigError, match=r"export\.gguf: base: MptForCausalLM is not supported"):
        export(trained("full").adapter, dataset, ModelConfig(base=str(base)), ExportConfig(gguf="f16"), tmp_path / "model.json")
