"""Models whose attention Calltune does not compute are refused where they are loaded, and no others are."""

import pytest
import torch
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen3Config

from calltune import models
from calltune.attention import require_full_attention
from calltune.errors import ConfigError
from components.evaluate import hf
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
}
REFUSED = {
    "sliding window": (MistralConfig(**TINY, sliding_window=8), "attends through a sliding window of 8 tokens"),
    "window in some layers": (Gemma3TextConfig(**TINY, sliding_window=8), "has layers of sliding_attention"),
    "window in later layers": (
        Qwen2Config(**TINY, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "has layers of sliding_attention",
    ),
    "capped logits": (
        Gemma2Config(**TINY, layer_types=["full_attention"] * 2, attn_logit_softcapping=30.0),
        "caps its attention logits at 30",
    ),
}
ACCEPTED = {
    "Llama": LlamaConfig(**TINY),
    "Mistral without a window": MistralConfig(**TINY, sliding_window=None),
    "Qwen2, whose window is switched off": Qwen2Config(**TINY, use_sliding_window=False, sliding_window=8),
    "Qwen3": Qwen3Config(**TINY),
    "capped output only": Gemma2Config(**TINY, layer_types=["full_attention"] * 2, attn_logit_softcapping=None),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_training_refuses_it_in_one_line(name, method, tmp_path):
    config, said = REFUSED[name]
    config.save_pretrained(tmp_path)
    settings = TrainConfig(method=method)
    with pytest.raises(ConfigError, match=rf"^model.base: {tmp_path} {said}; .*: choose another base model$"):
        build(tmp_path, decide(settings, 1_000), settings)


@pytest.mark.parametrize("name", REFUSED)
def test_evaluation_refuses_it_in_one_line(name, tmp_path):
    config, said = REFUSED[name]
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"^model.base: {tmp_path} {said}; .*: choose another base model$"):
        hf.load(tmp_path)


@pytest.mark.parametrize("name", ACCEPTED)
def test_full_attention_is_accepted(name, tmp_path):
    ACCEPTED[name].save_pretrained(tmp_path)
    require_full_attention(tmp_path)


def test_without_the_window_the_answers_are_those_of_generate(tmp_path):
    """What a refused model would have answered is not what `generate` answers: this is why it is refused."""
    dice = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 64, (24,), generator=dice).tolist()
    answers = {}
    for window in (None, 4):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = MistralForCausalLM(MistralConfig(**TINY, sliding_window=window, initializer_range=0.5)).eval()
        out = network.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        answers[window] = out[0, len(prompt) :].tolist()
        if window is None:
            network.save_pretrained(tmp_path)
    (ours,) = hf.answers(hf.load(tmp_path), [prompt], [], 8)
    assert ours.ids == answers[None] != answers[4]


def test_plain_loading_takes_any_model(tmp_path):
    MistralForCausalLM(MistralConfig(**TINY, sliding_window=8)).save_pretrained(tmp_path)
    assert models.load(tmp_path).config.sliding_window == 8
