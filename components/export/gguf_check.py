"""A GGUF file against the folder that it was made from: what it says is read back, and every value held against its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.export import gguf_model, gguf_tokens
from components.export.verify import ExportError

PRECISION = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Most that rounding moves a value, as a share of it."""
SMALLEST = {"F32": 0.0, "F16": 2.0**-25, "BF16": 0.0}
"""And half of the smallest step that the dtype has."""


def verify(folder: Path, kind: str, file: Path) -> float:
    """Read the file back with the library's reader; returns the largest difference of a value from the folder's.

    One tensor at a time is in memory.

    Args:
        folder: the exported model.
        kind: that the file was written with.
        file: the GGUF file.

    Raises:
        ExportError: a tensor is absent, too much, or further from the folder's than rounding explains; or tokens, template or
            stop tokens are others.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    config, _ = gguf_model.architecture_of(folder)
    _same_tokens(reader, gguf_tokens.read(folder, config.vocab_size), file)
    expected = {one.name: one for one in gguf_model.planned(folder, kind)}
    found = {tensor.name: tensor for tensor in reader.tensors if tensor.name != gguf_model.ROPE_FACTORS}
    if found.keys() != expected.keys():
        raise ExportError(f"{file}: other tensors than planned: {', '.join(sorted(found.keys() ^ expected.keys()))}")
    return max(_difference(one, found[name], file) for name, one in expected.items())


def _difference(one: gguf_model.Planned, tensor: Any, file: Path) -> float:
    from gguf.quants import dequantize

    if (tensor.tensor_type.name, list(map(int, reversed(tensor.shape)))) != (one.kind, one.shape):
        raise ExportError(f"{file}: {one.name} is {tensor.tensor_type.name} {list(tensor.shape)}, not {one.kind} {one.shape}")
    # Not the reader's view, which is mapped: what was read of it would count as memory until the end.
    stored = np.fromfile(file, np.uint8, int(tensor.n_bytes), offset=int(tensor.data_offset))
    rows = gguf_model.weight_of(one).reshape(-1, one.shape[-1])
    stored = stored.reshape(len(rows), -1)
    worst = 0.0
    for place in gguf_model.chunks(*rows.shape):
        was = rows[place].float()
        is_ = torch.from_numpy(np.ascontiguousarray(dequantize(stored[place], tensor.tensor_type))).reshape(was.shape)
        apart = (is_ - was).abs()
        if not (apart <= _allowed(was, one.kind)).all():
            raise ExportError(f"{file}: {one.name} is not the exported weight: a value is off by {float(apart.max()):.3g}")
        worst = max(worst, float(apart.max()))
    return worst


def _allowed(values: torch.Tensor, kind: str) -> torch.Tensor:
    """How far rounding may move each value, shape as theirs."""
    if kind != "Q8_0":
        return values.abs() * PRECISION[kind] + SMALLEST[kind]
    blocks = values.reshape(-1, gguf_model.BLOCK)
    # Half a step of 1/127 of the block's largest, and the rounding of that step to float16.
    largest = blocks.abs().amax(dim=1, keepdim=True)
    return (largest * (0.5 / 127 + 2.0**-11) + 127 * 2.0**-25).expand(blocks.shape).reshape(values.shape)


def _same_tokens(reader: Any, tokens: gguf_tokens.Tokens, file: Path) -> None:
    told = {
        "tokenizer.ggml.pre": tokens.pre,
        "tokenizer.ggml.tokens": tokens.texts,
        "tokenizer.ggml.token_type": tokens.types,
        "tokenizer.ggml.merges": tokens.merges,
        "tokenizer.ggml.add_bos_token": tokens.add_bos,
        "tokenizer.chat_template": tokens.chat_template,
    } | {gguf_tokens.KEYS[name]: number for name, number in tokens.ids.items()}
    for key, value in told.items():
        field = reader.get_field(key)
        if field is None or field.contents() != value:
            raise ExportError(f"{file}: {key} is not the exported folder's")
