"""An exported folder as one GGUF file, as llama.cpp and what is built on it load it; written and read back tensor by tensor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open

from calltune import runtime
from calltune.errors import ConfigError, DataError
from components.export import gguf_tokens, shards

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig

FILE = "model.gguf"
ROPE_FACTORS = "rope_freqs.weight"
"""The one tensor that no weight is: how positions are scaled."""
ROTARY = {"LlamaForCausalLM": ("llama", True), "Qwen3ForCausalLM": ("qwen3", False)}
"""From a network to llama.cpp's name of its architecture, and whether that one rotates neighbouring values of a head instead
of the two halves, so that the rows of q and k are put in another order."""
ROPES = {"llama": ("default", "llama3"), "qwen3": ("default",)}
SUPPORTED = (
    "LlamaForCausalLM (SmolLM2, Llama 3) and Qwen3ForCausalLM with a byte-level BPE tokenizer are supported; "
    "set export.gguf: none"
)
BLOCK = 32
"""Values of a row that share one scale in Q8_0."""
CHUNK = 2**22
"""Values that are rounded at once: in float32, and more than once, while it is done."""


@dataclass(frozen=True)
class Planned:
    """One tensor of the file.

    Attributes:
        name: in the file, such as `blk.0.attn_q.weight`.
        kind: `F32`, `F16`, `BF16` or `Q8_0`.
        shape: as torch has it, the last one next to each other in memory.
        source: the safetensors file and the name in it.
        heads: into how many heads its rows are to be put in order; 0: they stay.
    """

    name: str
    kind: str
    shape: list[int]
    source: tuple[Path, str]
    heads: int


def require_convertible(folder: Path) -> None:
    """Refuse a model that llama.cpp would compute otherwise than transformers, or that this module does not know.

    Args:
        folder: with `config.json` and `tokenizer.json`; weights are not needed.

    Raises:
        ConfigError: it is none of the supported ones.
    """
    try:
        architecture_of(folder)
        gguf_tokens.cut_of(folder)
    except ConfigError as error:
        raise ConfigError(f"export.gguf: {folder.name}: {error}; {SUPPORTED}") from None


def write(folder: Path, kind: str, out: Path) -> None:
    """Write an exported model as one file, never more of it in memory than the tensor at hand, as it was and as it will be.

    Args:
        folder: what export wrote: weights in safetensors, config, tokenizer with its template, stop tokens.
        kind: `f16`, `bf16` or `q8_0`. Vectors stay in float32; matrices whose rows are no multiple of 32 are F16 in `q8_0`.
        out: the file.

    Raises:
        ConfigError: as :func:`require_convertible` says.
        DataError: a weight is too large for float16, or the tokenizer does not fit the model.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    config, architecture = architecture_of(folder)
    tensors = planned(folder, kind)
    writer = GGUFWriter(out, architecture)
    _describe(writer, config, kind)
    _add_tokens(writer, gguf_tokens.read(folder, config.vocab_size))
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, list(factors.shape), np.dtype(np.float32), factors.nbytes)
    for one in tensors:
        stored = _stored_shape(one)
        writer.add_tensor_info(one.name, stored, np.dtype(np.uint8), math.prod(stored), GGMLQuantizationType[one.kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for one in runtime.tracked(tensors, "write GGUF", len(tensors), "tensors"):
        writer.write_tensor_data(_stored(one).numpy())
    writer.close()


def architecture_of(folder: Path) -> "tuple[PreTrainedConfig, str]":
    """The folder's config, and llama.cpp's name of its architecture.

    Raises:
        ConfigError: it is none that this module knows.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    network = (config.architectures or ["a network without a name"])[0]
    if network not in ROTARY:
        raise ConfigError(f"{network} is not supported")
    name = ROTARY[network][0]
    told = config.to_dict()
    rope = config.rope_parameters["rope_type"]
    if rope not in ROPES[name]:
        raise ConfigError(f"positions scaled by {rope!r} are not supported")
    if told["hidden_act"] != "silu" or told["attention_bias"] or told.get("mlp_bias"):
        raise ConfigError("a network with biases, or with another activation than silu, is not supported")
    if set(told.get("layer_types") or []) - {"full_attention"}:
        raise ConfigError("a network with sliding windows is not supported")
    return config, name


def planned(folder: Path, kind: str) -> list[Planned]:
    """The tensors that the file gets of the folder's weights; arguments and errors as of :func:`write`."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config, architecture = architecture_of(folder)
    known = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    heads = {".q_proj.weight": config.num_attention_heads, ".k_proj.weight": config.num_key_value_heads}
    rotary = next(swapped for name, swapped in ROTARY.values() if name == architecture)
    found = []
    for file in shards.files(folder):
        for name, (_, shape) in sorted(shards.specs(folder / file).items()):
            # Tied weights, which some bases store twice, and what is computed from the config.
            if (config.tie_word_embeddings and name == "lm_head.weight") or name.endswith("rotary_emb.inv_freq"):
                continue
            there = known.get_name(name, try_suffixes=(".weight", ".bias"))
            if there is None:
                raise ConfigError(f"export.gguf: {folder}: llama.cpp's {architecture} has no {name}; {SUPPORTED}")
            swapped = next((count for ending, count in heads.items() if name.endswith(ending)), 0) if rotary else 0
            found.append(Planned(there, _kind(kind, shape), shape, (folder / file, name), swapped))
    return found


def _kind(kind: str, shape: list[int]) -> str:
    if len(shape) == 1:
        return "F32"
    return "F16" if kind == "q8_0" and shape[-1] % BLOCK else kind.upper()


def _describe(writer: "GGUFWriter", config: "PreTrainedConfig", kind: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_type("model")
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _add_tokens(writer: "GGUFWriter", tokens: gguf_tokens.Tokens) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.texts)
    writer.add_token_types(tokens.types)
    writer.add_token_merges(tokens.merges)
    for name, number in tokens.ids.items():
        writer.add_uint32(gguf_tokens.KEYS[name], number)
    writer.add_add_bos_token(tokens.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokens.chat_template)


def _rope_factors(config: "PreTrainedConfig") -> torch.Tensor | None:
    """By what llama.cpp is to divide each frequency of a head, shape ``(head_dim / 2,)``; None where by nothing."""
    if config.rope_parameters["rope_type"] == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, torch.device("cpu"))
    # As transformers computes them, so that what is not scaled is divided by 1 exactly.
    plain = 1.0 / (config.rope_parameters["rope_theta"] ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim))
    return plain / scaled


