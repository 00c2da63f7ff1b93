"""Records to token rows with a loss mask, split into training, validation and test."""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from calltune import input_files, models, runtime, validate
from calltune.errors import ConfigError, DataError
from calltune.in_order import batches, in_order
from calltune.records import Record, prompt_of
from calltune.render import Rendered, Renderer, prompt_ids
from calltune.settings import ModelConfig
from calltune.template import Template, with_tool_detail
from calltune.tools import names_of
from components.format import balance
from components.format.alike import Pair
from components.format.benchmarks import require_unasked
from components.format.config import FormatConfig
from components.format.contamination import Turns, contaminated
from components.format.part import Part
from components.format.rows import Rows
from components.format.shaped import Reader, read, reader, shaped
from components.format.shaping import with_shuffled_tools, without_tools
from components.format.spill import RecordFile, Row, Some
from components.format.split import TEST, TRAIN, VALIDATION, decided, parts_of, unseen_tools
from components.format.template import chosen
from components.format.tool_loss import with_tools

STATS = "stats.json"
PREVIEW_ROWS = 3
BATCH_LINES = 64
HELPED = 10_000
"""Records from which on other processes help: starting one takes as long as a few thousand of them."""
LOOKED_AT = 64
"""Training rows whose prompts must show their tools; all of them are rendered in the same way."""
LISTED = 20
"""Pairs of contaminated rows that an error names; all of them are in the quarantine."""


@dataclass(frozen=True)
class Formatted:
    """How many rows went where."""

    train: int
    validation: int
    test: int
    quarantined: int


def format_rows(records_dir: Path, model: ModelConfig, config: FormatConfig, out: Path) -> Formatted:
    """Render, check, split and write the rows.

    Args:
        records_dir: what ingest wrote; `records.jsonl` in it.
        model: the base model, for its tokenizer.
        config: the step's settings.
        out: gets `train.parquet`, `validation.parquet`, `validation.jsonl`, `test.jsonl`, `quarantine.jsonl`,
            `preview.txt` and `stats.json`; `benchmarks.jsonl` where training rows ask what a benchmark asks.

    Raises:
        DataError: too many rows are quarantined, or no row is left to train on, or none to test with; or a training row asks
            what a benchmark asks.
        ConfigError: the template does not fit the model.
    """
    source = records_dir / "records.jsonl"
    lines = RecordFile(source)  # before anything is said or made: it may not be there
    out.mkdir(parents=True, exist_ok=True)
    (out / STATS).unlink(missing_ok=True)  # the last file: where it is, the others are whole
    folder = models.fetch(model).path
    tokenizer = models.tokenizer(folder)
    choice = chosen(config, tokenizer, folder)
    runtime.note(f"format.template: {choice.template.name} ({choice.reason})")
    template = with_tool_detail(choice.template, config.tool_detail)
    renderer = Renderer(tokenizer, template)

    there = partial(reader, source, folder, template, config)
    with lines as records, Rows(len(records), out / "quarantine.jsonl") as rows, ExitStack() as files:
        light = Path(files.enter_context(TemporaryDirectory())) / "asked.jsonl"
        phrases = _read_all(records, rows, partial(read, path=source, renderer=renderer, config=config), there, light)
        asked = files.enter_context(RecordFile(light))
        kept = Some(asked, filter(rows.has, range(len(records))))
        _require_few_quarantined(source, len(records), rows, config, out)
        # By the whole conversations: one that has lost its first turn still belongs to the question that it began with.
        split = decided(config.split, len(kept))
        if config.split.mode == "auto":
            runtime.note(f"format.split.mode: {split.mode} (auto, of {len(kept)} rows)")
        parts = parts_of(kept, split)
        shortened = {row: rows.shortened[place] for row, place in enumerate(kept.places) if place in rows.shortened}
        repeated = contaminated(kept, parts, config.contamination, phrases, shortened)
        for pair in repeated:
            record, held = records[kept.places[pair.train]], kept[pair.held]
            of_file = "" if held["source"]["uri"] == record["source"]["uri"] else f" ({held['source']['uri']})"
            message = f"asks what row {held['id']}{of_file} of the {parts[pair.held]} part asks: {pair.why}"
            rows.refuse(kept.places[pair.train], record, "contaminated", message)
        _require_few_contaminated(kept, parts, repeated, config, out)
        training = (place for place, of in zip(kept.places, parts, strict=True) if of == TRAIN and rows.has(place))
        benchmarks = require_unasked(Some(records, training), config.with_files(input_files.local).contamination, out)
        unseen = unseen_tools(kept, split) if split.by == "tool" else set()
        written: dict[str, Part] = {}
        for part in (TRAIN, VALIDATION, TEST):
            chosen_rows = (place for place, of in zip(kept.places, parts, strict=True) if of == part and rows.has(place))
            with Part(part, out, phrases) as file:
                for record, rendered in shown(part, chosen_rows, records, rows, renderer, config, unseen):
                    file.add(record, rendered)
            written[part] = file
        _require_rows(written, rows, config)
    train = written[TRAIN]
    if config.tool_detail != "none":
        looked_at = train.first[:LOOKED_AT]
        if config.supervise_tools:  # then they are no longer among what is not trained on
            looked_at = [(record, renderer.rows(record)) for record, _ in looked_at]
        _require_tools_in_prompts(looked_at, renderer)
    lopsided = balance.warnings(train.counted, written[TEST].counted, split, unseen)
    for line in lopsided.values():
        runtime.note(f"format: {line}")
    (out / "preview.txt").write_text(_preview(train.first, renderer), encoding="utf-8")
    result = Formatted(train.records, written[VALIDATION].records, written[TEST].records, rows.rules.total())
    runtime.write_json(
        out / STATS,
        {
            **asdict(result),
            "template": choice.template.name,
            "template_reason": choice.reason,
            "chat_template": template.as_json(),
            "stop_ids": renderer.stop_ids,
            "begins": _by_token(train.begins, tokenizer, [tokenizer.bos_token_id]),
            "stops": _by_token(train.stops, tokenizer, renderer.stop_ids),
            "supervise_tools": config.supervise_tools,
            "max_tokens": config.max_tokens,
            "shortened": len(rows.shortened),
            "contaminated": len(repeated),
            "benchmarks": benchmarks,
            "unseen_tools": sorted(unseen),
            "warnings": lopsided,
            "trained_on": train.trained_on(),
            "tokens": {
                "rows": train.tokens.tolist(),
                "supervised": train.supervised.tolist(),
                "prefix": train.prefix,
                "saved_by_tool_detail": _saved(train.first, renderer, choice.template) if config.tool_detail != "full" else 0,
            },
            "strata": {name: dict(part.strata.most_common()) for name, part in written.items()},
        },
    )
    return result


