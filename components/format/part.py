"""The files of one part of the split, written row by row, and what is counted on the way."""

import json
from array import array
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calltune.records import TURN, Record, question_sha256, sha256
from calltune.render import Rendered, Renderer
from components.format.contamination import taught_turns
from components.format.split import TEST, TRAIN, stratum

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("prefix_sha256", pa.string()),
    ]
)
GROUP_ROWS = 1_000
"""Rows that are in memory at once."""
FIRST = 200
"""Rows that are kept to be shown, and to measure a few things by."""


class Part:
    """`train.parquet`, `validation.parquet` with `validation.jsonl`, or `test.jsonl`, being written.

    Attributes:
        records: how many there are so far.
        strata: of each kind of answer.
        stops: in which token each answer ends; of training rows, as are the following.
        tokens: of each row.
        supervised: tokens of each row that the loss looks at.
        prefix: the longest one, in tokens.
        first: the first records with their rows.
        learnt: hashes of all that training on them teaches the answer to.
    """

    def __init__(self, name: str, out: Path, renderer: Renderer, phrases: Collection[int]) -> None:
        self.name, self.renderer, self.phrases = name, renderer, phrases
        self.records = self.prefix = 0
        self.strata: Counter[str] = Counter()
        self.stops: Counter[int] = Counter()
        self.tokens, self.supervised = array("l"), array("l")
        self.first: list[tuple[Record, list[Rendered]]] = []
        self.learnt: set[str] = set()
        self.waiting: list[dict[str, Any]] = []
        self.files = ExitStack()
        self.table = None if name == TEST else self.files.enter_context(pq.ParquetWriter(out / f"{name}.parquet", SCHEMA))
        self.lines = None if name == TRAIN else self.files.enter_context((out / f"{name}.jsonl").open("w", encoding="utf-8"))

    def add(self, record: Record, rendered: list[Rendered]) -> None:
        """Write a record, with its rows."""
        self.records += 1
        self.strata[stratum(record)] += 1
        if self.lines is not None:
            self.lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self.table is not None:
            self._add_rows(record, rendered)
        if self.name == TRAIN:
            question = question_sha256(record)
            self.learnt |= {question, *(f"{TURN}{turn}" for turn in taught_turns(record, self.phrases) - {question})}
            if len(self.first) < FIRST:
                self.first.append((record, rendered))

    def _add_rows(self, record: Record, rendered: list[Rendered]) -> None:
        prefix = self.renderer.prefix_length(record)
        self.prefix = max(self.prefix, prefix)
        for number, row in enumerate(rendered):
            self.waiting.append(
                {
                    "id": record["id"] if number == 0 else f"{record['id']}#{number}",
                    "input_ids": row.input_ids,
                    "loss_mask": row.loss_mask,
                    "prefix_sha256": sha256(row.input_ids[:prefix]),
                }
            )
            self.tokens.append(len(row.input_ids))
            self.supervised.append(sum(row.loss_mask))
            after = [*row.loss_mask[1:], False]
            self.stops.update(
                token for token, on, next_on in zip(row.input_ids, row.loss_mask, after, strict=True) if on and not next_on
            )
        if len(self.waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.table is not None and self.waiting:
            self.table.write_table(pa.Table.from_pylist(self.waiting, schema=SCHEMA))
            self.waiting = []

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self.files.close()
