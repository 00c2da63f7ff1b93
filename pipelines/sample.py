"""The first rows of a source as ingest would read them: what is in them, and whether ingest would go on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from calltune import validate
from calltune.dialects import DIALECTS, detect
from calltune.dialects.reading import RowError, strict_json
from calltune.errors import DataError
from calltune.records import Record, Tool
from components.ingest.config import IngestConfig
from components.ingest.sources import Source
from components.ingest.step import LOOKED_AT


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
    """

    read: int
    records: list[Record]
    rules: Counter[str]
    first: str
    dialect: str
    why: str


def look(config: IngestConfig, source: Source, given: list[Tool]) -> Sample:
    """Read the first rows.

    Args:
        config: ingest's settings.
        source: the rows.
        given: the tools of the tools file.

    Raises:
        DataError: there is no row, or none that can be used.
    """
    read = list(_rows(source))
    if not read:
        raise DataError(f"{config.source}: is empty; at least one row is needed")
    objects = [row for _, row in read if isinstance(row, dict)]
    if not objects:
        raise DataError(
            f"{config.source}: none of the first {len(read)} rows is a JSON object; first, row {read[0][0]}: {read[0][1]}"
        )
    try:
        dialect, why = detect(objects) if config.dialect == "auto" else (config.dialect, "the config says so")
    except DataError as error:
        raise DataError(f"{config.source}: {error}") from None
    records: list[Record] = []
    rules: Counter[str] = Counter()
    first = ""
    for number, row in read:
        try:
            if isinstance(row, RowError):
                raise row
            record = DIALECTS[dialect](row, given)
            broken = validate.problem(record)
            if broken is not None:
                raise RowError(*broken)
            records.append(record)
        except RowError as error:
            rules[error.rule] += 1
            first = first or f"row {number}: {error}"
    if not records:
        raise DataError(f"{config.source}: none of the first {len(read)} rows can be used; first, {first}")
    return Sample(len(read), records, rules, first, dialect, why)


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


def _rows(source: Source) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    for raw in islice(source.rows(), LOOKED_AT):
        try:
            row = strict_json(raw.text)
        except ValueError as error:
            row = RowError("not_json", f"not JSON: {error}")
        yield raw.row, row if isinstance(row, dict | RowError) else RowError("not_an_object", "must be a JSON object")
