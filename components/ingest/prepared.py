"""What can be told of a row without the rows before it: read, validated and looked through, by any process."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from calltune.dialects.reading import RowError
from calltune.records import Tool
from calltune.written_calls import written_call
from components.ingest.config import IngestConfig
from components.ingest.jsontext import RawRow
from components.ingest.privacy import Privacy
from components.ingest.profile import Counts, counts_of
from components.ingest.reading import line_of, parsed, record_of
from components.ingest.seen import Traits, traits_of

ID_LETTERS = 200


@dataclass(frozen=True)
class Prepared:
    """A row that can be used.

    Attributes:
        own_id: its id as it says itself; None where it has none that will do.
        record: its record without id and source, as JSON.
        source: where it came from, as JSON: ``{"source": {...}}``.
        traits: what tells whether it repeats another one.
        counts: of what is in it.
        written: a call in an answer's text, where no dialect reads it; empty where there is none.
    """

    own_id: str | None
    record: str
    source: str
    traits: Traits
    counts: Counts
    written: str


@dataclass(frozen=True)
class Batch:
    """Some rows, in order.

    Attributes:
        rows: each one prepared; or rule and message, where it cannot be used.
        sensitive: as `Privacy.rows`, of these.
    """

    rows: list[Prepared | tuple[str, str]]
    sensitive: dict[str, Counter[str]]


def prepare(rows: list[RawRow], config: IngestConfig, dialect: str, given: list[Tool]) -> Batch:
    """Prepare some rows.

    Args:
        rows: as the source has them.
        config: the step's settings.
        dialect: how they are laid out.
        given: the tools of the tools file.
    """
    privacy = Privacy(config)
    found: list[Prepared | tuple[str, str]] = []
    for raw, row in parsed(rows):
        try:
            if isinstance(row, RowError):
                raise row
            whole, line = record_of(row, dialect, given)
        except RowError as error:
            privacy.count(raw.text)
            found.append((error.rule, str(error)))
            continue
        try:
            record = privacy.take(whole, line)
        except RowError as error:
            found.append((error.rule, str(error)))
            continue
        origin = {"uri": raw.uri, "row": raw.row, "sha256": hashlib.sha256(raw.text.encode()).hexdigest()}
        found.append(
            Prepared(
                _own_id(row, privacy),
                line if record is whole else line_of(record),
                json.dumps({"source": origin}, ensure_ascii=False),
                traits_of(record, config.near_duplicates < 1),
                counts_of(record),
                written_call(record),
            )
        )
    return Batch(found, privacy.rows)


def preparer(config: IngestConfig, dialect: str, given: list[Tool]) -> Callable[[list[RawRow]], Batch]:
    """Make the function that does `prepare` with these settings."""
    return partial(prepare, config=config, dialect=dialect, given=given)


def _own_id(row: dict[str, Any], privacy: Privacy) -> str | None:
    own = row.get("id")
    usable = isinstance(own, str | int) and not isinstance(own, bool) and 0 < len(str(own).strip()) <= ID_LETTERS
    return privacy.shown(str(own)) if usable and str(own).isprintable() else None
