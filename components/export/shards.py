"""Safetensors files rewritten tensor by tensor: never more of a model in memory than the tensor at hand."""

import json
import math
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from calltune import runtime
from calltune.errors import DataError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""How safetensors writes the dtypes that weights are converted between, and how torch does."""

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""From a tensor's name and its values in a file to what stands there in the new one: the same shape, any float dtype."""


def files(folder: Path) -> list[str]:
    """Names of the safetensors files that a model's folder consists of, as its index has them; empty where there are none."""
    if (folder / INDEX).is_file():
        return sorted(set(runtime.read_json(folder / INDEX)["weight_map"].values()))
    return [WHOLE] if (folder / WHOLE).is_file() else []


def names(folder: Path) -> set[str]:
    """Names of the tensors in a model's folder."""
    return {name for file in files(folder) for name in specs(folder / file)}


def rewrite(source: Path, target: Path, change: Change, dtype: str) -> str:
    """Write a model's weights again, in files of the same names with the same tensors.

    Args:
        source: folder of the model.
        target: folder that gets the files, and the index where there are several.
        change: what becomes of each tensor.
        dtype: of all its floating-point tensors; `auto`: each keeps its own.

    Returns:
        the dtype that most of the weights have then, as torch names it.

    Raises:
        DataError: a changed tensor is not finite.
    """
    target.mkdir(parents=True, exist_ok=True)
    every = files(source)
    weights: Counter[str] = Counter()
    total = 0
    weight_map: dict[str, str] = {}
    for file in runtime.tracked(every, "merge", len(every), "files"):
        made = {name: (_target(kind, dtype), shape) for name, (kind, shape) in specs(source / file).items()}
        for kind, shape in made.values():
            weights[kind] += math.prod(shape)
        weight_map |= dict.fromkeys(made, file)
        total += _rewrite(source / file, target / file, made, change)
    if every != [WHOLE]:
        runtime.write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    return FLOATS[max((kind for kind in weights if kind in FLOATS), key=weights.__getitem__)]


def _rewrite(source: Path, target: Path, specs: dict[str, tuple[str, list[int]]], change: Change) -> int:
    """One file; returns how many bytes its tensors take. The library's own writer wants all of them in memory at once."""
    # As the library orders them: the widest first, so that each stands at a multiple of its own width.
    order = sorted(specs, key=lambda name: (-_width(specs[name][0]), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        kind, shape = specs[name]
        begin, end = end, end + math.prod(shape) * _width(kind)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with target.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for name in order:
            # Opened for each tensor: what is mapped counts as memory until the file is closed.
            with safe_open(source, framework="pt") as tensors:
                before = tensors.get_tensor(name)
            after = change(name, before)
            if specs[name][0] in FLOATS:
                after = after.to(getattr(torch, FLOATS[specs[name][0]]))
            if after is not before and not torch.isfinite(after).all():
                reason = "the adapter's weights are no numbers, or too large for that dtype (export.dtype)"
                raise DataError(f"{source}: {name} is not finite once it is merged, in {after.dtype}: {reason}")
            out.write(after.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del before, after
    return end


def specs(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype, as safetensors writes it, and shape of each tensor in a file; only its header is read."""
    with file.open("rb") as data:
        header = json.loads(data.read(struct.unpack("<Q", data.read(8))[0]))
    return {name: (spec["dtype"], spec["shape"]) for name, spec in header.items() if name != "__metadata__"}


def _target(kind: str, dtype: str) -> str:
    if dtype == "auto" or kind not in FLOATS:
        return kind
    return next(name for name, torch_name in FLOATS.items() if torch_name == dtype)


def _width(kind: str) -> int:
    """Bytes of one value: the digits in the name of its dtype, `F8_E4M3` and `BOOL` among them, count its bits."""
    digits = "".join(c for c in kind.split("_")[0] if c.isdigit())
    return int(digits or 8) // 8
