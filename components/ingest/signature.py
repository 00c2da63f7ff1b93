"""MinHash signatures of sets of words, cut into bands: two sets that are alike have a band in common, others seldom do."""

import hashlib
from collections.abc import Set
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 128
SEED = 1
MISSED = 1e-3
"""The most pairs of exactly the least likeness that may have no band in common; of likelier pairs there are fewer."""


class Signer:
    """Makes the bands of sets of words.

    Args:
        least: likeness, from 0.5, that two sets with a band in common are looked for.
    """

    def __init__(self, least: float) -> None:
        self.rows = next(rows for rows in (16, 8, 4, 2, 1) if (1 - least**rows) ** (PERMUTATIONS // rows) < MISSED)

    def bands(self, group: bytes, words: Set[str]) -> list[bytes]:
        """The bands of a set of words as short digests; sets of different groups have none in common."""
        from datasketch import MinHash

        empty = self._empty
        signature = MinHash(PERMUTATIONS, SEED, permutations=empty.permutations, scheme=empty.scheme)
        signature.update_batch([word.encode() for word in words])
        values, width = signature.hashvalues.tobytes(), signature.hashvalues.itemsize * self.rows
        parts = (bytes([at // width]) + values[at : at + width] for at in range(0, len(values), width))
        return [hashlib.blake2b(group + part, digest_size=10).digest() for part in parts]

    @cached_property
    def _empty(self) -> "MinHash":
        # The permutations take longer to draw than a signature takes; datasketch brings scipy, which most data does not need.
        from datasketch import MinHash

        return MinHash(PERMUTATIONS, SEED)
