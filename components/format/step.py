"""Records to token rows with a loss mask, split into training, validation and test."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calltune import models, runtime, validate
from calltune.errors import ConfigError, DataError
from calltune.records import Record, prompt_of, question_sha256, read_jsonl, sha256, write_jsonl
from calltune.render import Rendered, Renderer, prompt_ids
from calltune.settings import ModelConfig
from calltune.template import Template, with_tool_detail
from calltune.tools import names_of
from components.format.config import FormatConfig
from components.format.contamination import Pair, contaminated
from components.format.rows import Rows
from components.format.shaping import with_shuffled_tools, without_tools
from components.format.split import TEST, TRAIN, VALIDATION, parts_of, stratum, unseen_tools
from components.format.template import chosen

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("prefix_sha256", pa.string()),
    ]
)
PREVIEW_ROWS = 3
SAVED_ROWS = 200
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
            `preview.txt` and `stats.json`.

    Raises:
        DataError: too many rows are quarantined, or no row is left to train on, or none to test with.
        ConfigError: the template does not fit the model.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = list(read_jsonl(records_dir / "records.jsonl"))
    folder = models.fetch(model).path
    tokenizer = models.tokenizer(folder)
    choice = chosen(config, tokenizer, folder)
    runtime.note(f"format.template: {choice.template.name} ({choice.reason})")
    template = with_tool_detail(choice.template, config.tool_detail)
    renderer = Renderer(tokenizer, template)

    rows = Rows(renderer, config)
    for record in runtime.tracked(records, "render", len(records)):
        rows.take(record)
    kept = [record for record in records if record["id"] in rows.rendered]
    write_jsonl(out / "quarantine.jsonl", rows.quarantine)
    _require_few_quarantined(records_dir / "records.jsonl", len(records), rows.quarantine, config, out)
    # By the whole conversations: one that has lost its first turn still belongs to the question that it began with.
    parts = parts_of(kept, config.split)
    repeated = contaminated(kept, parts, config.contamination)
    for pair in repeated:
        message = f"asks what row {kept[pair.held]['id']} of the {parts[pair.held]} part asks: {pair.why}"
        rows.refuse(kept[pair.train], "contaminated", message)
    split = {
        name: [rows.shown[r["id"]] for r, part in zip(kept, parts, strict=True) if part == name and r["id"] in rows.rendered]
        for name in (TRAIN, VALIDATION, TEST)
    }
    unseen = unseen_tools(kept, config.split) if config.split.by == "tool" else set()
    _reshape(split, unseen, rows, config)
    write_jsonl(out / "quarantine.jsonl", rows.quarantine)
    _require_few_contaminated(kept, parts, repeated, config, out)
    _require_rows(split, rows.quarantine)
    rendered, quarantine = rows.rendered, rows.quarantine
    if config.tool_detail != "none":
        _require_tools_in_prompts(split[TRAIN][:LOOKED_AT], rendered, renderer)

    for name in (TRAIN, VALIDATION):
        pq.write_table(_table(split[name], rendered, renderer), out / f"{name}.parquet")
    for name in (VALIDATION, TEST):
        write_jsonl(out / f"{name}.jsonl", split[name])
    training = [row for record in split[TRAIN] for row in rendered[record["id"]]]
    (out / "preview.txt").write_text(_preview(split[TRAIN], rendered, renderer), encoding="utf-8")
    result = Formatted(len(split[TRAIN]), len(split[VALIDATION]), len(split[TEST]), len(quarantine))
    runtime.write_json(
        out / "stats.json",
        {
            **asdict(result),
            "template": choice.template.name,
            "template_reason": choice.reason,
            "chat_template": template.as_json(),
            "stop_ids": renderer.stop_ids,
            "stops": _stops(training, renderer),
            "max_tokens": config.max_tokens,
            "shortened": sum(len(rows.shown[r["id"]]["messages"]) < len(r["messages"]) for r in kept),
            "contaminated": len(repeated),
            "unseen_tools": sorted(unseen),
            "trained_on": sorted({question_sha256(record) for record in split[TRAIN]}),
            "tokens": {
                "rows": [len(row.input_ids) for row in training],
                "supervised": [sum(row.loss_mask) for row in training],
                "prefix": max(renderer.prefix_length(record) for record in split[TRAIN]),
                "saved_by_tool_detail": _saved(split[TRAIN], renderer, choice.template) if config.tool_detail != "full" else 0,
            },
            "strata": {name: dict(Counter(map(stratum, rows)).most_common()) for name, rows in split.items()},
        },
    )
    return result


def _require_tools_in_prompts(records: Sequence[Record], rendered: dict[str, list[Rendered]], renderer: Renderer) -> None:
    """Refuse a template that leaves a tool out, for whatever reason: a model would learn to call what it was never shown.

    Raises:
        ConfigError: the tokens that the model is given do not have the name of each of the row's tools.
    """
    for record in records:
        for row in rendered[record["id"]]:
            given = [token for token, trained in zip(row.input_ids, row.loss_mask, strict=True) if not trained]
            text = renderer.tokenizer.decode(given)
            # A name with a quote or a bracket may be written otherwise.
            missing = [name for name in names_of(record["tools"]) if re.fullmatch(r"[\w.-]+", name) and name not in text]
            if missing:
                raise ConfigError(
                    f"format.template: {renderer.template.name!r} leaves {missing[0]} out of the prompt of row {record['id']}"
                )


def _reshape(split: dict[str, list[Record]], unseen: set[str], rows: Rows, config: FormatConfig) -> None:
    """Render training rows again where the split hides tools from them, or their tools are to be shuffled."""
    before = {name: split[name] for name in (TRAIN, VALIDATION)}
    if unseen:
        for name in before:
            split[name] = [without_tools(record, unseen) for record in split[name]]
    if config.shuffle_tools:
        split[TRAIN] = with_shuffled_tools(split[TRAIN], config.shuffle_tools, config.split.seed)
    for name, records in before.items():
        if split[name] is not records:
            for record in runtime.tracked(split[name], f"render {name} again", len(records)):
                rows.take(record)
            split[name] = [rows.shown[record["id"]] for record in split[name] if record["id"] in rows.rendered]


def _stops(rows: Sequence[Rendered], renderer: Renderer) -> dict[str, int]:
    """How many answers end in which token."""
    ends = Counter(
        ids
        for row in rows
        for ids, on, after in zip(row.input_ids, row.loss_mask, [*row.loss_mask[1:], False], strict=True)
        if on and not after
    )
    return {renderer.tokenizer.decode([token]): count for token, count in ends.most_common()}


def _saved(records: Sequence[Record], renderer: Renderer, whole: Template) -> float:
    """How many prompt tokens a row saves on average by `tool_detail`; from the first rows."""
    saved = [
        len(prompt_ids(renderer.tokenizer, prompt_of(record), record["tools"], whole.text))
        - len(prompt_ids(renderer.tokenizer, prompt_of(record), record["tools"]))
        for record in records[:SAVED_ROWS]
    ]
    return round(sum(saved) / len(saved), 1)


def _require_few_contaminated(
    records: Sequence[Record], parts: Sequence[str], repeated: Sequence[Pair], config: FormatConfig, out: Path
) -> None:
    if not repeated:
        return
    training, most = parts.count(TRAIN), config.contamination.max_share
    pairs = [f"{records[one.train]['id']} and {records[one.held]['id']} ({one.why})" for one in repeated]
    said = (
        f"{len(repeated)} of {training} training rows ({len(repeated) / training:.1%}) ask what the test or the validation asks"
    )
    if len(repeated) > most * training:
        more = f" and {len(pairs) - LISTED} more" if len(pairs) > LISTED else ""
        raise DataError(
            f"format: {said}, format.contamination.max_share allows {most:.1%}: "
            f"{'; '.join(pairs[:LISTED])}{more}; all in {out / 'quarantine.jsonl'}"
        )
    runtime.note(f"format: {said} and were quarantined; first, {pairs[0]}")


def _require_few_quarantined(source: Path, read: int, quarantine: list[dict[str, Any]], config: FormatConfig, out: Path) -> None:
    if not quarantine:
        return
    rules = Counter(entry["rule"] for entry in quarantine)
    first = f"row {quarantine[0]['row']}: {quarantine[0]['message']}"
    validate.require_few_refused(source, read, rules, first, ("format", config.max_quarantined), out / "quarantine.jsonl")
    runtime.note(f"format: {len(quarantine)} of {read} rows quarantined: {validate.commonest(rules)}; first, {first}")


def _require_rows(split: dict[str, list[Record]], quarantine: list[dict[str, Any]]) -> None:
    reasons = validate.commonest(Counter(row["rule"] for row in quarantine))
    because = f" ({len(quarantine)} rows quarantined: {reasons})" if quarantine else ""
    for name, settings in ((TRAIN, "more rows"), (TEST, "more rows, or a larger format.split.test")):
        if not split[name]:
            raise DataError(f"no row is left for {name}{because}: {settings} would be right")


def _table(records: Sequence[Record], rendered: dict[str, list[Rendered]], renderer: Renderer) -> pa.Table:
    rows = []
    for record in records:
        prefix = renderer.prefix_length(record)
        for number, row in enumerate(rendered[record["id"]]):
            rows.append(
                {
                    "id": record["id"] if number == 0 else f"{record['id']}#{number}",
                    "input_ids": row.input_ids,
                    "loss_mask": row.loss_mask,
                    "prefix_sha256": sha256(row.input_ids[:prefix]),
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _preview(records: Sequence[Record], rendered: dict[str, list[Rendered]], renderer: Renderer) -> str:
    """The first rows as the model sees them, the supervised text between ⟦ and ⟧."""
    pages = []
    for record in records[:PREVIEW_ROWS]:
        row = rendered[record["id"]][0]
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