def _stored_shape(one: Planned) -> list[int]:
    """In bytes, the last dimension those of a row."""
    row = one.shape[-1]
    return [*one.shape[:-1], {"F32": 4 * row, "F16": 2 * row, "BF16": 2 * row, "Q8_0": row // BLOCK * (BLOCK + 2)}[one.kind]]


def weight_of(one: Planned) -> torch.Tensor:
    """The tensor's values in the order that llama.cpp has them, in the dtype of the safetensors file."""
    file, name = one.source
    # Opened for each tensor: what is mapped counts as memory until the file is closed.
    with safe_open(file, framework="pt") as tensors:
        weight: torch.Tensor = tensors.get_tensor(name)
        if one.heads:
            # Of each head the halves, which transformers rotates against each other, become neighbours.
            halves = weight.reshape(one.heads, 2, -1, weight.shape[-1])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        return weight.clone()


def _stored(one: Planned) -> torch.Tensor:
    """The tensor's bytes as they stand in the file, shape :func:`_stored_shape`."""
    shape = _stored_shape(one)
    rows = weight_of(one).reshape(-1, one.shape[-1])
    found = torch.empty((rows.shape[0], shape[-1]), dtype=torch.uint8)
    for place in chunks(*rows.shape):
        found[place] = _rounded(rows[place].float(), one)
    return found.reshape(shape)


def chunks(rows: int, row: int) -> Iterator[slice]:
    """Which rows of a matrix are rounded at once."""
    step = max(1, CHUNK // row)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _rounded(rows: torch.Tensor, one: Planned) -> torch.Tensor:
    """Rows in float32, shape ``(rows, row)``, as bytes."""
    if one.kind == "Q8_0":
        from gguf import GGMLQuantizationType, quants

        return torch.from_numpy(quants.quantize(rows.numpy(), GGMLQuantizationType.Q8_0))
    dtypes: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    rounded = rows.to(dtypes[one.kind])
    if not torch.isfinite(rounded).all():
        raise DataError(f"{one.source[1]}: a weight is too large for float16: set export.gguf: bf16")
    return rounded.view(torch.uint8)
