"""A source of any known dialect to records, with nothing bad let in and nothing lost."""

import errno
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from calltune import runtime, tools, validate
from calltune.errors import DataError
from calltune.in_order import batches, in_order
from calltune.records import Tool
from calltune.written_calls import written_calls_note
from components.ingest.config import IngestConfig, SourceConfig
from components.ingest.jsontext import RawRow
from components.ingest.page import render
from components.ingest.prepared import Batch, Prepared, preparer
from components.ingest.privacy import Privacy
from components.ingest.profile import Profile
from components.ingest.reading import dialect_of, first_rows, parsed, taken
from components.ingest.seen import Seen
from components.ingest.sensitive import masked
from components.ingest.source import Source
from components.ingest.sources import find

WRITTEN = ("records", "quarantine", "duplicates")
MESSAGE_LETTERS = 500
BATCH_ROWS = 64
ALONE = 30
"""Batches that are read before other processes help: starting one takes as long as 2,000 rows or more."""


@dataclass(frozen=True)
class Ingested:
    """What became of the rows: ``read == kept + quarantined + duplicates``.

    Attributes:
        left_out: further rows of the sources, which a weight leaves out.
        fingerprint: SHA-256 of the usable rows' content, whatever their order.
        dialect: how the rows were laid out.
    """

    read: int
    kept: int
    quarantined: int
    duplicates: int
    left_out: int
    fingerprint: str
    dialect: str


def ingest(config: IngestConfig, out: Path, page: Path | None = None) -> Ingested:
    """Read, validate and deduplicate a source.

    Args:
        config: the step's settings.
        out: gets `records.jsonl`, `quarantine.jsonl`, `duplicates.jsonl` (each with the row that it repeats), `profile.json` and
            `sources.json` (what was read). When too few rows can be used, all but `records.jsonl`; one from before goes, too.
        page: gets the profile as HTML; without it `profile.html` in `out` does.

    Raises:
        DataError: the source or the tools file cannot be read, no row or too few can be used, or the disk is full.
    """
    given = tools.load(config.tools) if config.tools else []
    sources = [find(part.source, config.tools) for part in config.sources]  # all of them, before hours are spent on the first
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_room(out, error) from None
    with ExitStack() as open_files:
        files = {name: open_files.enter_context(_Lines(out / f"{name}.jsonl")) for name in WRITTEN}
        seen = open_files.enter_context(Seen(config.near_duplicates))
        intake = _Intake(config, files, seen, given)
        found = [_take_all(part, source, intake) for part, source in zip(config.sources, sources, strict=True)]
        dialects = ", ".join(dict.fromkeys(one["dialect"] for one in found))
        counts = (intake.read, intake.kept, intake.rules.total(), intake.duplicates, sum(one["left_out"] for one in found))
        result = Ingested(*counts, seen.fingerprint(), dialects)
    unusable = _why_unusable(config, result, intake, out / "quarantine.jsonl")
    if unusable is not None:
        (out / "records.jsonl").unlink()  # or the next step would take it for a result
    profile = {**vars(result), "dialect_reason": found[0]["dialect_reason"], "sources": found, **intake.as_json()}
    try:
        runtime.write_json(
            out / "sources.json", {"uri": _names(config), "parts": [part for source in sources for part in source.recorded()]}
        )
        runtime.write_json(out / "profile.json", profile)
        runtime.write_text(page or out / "profile.html", render(config, profile))
    except OSError as error:
        raise _no_room(out / "profile.json", error) from None
    for name, rows_with in intake.privacy.rows.items():
        if rows_with:
            kinds = ", ".join(f"{kind} in {count} rows" for kind, count in rows_with.most_common())
            runtime.note(f"ingest.{name}: {kinds} ({intake.privacy.modes[name]})")
    for remark in intake.remarks():
        runtime.note(f"ingest.dialect: {remark}")
    if unusable is not None:
        raise unusable
    return result


def _take_all(part: SourceConfig, source: Source, intake: "_Intake") -> dict[str, Any]:
    """Take a source's rows; returns what became of them."""
    before = (intake.read, intake.kept)
    followed = _Followed(source)
    rows = taken(followed, part.weight)
    sample = first_rows(parsed(rows))
    dialect, why = dialect_of(part, sample)
    runtime.note(f"ingest.dialect: {f'{part.source}: ' if intake.several else ''}{dialect} ({why})")
    there = partial(preparer, intake.config, dialect, intake.given)
    all_rows = batches(chain((raw for raw, _ in sample), rows), BATCH_ROWS)
    with closing(in_order(all_rows, there(), there, ALONE)) as done:
        for batch, prepared in done:
            intake.take(batch, prepared)
    read = intake.read - before[0]
    counts = {"read": read, "left_out": followed.rows - read, "kept": intake.kept - before[1]}
    if part.weight < 1:
        runtime.note(f"ingest.weight: {part.source}: {read} of its {followed.rows} rows are taken ({part.weight:g})")
    return {"source": part.source, "weight": part.weight, "dialect": dialect, "dialect_reason": why, **counts}


class _Followed:
    """The rows of a source, with their progress; `rows` counts them, also those that a weight leaves out."""

    def __init__(self, source: Source) -> None:
        self.source, self.rows = source, 0

    def __iter__(self) -> Iterator[RawRow]:
        source = self.source
        progress = runtime.Progress("ingest", source.total, source.unit)
        for raw in source.rows():
            self.rows += 1
            yield raw
            progress.update(min(raw.done, source.total - 1), f"{self.rows} rows")  # a small file is read before its first row is
        progress.update(source.total)


