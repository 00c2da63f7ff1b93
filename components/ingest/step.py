"""A source of any known dialect to records, with nothing bad let in and nothing lost."""

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from calltune import drift, runtime, tools, validate
from calltune.dialects.reading import RowError
from calltune.errors import DataError
from calltune.records import Record, Tool, calls_of, canonical, content_sha256
from components.ingest.config import IngestConfig
from components.ingest.jsontext import RawRow
from components.ingest.reading import Parsed, dialect_of, first_rows, parsed, record_of
from components.ingest.sources import Source, find

MESSAGE_LETTERS = 500
ID_LETTERS = 200


@dataclass(frozen=True)
class Ingested:
    """What became of the rows: ``read == kept + quarantined + duplicates``.

    Attributes:
        fingerprint: SHA-256 of the usable rows' content, whatever their order.
        dialect: how the rows were laid out.
    """

    read: int
    kept: int
    quarantined: int
    duplicates: int
    fingerprint: str
    dialect: str


def ingest(config: IngestConfig, out: Path) -> Ingested:
    """Read, validate and deduplicate a source.

    Args:
        config: the step's settings.
        out: gets `records.jsonl`, `quarantine.jsonl`, `profile.json` and `sources.json` (what was read), also when the run
            fails for what is in them.

    Raises:
        DataError: the source or the tools file cannot be read, no row or too few can be used, or the disk is full.
    """
    given = tools.load(config.tools) if config.tools else []
    source = find(config.source)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_room(out, error) from None
    with _Lines(out / "records.jsonl") as records, _Lines(out / "quarantine.jsonl") as quarantine:
        intake = _Intake(records, quarantine, given)
        rows = parsed(_followed(source))
        sample = first_rows(rows)
        dialect, why = dialect_of(config, sample)
        runtime.note(f"ingest.dialect: {dialect} ({why})")
        for raw, row in chain(sample, rows):
            intake.take(raw, row, dialect)
    result = Ingested(intake.read, intake.kept, intake.rules.total(), intake.duplicates, intake.fingerprint(), dialect)
    try:
        runtime.write_json(out / "sources.json", {"uri": config.source, "parts": source.recorded()})
        runtime.write_json(out / "profile.json", {**vars(result), "dialect_reason": why, **intake.profile()})
    except OSError as error:
        raise _no_room(out / "profile.json", error) from None
    _require_usable(config, result, intake, out / "quarantine.jsonl")
    return result


def _followed(source: Source) -> Iterator[RawRow]:
    progress = runtime.Progress("ingest", source.total, source.unit)
    for read, raw in enumerate(source.rows(), 1):
        yield raw
        progress.update(raw.done, f"{read} rows")
    progress.update(source.total)


