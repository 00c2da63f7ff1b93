"""Prefix-tree packing: rows that begin alike are trained with their common beginning standing once.

The rows of a tool-calling set share long prefixes, the system message and the tool list, for answers of fifty tokens.
A pack is a tree of token segments laid out in one sequence. Each token attends to the segments on its own path from
the root (attention.py), has the position that it would have in its row alone, and predicts the next token of its own
row. The loss and the gradient are those of the unpacked rows (tests/components/train/test_packing.py), for far fewer
tokens.

Four rows that share a prefix P, two of which also share Q:   P | a | b | Q | c | d     (6 segments instead of 10)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from calltune.render import common_prefix

MIN_SHARED_TOKENS = 32
"""A shorter shared prefix saves less than a segment costs."""


@dataclass(frozen=True)
class Row:
    """One training row: `input_ids` and `loss_mask` as format wrote them, equally long."""

    input_ids: list[int]
    loss_mask: list[bool]

    @property
    def shareable(self) -> int:
        """How many leading tokens another row may share: all before the one that predicts the first supervised token."""
        return max(0, self.loss_mask.index(True) - 1)


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a tree: tokens `start`..`end` of `row`, below the segment with index `parent`."""

    row: int
    start: int
    end: int
    parent: int | None
    shared: bool


@dataclass(frozen=True)
class Branch:
    """How one segment attends: to the segments of its path, all tokens of each, and causally to itself.

    Attributes:
        length: its tokens.
        path: indices of the segments above it, root first.
    """

    length: int
    path: tuple[int, ...]


@dataclass(frozen=True)
class Pack:
    """A tree of rows in one sequence of `T` tokens.

    Attributes:
        input_ids: int64, shape ``(1, T)``.
        position_ids: int64, shape ``(1, T)``; each token's position in its own row.
        branches: the segments in the order in which they stand, for components/train/attention.py.
        label_positions: int64, shape ``(S,)``; the tokens that predict a supervised one.
        labels: int64, shape ``(S,)``; what they predict.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    branches: list["Branch"]
    label_positions: torch.Tensor
    labels: torch.Tensor


def pack(rows: Sequence[Row], max_tokens: int) -> list[Pack]:
    """Pack a batch of rows into trees of at most `max_tokens` tokens, as few as first fit finds.

    Rows are taken in the order of their tokens, so that those that share the most stand together. A row that is longer
    than `max_tokens` by itself makes a pack of its own: nothing is ever cut.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index].input_ids)
    groups: list[list[Row]] = []
    for index in order:
        row = rows[index]
        home = next((g for g in groups if tree_tokens([*g, row]) <= max_tokens), None)
        if home is None:
            groups.append([row])
        else:
            home.append(row)
    return [lay_out(group) for group in groups]


def tree(rows: Sequence[Row]) -> list[Segment]:
    """The segments of the rows' prefix tree, each after its parent. Rows must be sorted by their tokens."""
    segments: list[Segment] = []
    shared = [_shared(one, two) for one, two in pairwise(rows)]

    def grow(first: int, last: int, start: int, parent: int | None) -> None:
        """Add the rows first..last-1, whose tokens before `start` stand already, below `parent`."""
        while first < last:
            stop = first + 1
            while stop < last and shared[stop - 1] >= start + MIN_SHARED_TOKENS:
                stop += 1
            if stop - first == 1:
                segments.append(Segment(first, start, len(rows[first].input_ids), parent, shared=False))
            else:
                end = min(shared[first : stop - 1])
                segments.append(Segment(first, start, end, parent, shared=True))
                grow(first, stop, end, len(segments) - 1)
            first = stop

    grow(0, len(rows), 0, None)
    return segments


def tree_tokens(rows: Sequence[Row]) -> int:
    """How many tokens the rows' tree has. Rows must be sorted by their tokens."""
    return sum(segment.end - segment.start for segment in tree(rows))


def lay_out(rows: Sequence[Row]) -> Pack:
    """One pack of all the rows, which must be sorted by their tokens."""
    segments = tree(rows)
    branches: list[Branch] = []
    ids: list[int] = []
    positions: list[int] = []
    label_positions: list[int] = []
    labels: list[int] = []
    for segment in segments:
        row, offset, length = rows[segment.row], len(ids), segment.end - segment.start
        path = () if segment.parent is None else (*branches[segment.parent].path, segment.parent)
        branches.append(Branch(length, path))
        ids += row.input_ids[segment.start : segment.end]
        positions += range(segment.start, segment.end)
        if not segment.shared:
            for position in range(segment.start, segment.end - 1):
                if row.loss_mask[position + 1]:
                    label_positions.append(offset + position - segment.start)
                    labels.append(row.input_ids[position + 1])
    return Pack(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        branches=branches,
        label_positions=torch.tensor(label_positions),
        labels=torch.tensor(labels),
    )


def _shared(one: Row, two: Row) -> int:
    return min(one.shareable, two.shareable, common_prefix(one.input_ids, two.input_ids))
