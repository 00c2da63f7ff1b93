"""The adapter by itself, with all that it takes to ask it: which base it is for, the tokenizer, template and stop tokens."""

import shutil
from pathlib import Path

from calltune import models, runtime
from calltune.settings import ModelConfig
from components.export.merge import LORA

CONFIG = "adapter_config.json"


def write_adapter(adapter: Path, model: ModelConfig, exported: Path, out: Path) -> dict[str, str]:
    """Make a folder that `calltune call --adapter`, PEFT, and vLLM's `--lora-modules` take.

    Args:
        adapter: what train wrote.
        model: the base model as the config names it; what a user of the adapter needs to fetch it by.
        exported: the merged model's folder, which has tokenizer, template, stop tokens, and what it was trained on.
        out: the folder to make.

    Returns:
        the checksums of its files.
    """
    out.mkdir(parents=True)
    for name in (LORA, "method.json"):
        shutil.copyfile(adapter / name, out / name)
    # train has written the base's place on its own machine
    settings = {"base_model_name_or_path": model.base, "revision": model.revision or None}
    runtime.write_json(out / CONFIG, {**runtime.read_json(adapter / CONFIG), **settings})
    models.tokenizer(exported).save_pretrained(out)
    shutil.copyfile(exported / "generation_config.json", out / "generation_config.json")
    if (exported / models.TRAINED_ON).is_file():
        # Who goes on from this adapter takes over what it has seen.
        shutil.copyfile(exported / models.TRAINED_ON, out / models.TRAINED_ON)
    serving = runtime.read_json(exported / models.SERVING)
    method = runtime.read_json(adapter / "method.json")["method"]
    runtime.write_json(out / models.SERVING, {**serving, "base": model.base, "revision": model.revision, "method": method})
    files = models.checksums(out)
    runtime.write_json(out / models.MANIFEST, files)
    return files