def _by_token(found: Counter[int], tokenizer: Any, those: Sequence[int | None]) -> dict[str, int]:
    return {tokenizer.decode([token]): count for token, count in found.most_common() if token in those}


def _read_all(records: RecordFile, rows: Rows, here: Reader, there: Callable[[], Reader], asked: Path) -> frozenset[int]:
    """Render all records; returns the phrases of the data.

    Args:
        records: one by one.
        rows: gets what they are rendered to.
        here: renders in this process.
        there: makes what renders in another one.
        asked: the file gets the records without their tools.
    """
    turns, index = Turns(), 0
    alone = 0 if len(records) >= HELPED else len(records)
    progress = runtime.Progress("render", len(records), "rows")
    lines = batches(enumerate(records.lines(), 1), BATCH_LINES)
    with asked.open("wb") as file, closing(in_order(lines, here, there, alone)) as done:
        for _, batch in done:
            for one in batch:
                if one.shaped.refused is not None:
                    rows.refuse(index, records[index], *one.shaped.refused)
                else:
                    rows.keep(index, one.shaped.rows, one.shaped.shown)
                turns.add(one.turns)
                file.write(one.asked)
                index += 1
            progress.update(index)
    return turns.phrases()


def _require_tools_in_prompts(shown_rows: Sequence[tuple[Record, list[Rendered]]], renderer: Renderer) -> None:
    """Refuse a template that leaves a tool out, for whatever reason: a model would learn to call what it was never shown.

    Raises:
        ConfigError: the tokens that the model is given do not have the name of each of the row's tools.
    """
    for record, rendered in shown_rows:
        for row in rendered:
            given = [token for token, trained in zip(row.input_ids, row.loss_mask, strict=True) if not trained]
            text = renderer.tokenizer.decode(given)
            # A name with a quote or a bracket may be written otherwise.
            missing = [name for name in names_of(record["tools"]) if re.fullmatch(r"[\w.-]+", name) and name not in text]
            if missing:
                raise ConfigError(
                    f"format.template: {renderer.template.name!r} leaves {missing[0]} out of the prompt of row {record['id']}"
                )


