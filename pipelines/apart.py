"""Where a command may write: neither over what it reads, nor where a source's folder is read as rows."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from calltune.errors import UserError
from calltune.layouts import is_data, is_hidden
from pipelines.config import RunConfig

_INGESTED = ("records.jsonl", "quarantine.jsonl", "duplicates.jsonl")
WRITES: dict[str, tuple[str, ...]] = {
    "ingest": (*_INGESTED, *(f"{name}.part" for name in _INGESTED), "profile.json", "profile.html", "sources.json"),
    "format": (
        *("train.parquet", "validation.parquet", "validation.jsonl", "test.jsonl", "quarantine.jsonl"),
        *("benchmarks.jsonl", "preview.txt", "stats.json"),
    ),
    "train": ("adapter", "metrics.json", "loss.csv", "inputs.json", "best.safetensors", ".checkpoints", ".trainer"),
    "export": ("model", "model.json", "lora", "gguf"),
    "evaluate": ("metrics.json", "predictions.jsonl", "instructions.jsonl", "execution.jsonl"),
}
"""The files and folders that a step by itself puts into its folder; any other command writes the one file that it is told."""


def require_apart(step: str, out: Path, config: RunConfig, given: Mapping[str, Path]) -> None:
    """Refuse a place for the results where they would take the place of what they come from, or mix with it.

    Args:
        step: the command.
        out: the folder, or the file, that it is to write.
        config: of the run; names sources, tools, base model and the files of suites.
        given: what else the command reads, by the option that names it: ``{"--records": Path("out/records")}``.

    Raises:
        UserError: it would write over something that it reads, into a folder that it reads, or below a source's folder.
    """
    another = f"name another {'folder' if step in WRITES else 'file'}"
    if step in WRITES or is_data(out.name):
        require_outside_sources("--out", out, config)
    written = [out / name for name in WRITES[step]] if step in WRITES else [out]
    for what, place in [*given.items(), *_named(config)]:
        if not os.path.exists(place):
            continue  # the step says so
        if place.is_dir() and _same(out, place):
            raise UserError(f"--out {out}: is also {what}, and what {step} writes would mix with what it reads: {another}")
        for file in written:
            if any(_same(file, one) for one in (place, *place.resolve().parents)):
                raise UserError(f"--out {out}: {step} would write over {file}, which it reads as {what}: {another}")


def require_outside_sources(option: str, out: Path, config: RunConfig) -> None:
    """Refuse a place for results below a folder that is a source: they would be read as rows the next time.

    Args:
        option: that names the place.
        out: the place.
        config: of the run.

    Raises:
        UserError: it is such a folder, or in one, and not below a hidden folder, which is not read.
    """
    place = out.resolve()
    for name, folder in _sources(config):
        top = folder.resolve()
        if folder.is_dir() and place.is_relative_to(top) and not is_hidden(place.relative_to(top)):
            raise UserError(
                f"{option} {out}: {'is' if place == top else 'is in'} {folder}, of which {name} reads every file, so the next "
                "time these results too: name a place outside of it"
            )


def _sources(config: RunConfig) -> Iterator[tuple[str, Path]]:
    for number, part in enumerate(config.ingest.sources):
        if "://" not in part.source:
            yield "ingest.source" if number == 0 else f"ingest.more.{number - 1}.source", Path(part.source)


def _named(config: RunConfig) -> list[tuple[str, Path]]:
    """What the config names on this machine: of a source that is a folder also the files that links in it lead to."""
    found: list[tuple[str, Path]] = []
    for name, path in _sources(config):
        linked = [link for link in path.rglob("*") if link.is_symlink() and link.is_file()] if path.is_dir() else []
        found += [(name, one) for one in (path, *linked)]
    found.append(("model.base", Path(config.model.base)))
    if config.ingest.tools:
        found.append(("ingest.tools", Path(config.ingest.tools)))

    def note(setting: str, place: str) -> str:
        found.append((setting, Path(place)))
        return place

    config.format.with_files(note)
    config.evaluate.with_files(note)
    return found


def _same(one: Path, other: Path) -> bool:
    """Whether both are there and are the same, by whatever names and links they are reached."""
    return os.path.exists(one) and os.path.samefile(one, other)
