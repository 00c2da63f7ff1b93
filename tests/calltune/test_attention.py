"""Models whose attention Calltune does not compute are refused, by their config or by what they compute; no others are."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
)

from calltune import models
from calltune.attention import require_full_attention, require_within_window
from calltune.errors import ConfigError
from components.evaluate.engines import hf
from components.train.config import TrainConfig
from components.train.method import build, decide

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    # Wide first weights make attention sharp, so that a wrong one shows.
    "initializer_range": 0.3,
}
BY_CONFIG = {
    "other layers": (
        Gemma3TextConfig(**TINY, layer_types=["full_attention", "chunked_attention"]),
        "has layers of chunked_attention",
    ),
    "capped logits": (
        Gemma2Config(**TINY, layer_types=["full_attention"] * 2, attn_logit_softcapping=30.0),
        "caps its attention logits at 30",
    ),
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "initializer_range": 0.3}
BY_PROBE = {
    "positions in the attention": BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=64, initializer_range=0.3),
    "positions in the attention, with a name for each kind": FalconConfig(**SMALL, num_attention_heads=2, alibi=True),
    "attention of its own": GPTNeoConfig(**SMALL, num_heads=2, num_layers=2, attention_types=[[["global"], 2]]),
    "a state": MambaConfig(**SMALL, state_size=8),
    "a state in some layers": RecurrentGemmaConfig(**{**TINY, "num_hidden_layers": 3}, lru_width=32, attention_window_size=64),
    "a window shorter than the probe": MistralConfig(**TINY, sliding_window=8),
}
ACCEPTED = {
    "Llama": LlamaConfig(**TINY),
    "Mistral without a window": MistralConfig(**TINY, sliding_window=None),
    "Mistral": MistralConfig(**TINY, sliding_window=4096),
    "Gemma 3": Gemma3TextConfig(**TINY, sliding_window=512, layer_types=["sliding_attention", "full_attention"]),
    "Qwen2, whose window is switched off": Qwen2Config(**TINY, use_sliding_window=False, sliding_window=8),
    "Qwen3": Qwen3Config(**TINY),
    "capped output only": Gemma2Config(**TINY, layer_types=["full_attention"] * 2, attn_logit_softcapping=None),
}
METHODS = ("full", "lora", "qlora")


def saved(config, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def build_for(method, folder):
    return build(folder, decide(TrainConfig(method=method, precision="fp32"), 1_000))


@pytest.mark.parametrize("name", BY_CONFIG)
@pytest.mark.parametrize("load", [*METHODS, "evaluation"])
def test_it_is_refused_in_one_line_before_its_weights_are_read(name, load, tmp_path):
    config, said = BY_CONFIG[name]
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"^model.base: {tmp_path} {said}; .*: choose another base model$"):
        hf.load(tmp_path) if load == "evaluation" else build_for(load, tmp_path)


@pytest.mark.parametrize("name", BY_PROBE)
def test_what_would_be_computed_otherwise_is_refused_in_one_line(name, tmp_path):
    saved(BY_PROBE[name], tmp_path)
    for load in (hf.load, lambda folder: build_for("full", folder)):
        with pytest.raises(ConfigError, match=rf"^model.base: {tmp_path} .*: choose another base model$") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ACCEPTED)
def test_full_attention_is_accepted(name, tmp_path):
    saved(ACCEPTED[name], tmp_path)
    require_full_attention(tmp_path)
    for model in (hf.load(tmp_path), build_for("lora", tmp_path)):
        assert model.config._attn_implementation.startswith("calltune_")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_quantised_weights_are_accepted(tiny_model, precision):
    build(tiny_model, decide(TrainConfig(method="qlora", precision=precision), 1_000))


@pytest.mark.parametrize("name", ["Mistral", "Gemma 3"])
def test_rows_must_be_shorter_than_the_window(name):
    config = ACCEPTED[name]
    require_within_window(config, config.sliding_window - 1)
    with pytest.raises(
        ConfigError, match=rf"window of {config.sliding_window} tokens, and the longest row has {config.sliding_window};"
    ):
        require_within_window(config, config.sliding_window)


def test_a_window_that_is_switched_off_counts_for_nothing():
    require_within_window(ACCEPTED["Qwen2, whose window is switched off"], 1000)


def test_answers_within_the_window_are_those_of_generate_and_longer_ones_are_refused(tmp_path):
    saved(MistralConfig(**TINY, sliding_window=64), tmp_path)
    prompt = torch.randint(3, 64, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    plain, ours = models.load(tmp_path), hf.load(tmp_path)
    out = plain.generate(torch.tensor([prompt]), max_new_tokens=23, do_sample=False, eos_token_id=None, pad_token_id=0)
    (answer,) = hf.answers(ours, [prompt], [], 23)
    assert answer.ids == out[0, len(prompt) :].tolist()
    with pytest.raises(ConfigError, match="a sliding window of 64 tokens, and the longest row has 64"):
        list(hf.answers(ours, [prompt], [], 24))


def test_without_the_window_the_answers_are_those_of_generate(tmp_path):
    """What a refused model would have answered is not what `generate` answers: this is why it is refused."""
    dice = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 64, (24,), generator=dice).tolist()
    answers = {}
    for window in (None, 4):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = MistralForCausalLM(MistralConfig(**{**TINY, "initializer_range": 0.5}, sliding_window=window)).eval()
        out = network.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        answers[window] = out[0, len(prompt) :].tolist()
        if window is None:
            network.save_pretrained(tmp_path)
    (ours,) = hf.answers(hf.load(tmp_path), [prompt], [], 8)
    assert ours.ids == answers[None] != answers[4]


def test_plain_loading_takes_any_model(tmp_path):
    MistralForCausalLM(MistralConfig(**TINY, sliding_window=8)).save_pretrained(tmp_path)
    assert models.load(tmp_path).config.sliding_window == 8
