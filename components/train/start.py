"""Where an adapter starts: at nothing, on the base model, or where the champion's has come to."""

import json
from pathlib import Path

import torch

from calltune import exports, models, runtime
from calltune.errors import ConfigError
from calltune.settings import ModelConfig
from components.train.config import TrainConfig
from components.train.method import Method, adapter_config


def champions_adapter(champion: str, model: ModelConfig, method: Method, config: TrainConfig) -> Path | None:
    """The folder of the adapter to go on from, brought to this machine; None where training starts from the base model.

    Args:
        champion: JSON of `uri` and `digest`, as look found it; empty where nothing serves yet, or none is asked for.
        model: the base model.
        method: as decided.
        config: the step's settings.

    Raises:
        ConfigError: the champion has no adapter, or one that does not go on under these settings.
        DataError: its adapter in the store is not what was exported.
    """
    if config.start_from == "base":
        return None
    if method.name == "full":
        raise ConfigError(
            "train.start_from: champion goes on from an adapter, and full trains none: set train.method: qlora or lora"
        )
    if not champion:
        runtime.note("train: there is no champion yet: starts from the base model")
        return None
    told = json.loads(champion)
    place, _, _ = told["uri"].rpartition("/models/")
    if not exports.has_adapter(f"{place}/adapters/{told['digest']}"):
        who = f"the champion {told['digest'][:12]}"
        raise ConfigError(f"train.start_from: {who} was trained whole and has no adapter: set train.start_from: base")
    folder = exports.fetch_adapter(f"{place}/adapters/{told['digest']}")
    _require_same_shape(folder, model, method, config)
    runtime.note(f"train: goes on from the adapter of the champion {told['digest'][:12]}")
    return folder


def record_ancestors(before: Path, out: Path) -> None:
    """Write down what the adapter that was gone on from had been trained on: whatever it learnt is in the new one, too."""
    known = (before / models.TRAINED_ON).is_file()
    runtime.write_json(out / models.TRAINED_BEFORE, runtime.read_json(before / models.TRAINED_ON) if known else None)


def go_on_from(adapter: Path, network: torch.nn.Module) -> None:
    """Give the network's fresh adapter the weights of another one of the same shape."""
    from peft import set_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file

    saved = load_file(adapter / SAFETENSORS_WEIGHTS_NAME)
    own = sum(parameter.requires_grad for parameter in network.parameters())
    unknown = set_peft_model_state_dict(network, saved).unexpected_keys
    if unknown or len(saved) != own:
        raise ConfigError(
            f"train.start_from: the champion's adapter has {len(saved)} matrices, of which {len(unknown)} have no place in this "
            f"model, which takes {own}: set train.start_from: base"
        )


def _require_same_shape(folder: Path, model: ModelConfig, method: Method, config: TrainConfig) -> None:
    served, saved = runtime.read_json(folder / models.SERVING), runtime.read_json(folder / "adapter_config.json")
    if (served["base"], served["revision"]) != (model.base, model.revision):
        theirs = " at ".join(filter(None, (served["base"], served["revision"])))
        raise ConfigError(f"train.start_from: the champion's adapter is for {theirs}, and not for this base model")
    planned = adapter_config(method, config)
    for key, setting in (("r", "rank"), ("lora_alpha", "lora_alpha")):
        if saved[key] != getattr(planned, key):
            raise ConfigError(
                f"train.{setting} is {getattr(planned, key):g}, and the champion's adapter has {saved[key]:g}: set it to that, "
                "or train.start_from: base"
            )
