"""The trained weights as a model folder that plain transformers and vLLM load, checked, and put into the store."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from calltune import models, runtime, storage
from calltune.render import Renderer
from calltune.settings import ModelConfig
from calltune.template import template_in
from components.export import card, gguf_check, gguf_model, serving
from components.export.adapter import write_adapter
from components.export.config import ExportConfig
from components.export.merge import skeleton, write_merged
from components.export.verify import verify
from components.export.workplace import workplace


@dataclass(frozen=True)
class Exported:
    """The small `model.json` that later steps get instead of the weights.

    Attributes:
        uri: where the folder is in the store.
        digest: SHA-256 over the folder's files.
        files: SHA-256 of each file.
        adapter: where the adapter by itself is in the store; None where the whole model was trained.
        gguf: where the GGUF file is in the store; None where none was asked for.
        template: the chat template's name.
        syntax: how it writes calls.
        dtype: of the weights.
        top1_agreement: share of the supervised positions at which the exported model predicts what the trained one does.
        kl: mean Kullback-Leibler divergence from the trained model's predictions, in nats per supervised position.
    """

    uri: str
    digest: str
    files: dict[str, str]
    adapter: str | None
    gguf: str | None
    template: str
    syntax: str
    dtype: str
    top1_agreement: float
    kl: float


def export(adapter: Path, dataset: Path, model: ModelConfig, config: ExportConfig, out: Path) -> Exported:
    """Merge, write, verify and upload.

    Args:
        adapter: what train wrote.
        dataset: what format wrote: its template goes along, its validation rows verify.
        model: the base model.
        config: the step's settings.
        out: gets `model.json`; the folder itself goes to the store, and stays in the local model cache.

    Raises:
        ConfigError: a GGUF file is asked for of a model that llama.cpp would compute otherwise.
        ExportError: the exported folder does not predict what the trained model does, or the GGUF file is not that model.
    """
    base = models.fetch(model).path
    if config.gguf != "none":
        gguf_model.require_convertible(base)
    stats = runtime.read_json(dataset / "stats.json")
    template = template_in(stats)
    is_adapter = (adapter / "adapter_config.json").exists()
    with workplace() as work:
        with runtime.phase("merge and write"):
            dtype = write_merged(base, adapter, config.merge_into, config.dtype, work)
            tokenizer = models.tokenizer(base)
            _finish(base if is_adapter else adapter, Renderer(tokenizer, template), dtype, work)
            tokenizer.save_pretrained(work)
            runtime.write_json(work / models.SERVING, {"template": template.name, "syntax": template.syntax})
            seen = _trained_on(base, adapter, stats)
            if seen is not None:
                runtime.write_json(work / models.TRAINED_ON, seen)
        agreement = verify(work, base, adapter, dataset, template, config.merge_into)
        serve = serving.write_serving(template, dtype, work)
        card.write_card(model, base, adapter, dataset, template, config, agreement, serve, work)
        card.write_mlmodel(tokenizer, dtype, work)
        files = models.checksums(work)
        digest = models.digest(files)
        store = storage.of_run()
        runtime.write_json(work / models.MANIFEST, files)
        # The manifest last, here and below: with it, the folder is whole.
        for name in runtime.tracked([*files, models.MANIFEST], "upload model", len(files) + 1, "files"):
            store.upload(work / name, f"models/{digest}/{name}")
        alone = None
        if is_adapter:
            alone = f"{store.uri}/adapters/{digest}"
            own = work.with_name("adapter")
            for name in (*write_adapter(adapter, model, work, own), models.MANIFEST):
                store.upload(own / name, f"adapters/{digest}/{name}")
            models.keep(own, models.cache_dir() / "adapters" / digest)
        single = None
        if config.gguf != "none":
            place = f"gguf/{digest}/{config.gguf}"
            single = f"{store.uri}/{place}/{gguf_model.FILE}"
            own = work.with_name("gguf")
            for name in (*_write_gguf(work, config.gguf, own), models.MANIFEST):
                store.upload(own / name, f"{place}/{name}")
            models.keep(own, models.cache_dir() / place)
        models.keep(work, models.cache_dir() / "models" / digest)
    result = Exported(
        uri=f"{store.uri}/models/{digest}",
        digest=digest,
        files=files,
        adapter=alone,
        gguf=single,
        template=template.name,
        syntax=template.syntax,
        dtype=dtype,
        top1_agreement=agreement.top1,
        kl=agreement.kl,
    )
    runtime.write_json(out, asdict(result))
    return result


def _write_gguf(model: Path, kind: str, out: Path) -> dict[str, str]:
    """The model as one file in a folder of its own, so that the model's digest does not depend on it; returns its checksum."""
    out.mkdir()
    file = out / gguf_model.FILE
    with runtime.phase("write GGUF"):
        gguf_model.write(model, kind, file)
    with runtime.phase("verify GGUF"):
        apart = gguf_check.verify(model, kind, file)
    runtime.note(f"GGUF, {kind}: {file.stat().st_size / 2**20:.0f} MiB, no value off by more than {apart:.1e}")
    files = models.checksums(out)
    runtime.write_json(out / models.MANIFEST, files)
    return files


def _trained_on(base: Path, adapter: Path, stats: dict[str, Any]) -> list[str] | None:
    """The questions that the model has seen: this run's, and those of the exported base or the champion that it goes on from.

    None where one of these does not say what it had seen: a list that leaves them out would have the gate believe in it.
    """
    before: list[list[str] | None] = []
    if (adapter / models.TRAINED_BEFORE).is_file():
        before.append(runtime.read_json(adapter / models.TRAINED_BEFORE))
    if (base / models.TRAINED_ON).is_file():
        before.append(runtime.read_json(base / models.TRAINED_ON))
    elif (base / models.SERVING).is_file():
        before.append(None)
    known = [seen for seen in before if seen is not None]
    return sorted({*stats["trained_on"]}.union(*known)) if len(known) == len(before) else None


def _finish(source: Path, renderer: Renderer, dtype: str, out: Path) -> None:
    """Write the model's config and generation config: the stop tokens of the template that it was trained with, and greedy.

    The base's own generation config does not go along: it was evaluated without a penalty for repetition, and transformers
    saves nothing that is for sampling beside `do_sample: false`.
    """
    network = skeleton(source)
    config, tokenizer = network.config, renderer.tokenizer
    stops, bos, pad = renderer.stop_ids, tokenizer.bos_token_id, tokenizer.pad_token_id
    generation = GenerationConfig(do_sample=False, eos_token_id=stops, bos_token_id=bos, pad_token_id=pad)
    config.eos_token_id = renderer.stop_ids[0]
    config.architectures, config.dtype = [type(network).__name__], dtype
    config.save_pretrained(out)
    generation.save_pretrained(out)
