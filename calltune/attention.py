"""Which base models Calltune's own attention is right for."""

from pathlib import Path

from calltune.errors import ConfigError


def require_full_attention(folder: Path) -> None:
    """Refuse a model with a layer that does not simply attend to all that comes before.

    Training on packs (components/train/attention.py) and answering behind a shared prefix (components/evaluate/prefix.py)
    compute full attention, without a cap on its logits: such a model would be another one there, and nothing would say so.

    Args:
        folder: of the model; only its `config.json` is read.

    Raises:
        ConfigError: there is a sliding window, another kind of layer, or a cap.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config().to_dict()
    kinds = config.get("layer_types")
    others = sorted(set(kinds or ()) - {"full_attention"})
    window, cap = config.get("sliding_window"), config.get("attn_logit_softcapping")
    if others:
        found = f"has layers of {' and '.join(others)}"
    elif kinds is None and window is not None:  # with layer types a window is for those layers that are `sliding_attention`
        found = f"attends through a sliding window of {window} tokens"
    elif cap is not None:
        found = f"caps its attention logits at {cap:g}"
    else:
        return
    raise ConfigError(f"model.base: {folder} {found}; Calltune computes full, uncapped attention only: choose another base model")