def shown(
    part: str,
    places: Iterable[int],
    records: Sequence[Record],
    rows: Rows,
    renderer: Renderer,
    config: FormatConfig,
    unseen: Collection[str],
) -> Iterator[tuple[Record, list[Row]]]:
    """Yield the records of a part as they are shown, with what they are rendered to.

    They are rendered again where the split hides tools from them, or their tools are shuffled, and may be refused then.
    """
    hides, shuffles = bool(unseen) and part != TEST, bool(config.shuffle_tools) and part == TRAIN
    chosen_places = array("q", places)
    found: Iterator[Record] = (rows.shown(place, records[place]) for place in chosen_places)
    if hides:
        found = (without_tools(record, unseen) for record in found)
    if shuffles:
        found = with_shuffled_tools(found, config.shuffle_tools, config.split.seed)
    for place, record in zip(chosen_places, runtime.tracked(found, f"write {part}", len(chosen_places)), strict=True):
        if hides or shuffles:
            again = shaped(record, renderer, config)
            if again.refused is not None:
                rows.refuse(place, record, *again.refused)
            else:
                rows.keep(place, again.rows, again.shown or (record if place in rows.shortened else None))
        if rows.has(place):
            seen, rendered = rows.shown(place, record), rows.of(place)
            if config.supervise_tools and part == TRAIN:
                rendered = with_tools(renderer.tokenizer, seen, rendered)
            yield seen, rendered


def _saved(rows: Sequence[tuple[Record, list[Rendered]]], renderer: Renderer, whole: Template) -> float:
    """How many prompt tokens a row saves on average by `tool_detail`; from the first rows."""
    saved = [
        len(prompt_ids(renderer.tokenizer, prompt_of(record), record["tools"], whole.text))
        - len(prompt_ids(renderer.tokenizer, prompt_of(record), record["tools"]))
        for record, _ in rows
    ]
    return round(sum(saved) / len(saved), 1)


def _require_few_contaminated(
    records: Sequence[Record], parts: Sequence[str], repeated: Sequence[Pair], config: FormatConfig, out: Path
) -> None:
    if not repeated:
        return
    training, most = parts.count(TRAIN), config.contamination.max_share
    pairs = [f"{records[one.train]['id']} and {records[one.held]['id']} ({one.why})" for one in repeated[:LISTED]]
    said = (
        f"{len(repeated)} of {training} training rows ({len(repeated) / training:.1%}) ask what the test or the validation asks"
    )
    if len(repeated) > most * training:
        more = f" and {len(repeated) - LISTED} more" if len(repeated) > LISTED else ""
        raise DataError(
            f"format: {said}, format.contamination.max_share allows {most:.1%}: "
            f"{'; '.join(pairs)}{more}; all in {out / 'quarantine.jsonl'}"
        )
    runtime.note(f"format: {said} and were quarantined; first, {pairs[0]}")


def _require_few_quarantined(source: Path, read: int, rows: Rows, config: FormatConfig, out: Path) -> None:
    if not rows.rules:
        return
    limit = ("format", config.max_quarantined)
    validate.require_few_refused(source, read, rows.rules, rows.first, limit, out / "quarantine.jsonl")
    runtime.note(
        f"format: {rows.rules.total()} of {read} rows quarantined: {validate.commonest(rows.rules)}; first, {rows.first}"
    )


def _require_rows(written: dict[str, Part], rows: Rows, config: FormatConfig) -> None:
    because = f" ({rows.rules.total()} rows quarantined: {validate.commonest(rows.rules)})" if rows.rules else ""
    more = "more rows"
    if rows.rules["contaminated"]:
        limits = f"format.contamination.similarity ({config.contamination.similarity:g}) or shared_words"
        more = f"more rows that ask nearly what the held-out ones ask do not help; others, or a higher {limits}"
    for name, settings in ((TRAIN, more), (TEST, "more rows, or a larger format.split.test")):
        if not written[name].records:
            raise DataError(f"no row is left for {name}{because}: {settings} would be right")


def _preview(rows: Sequence[tuple[Record, list[Rendered]]], renderer: Renderer) -> str:
    """The first rows as the model sees them, the supervised text between ⟦ and ⟧."""
    pages = []
    for record, rendered in rows[:PREVIEW_ROWS]:
        row = rendered[0]
        page, inside = [f"── row {record['id']}: {len(row.input_ids)} tokens, {sum(row.loss_mask)} supervised\n"], False
        start = 0
        for position in range(len(row.input_ids) + 1):
            now = position < len(row.input_ids) and row.loss_mask[position]
            if position == len(row.input_ids) or now != inside:
                text = renderer.tokenizer.decode(row.input_ids[start:position])
                page.append(f"⟦{text}⟧" if inside else text)
                start, inside = position, now
        pages.append("".join(page))
    return "\n".join(pages)
