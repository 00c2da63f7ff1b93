"""Records as they are shown to the model, on disk, and those that are refused, each with its reason."""

import json
from array import array
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from calltune.records import Record, canonical
from components.format.spill import RenderedFile, Row

_OUT = -1


class Rows:
    """The rows as they are rendered, on disk, and those that were refused, in the quarantine's file.

    Attributes:
        rules: how many were refused for each reason.
        first: the first of them, and why.
        shortened: the records as they are shown, of those that have lost early turns, by their place.
    """

    def __init__(self, records: int, quarantine: Path) -> None:
        self.rules: Counter[str] = Counter()
        self.first = ""
        self.shortened: dict[int, Record] = {}
        self.files = ExitStack()
        self.quarantine = self.files.enter_context(quarantine.open("w", encoding="utf-8"))
        self.rendered = self.files.enter_context(RenderedFile())
        self.places = array("q", [_OUT]) * records

    def keep(self, index: int, rows: bytes, shown: Record | None = None) -> None:
        """Keep what the record of this place is rendered to.

        Args:
            index: the place.
            rows: packed.
            shown: the record as it is shown, where it has lost early turns.
        """
        self.places[index] = self.rendered.add(rows)
        if shown is not None:
            self.shortened[index] = shown

    def refuse(self, index: int, record: Record, rule: str, message: str) -> None:
        """Take a record out, with its reason."""
        self.places[index] = _OUT
        source = record["source"]
        self.rules[rule] += 1
        self.first = self.first or f"row {source['row']} of {source['uri']}: {message}"
        entry = {"source": source["uri"], "row": source["row"], "rule": rule, "message": message, "raw": canonical(record)}
        self.quarantine.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.quarantine.flush()

    def has(self, index: int) -> bool:
        """Whether the record was rendered and not refused since."""
        return self.places[index] != _OUT

    def shown(self, index: int, record: Record) -> Record:
        """The record as it was rendered: some of its early turns may be left out."""
        return self.shortened.get(index, record)

    def of(self, index: int) -> list[Row]:
        """What the record was rendered to."""
        return self.rendered.rows(self.places[index])

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.files.close()
