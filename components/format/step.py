"""Records to token rows with a loss mask, split into training, validation and test."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calltune import models, runtime, validate
from calltune.errors import DataError
from calltune.records import Record, canonical, read_jsonl, sha256, user_text, write_jsonl
from calltune.render import NotRepresentable, Rendered, Renderer
from calltune.settings import ModelConfig
from components.format.config import FormatConfig
from components.format.split import TEST, TRAIN, VALIDATION, parts_of, stratum
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
    renderer = Renderer(tokenizer, choice.template)

    rendered: dict[str, list[Rendered]] = {}
    quarantine: list[dict[str, Any]] = []
    for record in runtime.tracked(records, "render", len(records)):
        try:
            rendered[record["id"]] = _checked(record, renderer, config.max_tokens)
        except _Refused as refusal:
            source = record["source"]
            entry = {"source": source["uri"], "row": source["row"], "rule": refusal.rule, "message": str(refusal)}
            quarantine.append({**entry, "raw": canonical(record)})
    kept = [record for record in records if record["id"] in rendered]
    write_jsonl(out / "quarantine.jsonl", quarantine)
    _require_few_quarantined(records_dir / "records.jsonl", len(records), quarantine, config, out)
    parts = parts_of(kept, config.split)
    split = {name: [r for r, part in zip(kept, parts, strict=True) if part == name] for name in (TRAIN, VALIDATION, TEST)}
    _require_rows(split, quarantine)

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
            "chat_template": choice.template.as_json(),
            "stop_ids": renderer.stop_ids,
            "max_tokens": config.max_tokens,
            "tokens": {
                "rows": [len(row.input_ids) for row in training],
                "supervised": [sum(row.loss_mask) for row in training],
                "prefix": max(renderer.prefix_length(record) for record in split[TRAIN]),
            },
            "strata": {name: dict(Counter(map(stratum, rows)).most_common()) for name, rows in split.items()},
        },
    )
    return result


class _Refused(Exception):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def _checked(record: Record, renderer: Renderer, max_tokens: int) -> list[Rendered]:
    texts = [user_text(record), *(m[key] for m in record["messages"] for key in ("content", "reasoning_content") if m.get(key))]
    for token in renderer.special_tokens:
        if any(token in text for text in texts):
            raise _Refused("special_token", f"the text contains {token!r}, which the model reads as a control token")
    try:
        rows = renderer.rows(record)
    except NotRepresentable as error:
        raise _Refused("not_representable", str(error)) from None
    for row in rows:
        if len(row.input_ids) > max_tokens:
            raise _Refused("too_long", f"{len(row.input_ids)} tokens, format.max_tokens is {max_tokens}")
    return rows


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
