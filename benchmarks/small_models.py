"""Random networks of two layers with a tokenizer of bytes and five merges, as export leaves a model: they load in a moment."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from calltune.render import template_of
from components.export import gguf_tokens

MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "max_position_embeddings": 512,
    "vocab_size": 270,
    "dtype": "float32",
}


def tokenizer_of(cut: str, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 256 bytes, a few merges, and ChatML's markers.

    Args:
        cut: how it cuts text, as llama.cpp calls it.
        bos: whether it puts a BOS before text by itself.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2"), ("12", "3")]
    vocab = {piece: number for number, piece in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    steps, whole = gguf_tokens.CUTS[cut]
    core = Tokenizer(BPE(vocab, merges, ignore_merges=whole))
    made = [_step(step) for step in steps]
    core.pre_tokenizer = made[0] if len(made) == 1 else pre_tokenizers.Sequence(made)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(MARKERS)
    core.add_tokens(["<tool_call>", "</tool_call>"])
    if bos:
        first = ("<|im_start|>", core.token_to_id("<|im_start|>"))
        core.post_processor = TemplateProcessing("<|im_start|> $A", "$A $B", [first])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = template_of("hermes").text
    return tokenizer


def _step(step: dict[str, Any]) -> Any:
    if step["type"] == "Split":
        return pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated")
    if step["type"] == "Digits":
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"])


def llama(**settings: Any) -> PreTrainedModel:
    """A random Llama, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **settings}))


def qwen3(**settings: Any) -> PreTrainedModel:
    """A random Qwen3, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "head_dim": 16, **settings}))


def model_folder(folder: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """What export leaves of a model, as far as a GGUF file takes it; returns the folder."""
    tokenizer.save_pretrained(folder)
    network.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    network.save_pretrained(folder)
    return folder
