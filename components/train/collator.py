"""Rows to one batch of packs, whose size is halved where they do not fit."""

from collections.abc import Sequence
from typing import Any

from components.train import ranks
from components.train.packing import Row, pack

Packs = list[dict[str, Any]]


class Collator:
    """Makes one batch of packs out of rows."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pack this rank's part of the rows, each with `id`, `input_ids` and `loss_mask`.

        Returns:
            The `packs`; the `rows` in them; how many tokens of all the rows are `supervised`; the `ids` of all the rows, to name
            those of a bad batch.
        """
        batch = sorted((Row(row["input_ids"], row["loss_mask"]) for row in rows), key=lambda row: row.input_ids)
        own = ranks.part(batch)
        # A row's first token is predicted by none.
        supervised = sum(sum(row.loss_mask[1:]) for row in batch)
        return {"packs": self.packed(own), "rows": own, "supervised": supervised, "ids": [row["id"] for row in rows]}

    def packed(self, rows: Sequence[Row]) -> Packs:
        """The rows' packs, each as a dict of its fields."""
        return [{field: getattr(p, field) for field in p.__dataclass_fields__} for p in pack(rows, self.max_tokens)]

    def halve(self, rows: Sequence[Row], packs: int) -> None:
        """Halve `max_tokens` until these rows, more than that many, make more than that many packs."""
        while len(pack(rows, self.max_tokens)) <= packs:
            self.max_tokens //= 2