class _Lines:
    """A JSON lines file being written; says which file it was that the disk had no room for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = path.open("w", encoding="utf-8", newline="\n")
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
        except OSError as error:
            if kind is None:  # else the first failure is the one to tell
                raise _no_room(self.path, error) from None


def _no_room(path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: no room left on this disk; free some, or write to another one")
    return DataError(f"{path}: cannot be written: {error.strerror}")


class _Intake:
    """Takes rows one by one and remembers what is needed to count, compare and fingerprint them: digests, not texts."""

    def __init__(self, records: _Lines, quarantine: _Lines, given: list[Tool]) -> None:
        self.records, self.quarantine, self.given = records, quarantine, given
        self.read = self.kept = self.duplicates = 0
        self.rules: Counter[str] = Counter()
        self.first_refusal = ""
        self.ids: set[str] = set()
        self.answers: dict[bytes, tuple[bytes, int]] = {}
        self.contents: set[bytes] = set()
        self.calls: Counter[str] = Counter()
        self.rows_per_tool: Counter[str] = Counter()
        self.calls_per_row: Counter[int] = Counter()
        self.roles: Counter[str] = Counter()
        self.lengths: Counter[str] = Counter()

    def take(self, raw: RawRow, row: Parsed, dialect: str) -> None:
        """Keep the row, or count it as a duplicate, or quarantine it."""
        self.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            record, line = record_of(row, dialect, self.given)
            content = bytes.fromhex(content_sha256(record))
        except RowError as error:
            self.refuse(raw, error.rule, str(error))
            return
        self.contents.add(content)
        question, answer = _question(record), _answer(record)
        if question in self.answers:
            first, first_row = self.answers[question]
            if first == answer:
                self.duplicates += 1
            else:
                message = f"the same question is answered differently in row {first_row}, which is kept"
                self.refuse(raw, "conflicting_answer", message)
            return
        self.answers[question] = answer, raw.row
        self.keep(raw, row, record, line)

    def keep(self, raw: RawRow, row: dict[str, Any], record: Record, line: str) -> None:
        """Write a record down under an id of its own."""
        origin = {"uri": raw.uri, "row": raw.row, "sha256": hashlib.sha256(raw.text.encode()).hexdigest()}
        head = json.dumps({"id": self.new_id(row, raw)}, ensure_ascii=False)
        tail = json.dumps({"source": origin}, ensure_ascii=False)
        self.records.write(f"{head[:-1]}, {line[1:-1]}, {tail[1:]}")
        self.kept += 1
        calls = [call["name"] for message in record["messages"] for call in calls_of(message)]
        self.calls.update({tool["function"]["name"]: 0 for tool in record["tools"]})
        self.calls.update(calls)
        self.rows_per_tool.update(set(calls))
        self.calls_per_row[len(calls)] += 1
        self.roles.update(message["role"] for message in record["messages"])
        self.lengths[drift.length_class(record)] += 1

    def new_id(self, row: dict[str, Any], raw: RawRow) -> str:
        """The row's own id if no row before had it, else its number, else that with its file."""
        own = row.get("id")
        usable = isinstance(own, str | int) and not isinstance(own, bool) and 0 < len(str(own).strip()) <= ID_LETTERS
        choices = [str(own)] if usable and str(own).isprintable() else []
        choices += [str(raw.row), f"{raw.uri}:{raw.row}"]
        fresh = next((choice for choice in choices if choice not in self.ids), f"{raw.uri}:{raw.row}#{self.read}")
        self.ids.add(fresh)
        return fresh

    def refuse(self, raw: RawRow, rule: str, message: str) -> None:
        """Put a row into quarantine, whole."""
        # A message may quote half a surrogate pair out of a JSON escape, which no UTF-8 file can hold.
        text = message[:MESSAGE_LETTERS].encode("utf-8", "backslashreplace").decode()
        self.rules[rule] += 1
        self.first_refusal = self.first_refusal or f"row {raw.row}: {text}"
        entry = {"source": raw.uri, "row": raw.row, "rule": rule, "message": text, "raw": raw.text}
        self.quarantine.write(json.dumps(entry, ensure_ascii=False))

    def fingerprint(self) -> str:
        """SHA-256 over the sorted digests of all usable content: also of conflicting rows, since order chose among them."""
        return hashlib.sha256(b"".join(sorted(self.contents))).hexdigest()

    def profile(self) -> dict[str, Any]:
        """What the rows hold, for the report, and for a later look at how questions have changed."""
        return {
            "rules": dict(self.rules.most_common()),
            "tools": dict(self.calls.most_common()),
            "rows_per_tool": dict(self.rows_per_tool.most_common()),
            "calls_per_row": {str(calls): rows for calls, rows in sorted(self.calls_per_row.items())},
            "roles": dict(self.roles.most_common()),
            "lengths": dict(self.lengths.most_common()),
        }


def _question(record: Record) -> bytes:
    """What is asked: instructions, the user's words in any case and spacing, tool results, and the tools on offer."""
    asked = [
        [message["role"].replace("developer", "system"), " ".join(message["content"].lower().split())]
        for message in record["messages"]
        if message["role"] != "assistant"
    ]
    return hashlib.sha256(canonical([asked, record["tools"]]).encode()).digest()[:16]


def _answer(record: Record) -> bytes:
    """What is answered: the assistant's turns, calls made in parallel in any order."""
    turns = [
        [(message.get("content") or "").strip(), sorted(map(canonical, calls_of(message)))]
        for message in record["messages"]
        if message["role"] == "assistant"
    ]
    return hashlib.sha256(canonical([turns, record.get("expected")]).encode()).digest()[:16]


def _require_usable(config: IngestConfig, result: Ingested, intake: _Intake, quarantine: Path) -> None:
    if result.read == 0:
        raise DataError(f"{config.source}: is empty; at least one row is needed")
    if result.kept == 0:
        raise DataError(
            f"{config.source}: none of {result.read} rows can be used ({validate.commonest(intake.rules)}); "
            f"first, {intake.first_refusal}; all in {quarantine}"
        )
    limit = ("ingest", config.max_quarantined)
    validate.require_few_refused(config.source, result.read, intake.rules, intake.first_refusal, limit, quarantine)
