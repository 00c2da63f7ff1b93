"""The files of one part of the split, written row by row, and what is counted on the way."""

import json
from array import array
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calltune.records import PHRASE, TURN, Record, question_sha256
from calltune.render import Rendered
from components.format.balance import Counted
from components.format.contamination import told_apart
from components.format.spill import Row
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
        counted: what they expect, in order.
        begins: with which token each row begins; of training rows, as are the following.
        stops: in which token each answer ends.
        tokens: of each row.
        supervised: tokens of each row that the loss looks at.
        prefix: the longest one, in tokens.
        first: the first records with their rows.
        learnt: what training on them teaches the answer to, 8 bytes of each hash, by what stands before it in `trained_on`.
    """

    def __init__(self, name: str, out: Path, phrases: Collection[int]) -> None:
        self.name, self.phrases = name, phrases
        self.records = self.prefix = 0
        self.strata: Counter[str] = Counter()
        self.counted = Counted()
        self.begins: Counter[int] = Counter()
        self.stops: Counter[int] = Counter()
        self.tokens, self.supervised = array("l"), array("l")
        self.first: list[tuple[Record, list[Rendered]]] = []
        self.learnt = {mark: array("Q") for mark in ("", TURN, PHRASE)}
        self.waiting: list[tuple[str, Row]] = []
        self.files = ExitStack()
        self.table = None if name == TEST else self.files.enter_context(pq.ParquetWriter(out / f"{name}.parquet", SCHEMA))
        self.lines = None if name == TRAIN else self.files.enter_context((out / f"{name}.jsonl").open("w", encoding="utf-8"))

    def add(self, record: Record, rendered: list[Row]) -> None:
        """Write a record, with its rows."""
        self.records += 1
        label = stratum(record)
        self.strata[label] += 1
        self.counted.add(record, label)
        if self.lines is not None:
            self.lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self.table is not None:
            self._add_rows(record, rendered)
        if self.name == TRAIN:
            question = question_sha256(record)
            own, common = told_apart(record, self.phrases)
            for mark, digests in (("", {question}), (TURN, own - {question}), (PHRASE, common - {question})):
                self.learnt[mark].extend(int(digest, 16) for digest in digests)
            if len(self.first) < FIRST:
                rows = [Rendered(row.input_ids.tolist(), row.loss_mask.tolist()) for row in rendered]
                self.first.append((record, rows))

    def trained_on(self) -> list[str]:
        """Hashes of all that training on the rows teaches the answer to, each once, in order."""
        return sorted(f"{mark}{number:016x}" for mark, each in self.learnt.items() for number in np.unique(each).tolist())

    def _add_rows(self, record: Record, rendered: list[Row]) -> None:
        for number, row in enumerate(rendered):
            self.prefix = max(self.prefix, row.prefix)
            self.waiting.append((record["id"] if number == 0 else f"{record['id']}#{number}", row))
            self.tokens.append(len(row.input_ids))
            self.supervised.append(int(row.loss_mask.sum()))
            self.begins[int(row.input_ids[0])] += 1
            ends = row.loss_mask & ~np.append(row.loss_mask[1:], False)
            self.stops.update(row.input_ids[ends].tolist())
        if len(self.waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.table is None or not self.waiting:
            return
        rows = [row for _, row in self.waiting]
        ends = np.cumsum([0, *(len(row.input_ids) for row in rows)], dtype=np.int32)
        columns = {
            "id": pa.array([name for name, _ in self.waiting], pa.string()),
            "input_ids": pa.ListArray.from_arrays(ends, np.concatenate([row.input_ids for row in rows])),
            "loss_mask": pa.ListArray.from_arrays(ends, np.concatenate([row.loss_mask for row in rows])),
            "prefix_sha256": pa.array([row.prefix_sha256 for row in rows], pa.string()),
        }
        self.table.write_table(pa.table(columns, schema=SCHEMA))
        self.waiting = []

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self.files.close()
