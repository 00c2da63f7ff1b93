"""What a suite says of a model: a number for each of its items."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calltune import stats
from calltune.errors import DataError
from calltune.records import sha256


@dataclass(frozen=True)
class Measure:
    """One measure of one model.

    Attributes:
        items: a number by item id; 0 or 1 where the measure is a share.
        asked: what was asked, as JSON: two models compare only where it is equal.
    """

    items: Mapping[str, float]
    asked: Any

    def as_dict(self) -> dict[str, Any]:
        """The measure as `metrics.json` holds it, below `suites`.

        Raises:
            DataError: a number is not finite.
        """
        for id_, number in self.items.items():
            if not math.isfinite(number):
                raise DataError(f"item {id_!r} of a suite is {number}: the model's numbers cannot be used")
        return {**stats.of_items(self.items).as_dict(), "sha256": sha256(self.asked), "items": dict(self.items)}
