"""Search among hashes of 256 bits for all within a distance, missing none.

Multi-index hashing (M. Norouzi, A. Punjani, D. J. Fleet, "Fast Exact Search in Hamming Space with Multi-Index
Hashing", 2014): a hash is 16 words of 16 bits. Where two hashes differ in at most 31 bits, at least one of
the words differs in at most one, since 16 words with two bits each would be 32. So the entries with such a
word are all that need comparing: about 4,000 of a million random ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORDS = 16
"""Words of a hash; of as many bits each."""
_VALUES = 1 << 16
MAX_DISTANCE = 2 * _WORDS - 1
"""Farthest that nothing is missed."""
_NEIGHBOURS = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
"""What turns a word into itself and into those that differ in one bit."""


@dataclass(frozen=True)
class Near:
    """One hash near one that was asked for."""

    query: int
    place: int
    """Of the hash, in the order in which they were handed in."""
    distance: int
    """Bits in which they differ."""


class NearestHashes:
    """Hashes by the entries that share a word with them. It takes 64 bytes a hash beside the hash itself.

    Args:
        hashes: uint8 [n, 32].
    """

    def __init__(self, hashes: NDArray[np.uint8]) -> None:
        self._hashes = np.ascontiguousarray(hashes).view(np.uint64)  # [n, 4]
        words = np.ascontiguousarray(hashes).view(np.uint16)  # [n, 16]
        self._places = np.empty((_WORDS, len(words)), np.int32)
        """Entries in the order of each of their words."""
        self._starts = np.empty((_WORDS, _VALUES + 1), np.int64)
        """Where in that order the entries with a value of the word begin; the next value's is their end."""
        for number in range(_WORDS):
            counts = np.bincount(words[:, number], minlength=_VALUES)
            self._starts[number] = np.concatenate([[0], np.cumsum(counts)])
            self._places[number] = np.argsort(words[:, number], kind="stable")

    def within(self, queries: NDArray[np.uint8], distance: int) -> list[Near]:
        """All hashes within a distance of any query.

        Args:
            queries: uint8 [queries, 32].
            distance: bits that may differ, at most `MAX_DISTANCE`.

        Raises:
            ValueError: the distance is larger than what is found for sure.
        """
        if distance > MAX_DISTANCE:
            raise ValueError(f"nothing is missed within {MAX_DISTANCE} bits, not within {distance}")
        found = []
        for number, query in enumerate(np.ascontiguousarray(queries)):
            places = self._candidates(query.view(np.uint16))
            differing = self._hashes[places] ^ query.view(np.uint64)
            distances = np.bitwise_count(differing).sum(axis=1)
            near = np.flatnonzero(distances <= distance)
            nearest = dict(zip(places[near].tolist(), distances[near].tolist(), strict=True))
            found += [Near(number, place, bits) for place, bits in nearest.items()]
        return found

    def _candidates(self, words: NDArray[np.uint16]) -> NDArray[np.integer]:
        """Entries with a word at most one bit from the query's, some more than once."""
        rows = np.arange(_WORDS)[:, None]
        values = (words[:, None] ^ _NEIGHBOURS).astype(np.int64)  # [words, neighbours]
        starts = self._starts[rows, values]
        counts = (self._starts[rows, values + 1] - starts).ravel()
        total = int(counts.sum())
        if total >= len(self._hashes):  # many alike: every entry once is less
            return np.arange(len(self._hashes))
        # The ranges of all the values, one after the other, as places in the flattened table.
        firsts = (starts + rows * len(self._hashes)).ravel()
        before = np.cumsum(counts) - counts
        flat = np.arange(total) + np.repeat(firsts - before, counts)
        found: NDArray[np.int32] = self._places.reshape(-1)[flat]
        return found
