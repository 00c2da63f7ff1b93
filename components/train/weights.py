"""The trainable weights of a model as a file, bit for bit."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def save_trainable(model: torch.nn.Module, path: Path) -> None:
    """Write the trainable weights, by name, as safetensors, in a new file that takes the place of an old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    save_file({name: p.detach().contiguous().cpu() for name, p in model.named_parameters() if p.requires_grad}, temporary)
    temporary.replace(path)


def restore_trainable(model: torch.nn.Module, path: Path) -> None:
    """Read back what :func:`save_trainable` wrote, into the same model."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name])
