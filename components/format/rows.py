"""Records rendered one by one: those that can be shown to the model, and those that are refused, each with its reason."""

from typing import Any

from calltune.records import Record, canonical, user_text
from calltune.render import NotRepresentable, Rendered, Renderer
from components.format.config import FormatConfig
from components.format.shaping import without_first_turn


class _Refused(Exception):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Rows:
    """The rows as they are shown and rendered, and those that were refused.

    Attributes:
        rendered: by record id.
        shown: the record as it was rendered, by id: some of its early turns may be left out.
        quarantine: one entry for each refused record.
    """

    def __init__(self, renderer: Renderer, config: FormatConfig) -> None:
        self.renderer, self.config = renderer, config
        self.rendered: dict[str, list[Rendered]] = {}
        self.shown: dict[str, Record] = {}
        self.quarantine: list[dict[str, Any]] = []

    def take(self, record: Record) -> None:
        """Render a record, or refuse it."""
        try:
            self.shown[record["id"]], self.rendered[record["id"]] = self._fitting(record)
        except _Refused as refusal:
            self.refuse(record, refusal.rule, str(refusal))

    def refuse(self, record: Record, rule: str, message: str) -> None:
        """Take a record out, with its reason."""
        self.rendered.pop(record["id"], None)
        source = record["source"]
        entry = {"source": source["uri"], "row": source["row"], "rule": rule, "message": message}
        self.quarantine.append({**entry, "raw": canonical(record)})

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
