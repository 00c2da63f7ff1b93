"""The first rows of a source as ingest would read them: what is in them, and whether ingest would go on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from calltune import validate
from calltune.dialects.reading import RowError
from calltune.errors import DataError
from calltune.records import Record, Tool
from calltune.written_calls import written_call
from components.ingest.config import IngestConfig, SourceConfig
from components.ingest.reading import dialect_of, first_rows, parsed, record_of
from components.ingest.sensitive import masked
from components.ingest.source import Source


@dataclass(frozen=True)
class Sample:
    """The first rows.

    Attributes:
        read: how many.
        records: those that ingest would keep, duplicates among them.
        rules: how many would be refused for each reason.
        first: the first of these, and why; empty where there is none.
        dialect: how the rows are laid out.
        why: why it is that dialect.
        written: those of the records that have a call in an answer's text, where no dialect reads it: the place and the text.
    """

    read: int
    records: list[Record]
    rules: Counter[str]
    first: str
    dialect: str
    why: str
    written: list[tuple[str, str]]


def look(config: SourceConfig, source: Source, given: list[Tool]) -> Sample:
    """Read the first rows.

    Args:
        config: of the source.
        source: the rows.
        given: the tools of the tools file.

    Raises:
        DataError: there is no row, or none that can be used.
    """
    read = first_rows(parsed(source.rows()))
    if not read:
        raise DataError(f"{config.source}: has no rows; at least one is needed")
    if not any(isinstance(row, dict) for _, row in read):
        raise DataError(
            f"{config.source}: none of {len(read)} rows is a JSON object; first, {read[0][0].place(config.source)}: {read[0][1]}"
        )
    dialect, why = dialect_of(config, read)
    records: list[Record] = []
    written: list[tuple[str, str]] = []
    rules: Counter[str] = Counter()
    first = ""
    for raw, row in read:
        try:
            if isinstance(row, RowError):
                raise row
            record = record_of(row, dialect, given)[0]
        except RowError as error:
            rules[error.rule] += 1
            first = first or f"{raw.place(config.source)}: {error}"
            continue
        records.append(record)
        text = written_call(record)
        if text:
            written.append((raw.place(config.source), masked(text)))
    if not records:
        raise DataError(f"{config.source}: none of the first {len(read)} rows can be used; first, {first}")
    return Sample(len(read), records, rules, first, dialect, why, written)


def together(samples: Sequence[Sample]) -> Sample:
    """What the first rows of several sources hold, as one."""
    rules: Counter[str] = Counter()
    for one in samples:
        rules.update(one.rules)
    records = [record for one in samples for record in one.records]
    first = next((one.first for one in samples if one.first), "")
    written = [place for one in samples for place in one.written]
    return Sample(sum(one.read for one in samples), records, rules, first, samples[0].dialect, samples[0].why, written)


def too_many_refused(config: IngestConfig, sample: Sample, total: int | None) -> str:
    """Why ingest would refuse the source if the other rows are like the first; empty where it would not.

    Args:
        config: ingest's settings.
        sample: the first rows.
        total: how many rows there are; None where that is not known.

    Raises:
        DataError: it would even if all the others are good.
    """
    refused = sample.rules.total()
    if refused / sample.read <= config.max_quarantined:
        return ""
    message = (
        f"{refused} of the first {sample.read} rows cannot be used, ingest.max_quarantined allows {config.max_quarantined:.1%}; "
        f"the commonest reasons: {validate.commonest(sample.rules)}"
    )
    if total is not None and refused / total > config.max_quarantined:
        raise DataError(f"{config.source}: {message}; first, {sample.first}")
    return message
