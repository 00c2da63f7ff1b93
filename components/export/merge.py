"""What was trained, as one plain model: an adapter merged into the weights that it was trained against."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from calltune import models, runtime


def merged(base: Path, adapter: Path, merge_into: str) -> PreTrainedModel:
    """The trained model in float32, without PEFT and without quantisation; for `full` what train saved, as it is.

    Args:
        base: folder of the base model.
        adapter: what train wrote.
        merge_into: for `qlora`, `dequantized` or `original`. An adapter learns to correct the rounded weights that it
            sees; added to the original ones it corrects an error that is not there.
    """
    method = runtime.read_json(adapter / "method.json")["method"]
    if method == "full":
        return models.load(adapter, dtype=torch.float32)
    from peft import PeftModel

    network = models.load(base, dtype=torch.float32)
    if method == "qlora" and merge_into == "dequantized":
        _round_to_nf4(network)
    plain: PreTrainedModel = PeftModel.from_pretrained(network, adapter).merge_and_unload(safe_merge=True)
    return plain


@torch.no_grad()
def _round_to_nf4(network: PreTrainedModel) -> None:
    """Replace each linear weight by what training saw of it: quantised to NF4 with double quantisation, and back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    output = network.get_output_embeddings()
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and module is not output:
            packed, state = quantize_4bit(module.weight.data, compress_statistics=True, quant_type="nf4")
            module.weight.copy_(dequantize_4bit(packed, state))
