"""What the model is shown of each record: rendered and looked through, whatever the other records are, so by any process."""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from calltune import models
from calltune.errors import DataError
from calltune.records import Record, user_text
from calltune.render import NotRepresentable, Rendered, Renderer
from calltune.template import Template
from components.format.config import FormatConfig
from components.format.contamination import numbers_of_turns
from components.format.shaping import without_early_turns
from components.format.spill import packed

PROBABLY_LONGER = 8
"""Letters for each token that a row may have, above which it is probably too long: that is seen first, since rendering each of
hundreds of turns takes minutes."""
Lines = Sequence[tuple[int, bytes]]
"""Lines of the records' file with their numbers, from 1."""


class Refused(Exception):
    """A record that cannot be shown to the model; `rule` names the reason in one word."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class Shaped:
    """One record as it is shown.

    Attributes:
        shown: the record without its early turns; None where it is whole.
        rows: what it is rendered to, packed.
        refused: rule and message, where it cannot be shown; there are no rows then.
    """

    shown: Record | None = None
    rows: bytes = b""
    refused: tuple[str, str] | None = None


@dataclass(frozen=True)
class Read:
    """One line of the records' file.

    Attributes:
        shaped: its record as it is shown.
        turns: numbers of what the user says in each turn.
        asked: its record without the tools, as a line of JSON: a tenth of it, and all that a split looks at.
    """

    shaped: Shaped
    turns: list[int]
    asked: bytes


def shaped(record: Record, renderer: Renderer, config: FormatConfig, has_token: bool = True) -> Shaped:
    """Render a record, or say why it cannot be shown.

    Args:
        record: whole.
        renderer: of the model.
        config: the step's settings.
        has_token: false where it is known that none of the model's control tokens stands anywhere in the record.
    """
    try:
        shown, rendered, prefix = _fitting(record, renderer, config, has_token)
    except Refused as refusal:
        return Shaped(refused=(refusal.rule, str(refusal)))
    return Shaped(None if shown is record else shown, packed(rendered, prefix))


def read(lines: Lines, path: Path, renderer: Renderer, config: FormatConfig) -> list[Read]:
    """Shape the records of some lines.

    Raises:
        DataError: a line is not JSON.
    """
    # As JSON has them, since it is looked for in the line: to write each record as JSON once more would take half a millisecond.
    tokens = (_as_json(token).encode() for token in renderer.special_tokens)
    control_token = re.compile(b"|".join(map(re.escape, tokens)) or b"(?!)")
    return [
        _read(line, f"{path}, line {number}", renderer, config, control_token.search(line) is not None) for number, line in lines
    ]


Reader = Callable[[Lines], list[Read]]


def reader(path: Path, model: Path, template: Template, config: FormatConfig) -> Reader:
    """Make the function that does `read` in another process.

    Args:
        path: of the records' file, to name it.
        model: the folder with the tokenizer.
        template: as it fits the model.
        config: the step's settings.
    """
    return partial(read, path=path, renderer=Renderer(models.tokenizer(model), template), config=config)


def _read(line: bytes, where: str, renderer: Renderer, config: FormatConfig, has_token: bool) -> Read:
    try:
        record: Record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    asked = json.dumps({key: value for key, value in record.items() if key != "tools"}).encode() + b"\n"
    return Read(shaped(record, renderer, config, has_token), numbers_of_turns(record), asked)


def _fitting(record: Record, renderer: Renderer, config: FormatConfig, has_token: bool) -> tuple[Record, list[Rendered], int]:
    """The record, or with `drop_turns` as many of its last turns as are not too long, with what :func:`_checked` says of it."""
    checked = partial(_checked, renderer=renderer, max_tokens=config.max_tokens, has_token=has_token)

    def fits(shorter: Record) -> bool:
        try:
            checked(shorter)
        except Refused as refusal:
            if refusal.rule != "too_long":
                raise
            return False
        return True

    try:
        return record, *checked(record)
    except Refused as refusal:
        if refusal.rule != "too_long" or config.too_long == "quarantine":
            raise
        candidates = without_early_turns(record)
        longest = bisect_left(candidates, True, key=fits)  # each is shorter than the one before
        if longest == len(candidates):
            raise
    return candidates[longest], *checked(candidates[longest])


def _checked(record: Record, renderer: Renderer, max_tokens: int, has_token: bool) -> tuple[list[Rendered], int]:
    """The rows of a record and how many of their tokens come before the first user turn.

    Raises:
        Refused: it cannot be shown.
    """
    texts = [user_text(record), *(m[key] for m in record["messages"] for key in ("content", "reasoning_content") if m.get(key))]
    for token in renderer.special_tokens if has_token else ():
        if any(token in text for text in texts):
            raise Refused("special_token", f"the text contains {token!r}, which the model reads as a control token")
    try:
        if sum(map(len, texts)) > PROBABLY_LONGER * max_tokens:
            _require_short(renderer.length(record), max_tokens)
        rows, prefix = renderer.rows_and_prefix(record)
    except NotRepresentable as error:
        raise Refused("not_representable", str(error)) from None
    if has_token:
        _require_no_token_inside(record, rows, renderer)
    for row in rows:
        _require_short(len(row.input_ids), max_tokens)
    return rows, prefix


def _require_short(length: int, max_tokens: int) -> None:
    if length > max_tokens:
        raise Refused("too_long", f"{length} tokens, format.max_tokens is {max_tokens}")


def _as_json(token: str) -> str:
    """A token as it stands in a JSON text: Gemma has one with a quote in it, `<|"|>`."""
    return json.dumps(token, ensure_ascii=False)[1:-1]


def _require_no_token_inside(record: Record, rows: list[Rendered], renderer: Renderer) -> None:
    """Refuse a record whose tools or calls hold a control token, unless its template writes that otherwise (`\\u003c|im_end|>`).

    Told by rendering it once more with something else in its place: that has as many of them, where none was of the record.

    Raises:
        Refused: it does.
    """
    parts = {key: record[key] for key in ("messages", "tools")}
    text = json.dumps(parts, ensure_ascii=False)
    there = [token for token in renderer.special_tokens if _as_json(token) in text]
    if not there:
        return
    for token in sorted(there, key=len, reverse=True):
        text = text.replace(_as_json(token), "x")
    try:
        others = renderer.rows(json.loads(text))
    except NotRepresentable as error:
        raise Refused("not_representable", str(error)) from None
    for token, number in zip(there, renderer.tokenizer.convert_tokens_to_ids(there), strict=True):
        count, by_itself = (sum(row.input_ids.count(number) for row in some) for some in (rows, others))
        if count > by_itself:
            raise Refused("special_token", f"a tool or a call contains {token!r}, which the model reads as a control token")
