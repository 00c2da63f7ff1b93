"""The loss on the tools, too (`format.supervise_tools`), for the template that prints them after the first question: `xlam`.

Only of training rows. Validation is there to choose the weights that answer best, and lists of tools are many times as long as
answers: their loss would decide.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from calltune.records import Record
from calltune.render import Rendered, common_prefix, token_ids
from components.format.spill import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


R = TypeVar("R", Rendered, Row)
"""A row, as it is rendered or as it comes back from the disk."""


def tool_block(tokenizer: "PreTrainedTokenizerBase", record: Record, ids: Sequence[int]) -> tuple[int, int]:
    """From where to where a row's tools stand, the line break after them included; found by leaving them out.

    Args:
        tokenizer: with the template.
        record: what was rendered.
        ids: the row's tokens, of the record or of its beginning.
    """
    first = next(at for at, message in enumerate(record["messages"]) if message["role"] == "user")
    asked = record["messages"][: first + 1]
    bare, shown = token_ids(tokenizer, asked, []), token_ids(tokenizer, asked, record["tools"])
    return common_prefix(bare, shown), common_prefix(shown, ids)


def with_tools(tokenizer: "PreTrainedTokenizerBase", record: Record, rows: Sequence[R]) -> list[R]:
    """A record's rows, their loss masks true on the tools as well."""
    found = []
    for row in rows:
        start, end = tool_block(tokenizer, record, list(row.input_ids))
        mask = row.loss_mask.copy()
        mask[start:end] = [True] * (end - start)
        found.append(replace(row, loss_mask=mask))
    return found
