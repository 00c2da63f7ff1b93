"""What the exported folder says of itself: the model card `README.md`, and `MLmodel`, by which MLflow loads it.

Nothing here depends on when or where the export ran: the same weights from the same data are the same folder, by its digest.
"""

import math
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedTokenizerBase

from calltune import runtime
from calltune.records import read_jsonl
from calltune.render import Template
from calltune.settings import ModelConfig
from components.export import serving
from components.export.config import ExportConfig
from components.export.verify import Agreement

UNKNOWN = "not stated"
LICENSES = {"bundled:smollm2-135m": "apache-2.0"}
COMPONENTS = "components"
"""The folder in which MLflow looks for a tokenizer."""


def write_card(
    model: ModelConfig,
    base: Path,
    adapter: Path,
    dataset: Path,
    template: Template,
    config: ExportConfig,
    agreement: Agreement,
    serve: dict[str, Any],
    out: Path,
) -> None:
    """Write `README.md`.

    Args:
        model: the base model as the config names it.
        base: its folder, whose own card may state its licence.
        adapter: what train wrote.
        dataset: what format wrote.
        template: that training used.
        config: the step's settings.
        agreement: what verification found.
        serve: vLLM's arguments.
        out: the exported folder.
    """
    known = base_license(model, base, config)
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tool-calling"]}
    if known != UNKNOWN:
        front["license"] = known
    if model.revision:  # on the Hub
        front["base_model"] = model.base
    text = serving.TEMPLATES.get_template("README.md.jinja").render(
        front=yaml.safe_dump(front),
        base=_named(model.base),
        revision=model.revision,
        method=_method(adapter),
        merged=(adapter / "adapter_config.json").exists(),
        template=template,
        dtype=serve["dtype"],
        source=_source(dataset),
        stats=runtime.read_json(dataset / "stats.json"),
        agreement=agreement,
        top1=f"{math.floor(agreement.top1 * 1000) / 10:.1f} %",
        kl=_rounded_up(agreement.kl),
        base_license=known,
        data_license=config.data_license or UNKNOWN,
        vllm=serving.VLLM,
        command=serving.command(serve),
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def write_mlmodel(tokenizer: PreTrainedTokenizerBase, dtype: str, out: Path) -> None:
    """Write `MLmodel`, so that `mlflow.transformers.load_model` takes the folder as it is.

    MLflow reads the weights where they are; of the tokenizer it wants a copy in `components/tokenizer`.
    """
    tokenizer.save_pretrained(out / COMPONENTS / "tokenizer")
    config = AutoConfig.from_pretrained(out)
    flavor = {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": config.architectures[0],
        "model_binary": ".",
        "torch_dtype": f"torch.{dtype}",
        "components": ["tokenizer"],
        # Not the class that it happens to be: MLflow trusts remote code for one that transformers does not have.
        "tokenizer_type": "AutoTokenizer",
        "transformers_version": config.transformers_version,
    }
    (out / "MLmodel").write_text(yaml.safe_dump({"flavors": {"transformers": flavor}}), encoding="utf-8")


def base_license(model: ModelConfig, base: Path, config: ExportConfig) -> str:
    """The base model's licence: as the config says, or else as the model's own card does."""
    card = base / "README.md"
    if config.base_license:
        return config.base_license
    if model.base in LICENSES:
        return LICENSES[model.base]
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2) if card.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return UNKNOWN
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return UNKNOWN
    return str(front["license"]) if isinstance(front, dict) and front.get("license") else UNKNOWN


def _method(adapter: Path) -> str:
    method = str(runtime.read_json(adapter / "method.json")["method"])
    if method == "full":
        return "every weight trained"
    settings = runtime.read_json(adapter / "adapter_config.json")
    return f"{method}, rank {settings['r']}, alpha {settings['lora_alpha']}"


def _source(dataset: Path) -> str:
    """What the data is called: of a local path the last name alone, which is the same on every machine."""
    test = dataset / "test.jsonl"
    first = next(iter(read_jsonl(test)), None) if test.is_file() else None
    return f"`{_named(first['source']['uri'])}`" if first and first.get("source") else UNKNOWN


def _named(reference: str) -> str:
    return reference if "://" in reference or not Path(reference).is_absolute() else Path(reference).name


def _rounded_up(kl: float) -> str:
    """The next power of ten: the last digits of a sum depend on how many threads made it."""
    return f"at most {10.0 ** math.ceil(math.log10(kl)):.0e}" if kl > 0 else "0"
