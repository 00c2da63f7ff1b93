"""What was trained, as one plain model: an adapter merged into the weights that it was trained against."""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from calltune import models, runtime
from components.export import shards

LORA = "adapter_model.safetensors"
A, B, PREFIX = ".lora_A.weight", ".lora_B.weight", "base_model.model."
"""How PEFT names the two matrices of an adapted layer."""


def write_merged(base: Path, adapter: Path, merge_into: str, dtype: str, out: Path) -> str:
    """Write the trained model's weights, without PEFT and without quantisation; for `full` what train saved.

    They are merged tensor by tensor in float32 and written to files named as the base's, so that a model of any size needs
    the memory of its largest tensor and the adapter. Where that cannot be, because the base names its weights otherwise than
    the network that transformers makes of them, or the adapter is more than LoRA, the whole model is merged in memory.

    Args:
        base: folder of the base model.
        adapter: what train wrote.
        merge_into: for `qlora`, `dequantized` or `original`. An adapter learns to correct the rounded weights that it
            sees; added to the original ones it corrects an error that is not there.
        dtype: of the weights; `auto`: what they have in the base, for `full` in what train saved.
        out: folder that gets the weights.

    Returns:
        the weights' dtype, as torch names it.
    """
    method = runtime.read_json(adapter / "method.json")["method"]
    if method == "full":
        return shards.rewrite(adapter, out, lambda _, weight: weight, dtype)
    network = skeleton(base)
    linear, adapted = _linear_weights(network), _adapted(adapter)
    quantised = getattr(network.config, "quantization_config", None) is not None
    if not adapted or quantised or not {*linear, *adapted} <= shards.names(base):
        return _write_whole(base, adapter, merge_into, dtype, out)
    scale = _scale(adapter)
    rounded = linear if method == "qlora" and merge_into == "dequantized" else set()

    @torch.no_grad()
    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        if name in rounded or name in adapted:
            weight = weight.float()
        if name in rounded:
            weight = _through_nf4(weight)
        # Not in place: a weight in float32 is the base's own file, mapped.
        return weight + _added(adapter, name) * scale if name in adapted else weight

    return shards.rewrite(base, out, change, dtype)


def skeleton(folder: Path) -> PreTrainedModel:
    """The folder's network without its weights: names, shapes and config, in a few MiB."""
    with torch.device("meta"):
        network: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return network


def merged(base: Path, adapter: Path, merge_into: str) -> PreTrainedModel:
    """The trained model in memory, whole and in float32, as PEFT merges it; arguments as for :func:`write_merged`."""
    method = runtime.read_json(adapter / "method.json")["method"]
    if method == "full":
        return models.load(adapter, dtype=torch.float32)
    from peft import PeftModel

    network = models.load(base, dtype=torch.float32)
    if method == "qlora" and merge_into == "dequantized":
        with torch.no_grad():
            for name in _linear_weights(network):
                weight = network.get_parameter(name)
                weight.copy_(_through_nf4(weight.data))
    plain: PreTrainedModel = PeftModel.from_pretrained(network, adapter).merge_and_unload(safe_merge=True)
    return plain


def _write_whole(base: Path, adapter: Path, merge_into: str, dtype: str, out: Path) -> str:
    network = merged(base, adapter, merge_into)
    own = AutoConfig.from_pretrained(base).dtype or torch.float32
    network.to(own if dtype == "auto" else getattr(torch, dtype)).save_pretrained(out)
    return str(network.dtype).removeprefix("torch.")


def _adapted(adapter: Path) -> set[str]:
    """Names of the weights that the adapter adds to; none where it is more than LoRA at one rank and scale."""
    from peft import LoraConfig

    settings, file = LoraConfig.from_pretrained(adapter), adapter / LORA
    # Magnitudes (DoRA), whole layers, biases, transposed weights.
    more = (settings.use_dora, settings.modules_to_save, settings.rank_pattern, settings.alpha_pattern, settings.fan_in_fan_out)
    if any(more) or not file.is_file():
        return set()
    names = shards.specs(file)
    if not all(name.startswith(PREFIX) and name.endswith((A, B)) for name in names):
        return set()
    return {name.removeprefix(PREFIX).removesuffix(A) + ".weight" for name in names if name.endswith(A)}


def _scale(adapter: Path) -> float:
    from peft import LoraConfig

    settings = LoraConfig.from_pretrained(adapter)
    return float(settings.lora_alpha / (settings.r**0.5 if settings.use_rslora else settings.r))


def _added(adapter: Path, name: str) -> torch.Tensor:
    """The product of an adapted weight's two matrices, in float32; to be scaled."""
    layer = PREFIX + name.removesuffix(".weight")
    with safe_open(adapter / LORA, framework="pt") as tensors:
        product: torch.Tensor = tensors.get_tensor(layer + B).float() @ tensors.get_tensor(layer + A).float()
    return product


def _linear_weights(network: PreTrainedModel) -> set[str]:
    """Names of the weights that `qlora` trains against in NF4: those of the linear layers, but for the output's."""
    output = network.get_output_embeddings()
    linear = ((name, module) for name, module in network.named_modules() if isinstance(module, torch.nn.Linear))
    return {f"{name}.weight" for name, module in linear if module is not output}


def _through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """What training saw of a weight in float32: quantised to NF4 with double quantisation, and back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return dequantize_4bit(packed, state)
