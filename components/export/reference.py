"""What was trained, as training had it: what an export is held against."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from calltune import models, runtime


def as_trained(base: Path, adapter: Path) -> PreTrainedModel:
    """The trained model with nothing merged, in float32 arithmetic.

    An adapter stands beside the weights that it was trained on, for `qlora` the NF4 ones as bitsandbytes computes with
    them. Nothing here goes through merge.py, so that a mistake there shows. For `full` there is nothing to merge: this is
    the model that train saved, already rounded to bfloat16, which is also what merge.py takes.

    Args:
        base: folder of the base model.
        adapter: what train wrote.
    """
    method = runtime.read_json(adapter / "method.json")["method"]
    if method == "full":
        return models.load(adapter, dtype=torch.float32)
    from peft import PeftModel

    network = models.load_nf4(base, compute_dtype=torch.float32) if method == "qlora" else models.load(base, dtype=torch.float32)
    unmerged: PreTrainedModel = PeftModel.from_pretrained(network, adapter).eval()
    return unmerged
