"""Records rendered one by one: those that can be shown to the model, and those that are refused, each with its reason."""

import json
from array import array
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from calltune.records import Record, canonical, user_text
from calltune.render import NotRepresentable, Rendered, Renderer
from components.format.config import FormatConfig
from components.format.shaping import without_first_turn
from components.format.spill import RenderedFile

_OUT = -1


class _Refused(Exception):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Rows:
    """The rows as they are rendered, on disk, and those that were refused, in the quarantine's file.

    Attributes:
        rules: how many were refused for each reason.
        first: the first of them, and why.
        shortened: the records as they are shown, of those that have lost early turns, by their place.
    """

    def __init__(self, renderer: Renderer, config: FormatConfig, records: int, quarantine: Path) -> None:
        self.renderer, self.config = renderer, config
        self.rules: Counter[str] = Counter()
        self.first = ""
        self.shortened: dict[int, Record] = {}
        self.files = ExitStack()
        self.quarantine = self.files.enter_context(quarantine.open("w", encoding="utf-8"))
        self.rendered = self.files.enter_context(RenderedFile())
        self.places = array("q", [_OUT]) * records

    def take(self, index: int, record: Record) -> None:
        """Render the record of this place, or refuse it."""
        try:
            shown, rendered = self._fitting(record)
        except _Refused as refusal:
            self.refuse(index, record, refusal.rule, str(refusal))
            return
        self.places[index] = self.rendered.add(rendered)
        if shown is not record or index in self.shortened:
            self.shortened[index] = shown

    def refuse(self, index: int, record: Record, rule: str, message: str) -> None:
        """Take a record out, with its reason."""
        self.places[index] = _OUT
        source = record["source"]
        self.rules[rule] += 1
        self.first = self.first or f"row {source['row']}: {message}"
        entry = {"source": source["uri"], "row": source["row"], "rule": rule, "message": message, "raw": canonical(record)}
        self.quarantine.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.quarantine.flush()

    def has(self, index: int) -> bool:
        """Whether the record was rendered and not refused since."""
        return self.places[index] != _OUT

    def shown(self, index: int, record: Record) -> Record:
        """The record as it was rendered: some of its early turns may be left out."""
        return self.shortened.get(index, record)

    def of(self, index: int) -> list[Rendered]:
        """What the record was rendered to."""
        return self.rendered.rows(self.places[index])

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.files.close()

    def _fitting(self, record: Record) -> tuple[Record, list[Rendered]]:
        try:
            return record, _checked(record, self.renderer, self.config.max_tokens)
        except _Refused as refusal:
            if refusal.rule != "too_long" or self.config.too_long == "quarantine":
                raise
            whole = refusal
        shown = without_first_turn(record)
        while shown is not None:
            try:
                return shown, _checked(shown, self.renderer, self.config.max_tokens)
            except _Refused as refusal:
                if refusal.rule != "too_long":
                    raise
            shown = without_first_turn(shown)
        raise whole


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
