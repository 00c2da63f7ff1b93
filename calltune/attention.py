"""Which base models Calltune's own attention is right for: what their config says, and what they compute."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARED_TOKENS = 40
"""Of the probe's two rows: more than training's packing asks for."""
OWN_TOKENS = (9, 6)
"""Of each of the two, behind the shared ones; unequal, so that padding is tried too."""
# Sums in another order move SmolLM2-135M's logits by 4e-6 of their size in float32, and by up to 4e-2 in bfloat16.
TOLERANCE, COARSE_TOLERANCE = 1e-3, 0.2
_OF_THE_MODEL = (LookupError, TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError)
"""What a model raises that knows nothing of another attention."""

Compute = Callable[["PreTrainedModel", Sequence[list[int]]], "torch.Tensor"]
"""Logits of the last token of each row, shape ``(rows, vocabulary)``."""


def require_full_attention(folder: Path) -> None:
    """Refuse a model with a layer that does not simply attend to all that comes before.

    Training on packs (components/train/attention.py) and answering behind a shared prefix (components/evaluate/engines/prefix.py)
    compute full attention, without a cap on its logits: such a model would be another one there, and nothing would say so.
    A sliding window is full attention for rows that are shorter: see :func:`require_within_window`.

    Args:
        folder: of the model; only its `config.json` is read.

    Raises:
        ConfigError: there is another kind of layer, or a cap.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    others = sorted(set(config.to_dict().get("layer_types") or ()) - {"full_attention", "sliding_attention"})
    cap = config.to_dict().get("attn_logit_softcapping")
    if others:
        raise _refused(folder, f"has layers of {' and '.join(others)}")
    if cap is not None:
        raise _refused(folder, f"caps its attention logits at {cap:g}")


def require_within_window(config: Any, longest: int) -> None:
    """Refuse rows for which a model's sliding window would not be full attention.

    Args:
        config: the model's, as transformers loads it.
        longest: tokens of the longest row, its answer included.

    Raises:
        ConfigError: it does not fit into the window.
    """
    settings = config.get_text_config().to_dict()
    kinds, window = settings.get("layer_types"), settings.get("sliding_window")
    # With layer types a window is for those layers that are `sliding_attention`.
    if window is not None and (kinds is None or "sliding_attention" in kinds) and longest >= window:
        found = f"attends through a sliding window of {window} tokens, and the longest row has {longest}"
        raise _refused(config.name_or_path, found)


@contextmanager
def suited(folder: Path) -> Iterator[None]:
    """Say in one line that a model cannot be loaded or run with Calltune's attention, where it raises for that.

    Raises:
        ConfigError: with what the model raised.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _OF_THE_MODEL as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise _refused(folder, f"cannot be computed with another attention than its own ({said[:200]})") from error


def require_same(folder: Path, model: "PreTrainedModel", ours: Compute, exact: bool) -> None:
    """Probe a model: two short rows behind a shared beginning, as Calltune computes them, against each row alone.

    No config tells of every attention (ALiBi, a state instead of keys, a sink); what comes out does.

    Args:
        folder: of the model, for the message.
        model: loaded with Calltune's attention, which it has again afterwards.
        ours: gives the logits as training or evaluation computes them.
        exact: whether the model computes in float32.

    Raises:
        ConfigError: they differ by more than rounding, or the model cannot be computed so at all.
    """
    import torch

    ids = torch.arange(SHARED_TOKENS + sum(OWN_TOKENS)) * 7919 % model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    shared, *own = ids.split([SHARED_TOKENS, *OWN_TOKENS])
    rows = [torch.cat([shared, one]).tolist() for one in own]
    implementation = model.config._attn_implementation
    with suited(folder), torch.no_grad():
        found = ours(model, rows).float()
        model.set_attn_implementation("eager")
        alone = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1] for row in rows]
        model.set_attn_implementation(implementation)
    expected = torch.stack(alone).float()
    # Of the logits without their mean, which no softmax sees.
    expected, found = (logits - logits.mean(dim=-1, keepdim=True) for logits in (expected, found))
    off = float((found - expected).norm() / expected.norm())
    if not off <= (TOLERANCE if exact else COARSE_TOLERANCE):  # written so that a NaN is refused
        raise _refused(folder, f"predicts otherwise where rows share a beginning (its logits are off by {off:.1%})")


def _refused(model: Path | str, found: str) -> ConfigError:
    return ConfigError(f"model.base: {model} {found}; Calltune computes full, uncapped attention only: choose another base model")