def _names(config: IngestConfig) -> str:
    return ", ".join(part.source for part in config.sources)


class _Lines:
    """A JSON lines file, there only once it is whole; says which file it was that the disk had no room for."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        try:
            self.file = self.part.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise _no_room(path, error) from None

    def write(self, line: str) -> None:
        try:
            self.file.write(line + "\n")
        except OSError as error:
            raise _no_room(self.path, error) from None

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.file.close()
            if kind is None:
                self.part.replace(self.path)
        except OSError as error:
            if kind is None:  # else the first failure is the one to tell
                raise _no_room(self.path, error) from None
        finally:
            self.part.unlink(missing_ok=True)


def _no_room(path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: no room left on this disk; free some, or write to another one")
    return DataError(f"{path}: cannot be written: {error.strerror}")


class _Intake:
    """Takes rows one by one and counts what becomes of them."""

    def __init__(self, config: IngestConfig, files: dict[str, "_Lines"], seen: Seen, given: list[Tool]) -> None:
        self.config, self.files, self.seen, self.given = config, files, seen, given
        self.several = len(config.sources) > 1
        self.source = "" if self.several else config.source
        self.read = self.kept = self.duplicates = 0
        self.rules: Counter[str] = Counter()
        self.first_refusal = ""
        self.first_written = ("", "")
        self.written = 0
        self.privacy, self.profile = Privacy(config), Profile()

    def take(self, raws: list[RawRow], batch: Batch) -> None:
        """Keep each row, or count it as a duplicate, or quarantine it."""
        for name, rows_with in batch.sensitive.items():
            self.privacy.rows[name].update(rows_with)
        for raw, row in zip(raws, batch.rows, strict=True):
            self.read += 1
            if isinstance(row, Prepared):
                self.take_usable(raw, row)
            else:
                self.refuse(raw, *row)

    def take_usable(self, raw: RawRow, row: Prepared) -> None:
        """Keep the row, unless one before it is the same, or answers the same question differently."""
        repeat = self.seen.repeated(row.traits, raw.uri, raw.row)
        if repeat is None:
            self.keep(raw, row)
        elif repeat.conflicting:
            of = "" if repeat.uri == raw.uri else f" of {repeat.uri}"
            message = f"the same question is answered differently in row {repeat.row}{of}, which is kept"
            self.refuse(raw, "conflicting_answer", message)
        else:
            self.duplicates += 1
            entry = {"source": raw.uri, "row": raw.row, "repeats": {"source": repeat.uri, "row": repeat.row}, "why": repeat.why}
            self.files["duplicates"].write(json.dumps(entry, ensure_ascii=False))

    def keep(self, raw: RawRow, row: Prepared) -> None:
        """Write a record down under an id that no row before had: the row's own, else its number, else that with its file."""
        choices = [*([] if row.own_id is None else [row.own_id]), str(raw.row), f"{raw.uri}:{raw.row}"]
        name = self.seen.new_name(choices, f"{raw.uri}:{raw.row}#{self.read}")
        head = json.dumps({"id": name}, ensure_ascii=False)
        self.files["records"].write(f"{head[:-1]}, {row.record[1:-1]}, {row.source[1:]}")
        self.kept += 1
        self.profile.add(row.counts)
        if row.written:
            self.written += 1
            if self.written == 1:
                self.first_written = raw.place(self.source), masked(row.written)

    def refuse(self, raw: RawRow, rule: str, message: str) -> None:
        """Put a row into quarantine, whole."""
        # A message may quote half a surrogate pair out of a JSON escape, which no UTF-8 file can hold; and a key.
        text = masked(message)[:MESSAGE_LETTERS].encode("utf-8", "backslashreplace").decode()
        self.rules[rule] += 1
        self.first_refusal = self.first_refusal or f"{raw.place(self.source)}: {text}"
        self.profile.refused(rule, f"{raw.uri}, row {raw.row}: {text}")
        entry = {"source": raw.uri, "row": raw.row, "rule": rule, "message": text, "raw": self.privacy.shown_row(raw.text)}
        self.files["quarantine"].write(json.dumps(entry, ensure_ascii=False))

    def remarks(self) -> list[str]:
        """What may be wrong with rows that are kept, a sentence each."""
        if self.written:
            return [written_calls_note(self.written, f"{self.kept} kept rows", *self.first_written)]
        if self.profile.calls and not self.profile.calls.total():
            return ["the rows have tools, and none of them calls one: only answers without a call are learnt"]
        return []

    def as_json(self) -> dict[str, Any]:
        """What the rows hold, for the reports."""
        return {
            "rules": dict(self.rules.most_common()),
            "near_duplicates": self.seen.near,
            **{name: dict(rows.most_common()) for name, rows in self.privacy.rows.items()},
            **self.profile.as_json(),
        }


def _why_unusable(config: IngestConfig, result: Ingested, intake: _Intake, quarantine: Path) -> DataError | None:
    """Why there is nothing to go on with: no row, none that can be used, or too few."""
    if result.read == 0 and result.left_out:
        return DataError(f"{_names(config)}: none of {result.left_out} rows is taken: a larger ingest.weight would be right")
    if result.read == 0:
        return DataError(f"{_names(config)}: has no rows; at least one is needed")
    if result.kept == 0:
        return DataError(
            f"{_names(config)}: none of {result.read} rows can be used ({validate.commonest(intake.rules)}); "
            f"first, {intake.first_refusal}; all in {quarantine}"
        )
    limit = ("ingest", config.max_quarantined)
    try:
        validate.require_few_refused(_names(config), result.read, intake.rules, intake.first_refusal, limit, quarantine)
    except DataError as error:
        return error
    return None
