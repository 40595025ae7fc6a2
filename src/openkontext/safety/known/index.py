"""Look-up of one picture among many hashes: PDQ within a distance, and exact digests of the file's bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.safety.known.lists import KINDS, HashList
from openkontext.safety.known.pdq import BITS, DIHEDRAL, MATCH_DISTANCE, MIN_QUALITY, PdqHash

EXACT = tuple(kind for kind in KINDS if kind != "pdq")
"""Kinds of hash that match the bytes of a file or not at all."""


@dataclass(frozen=True)
class ListHit:
    """One entry of a list that a picture matches. It names the entry by its place, never by its hash."""

    list_name: str
    """File of the entry."""
    entry: int
    """Which of the list's hashes, from 0."""
    kind: str
    """Of hash: pdq, md5, sha1 or sha256."""
    category: str
    """What the publisher calls it; empty where the list does not say."""
    distance: int
    """Bits in which the hashes differ; 0 where the bytes of the file match."""
    turned: str
    """How the picture is turned against the one on the list; one of `pdq.DIHEDRAL`."""


class HashIndex:
    """Hashes of all kinds from several lists. It never changes: a reload makes another."""

    def __init__(self, lists: Sequence[HashList]) -> None:
        """Build the index.

        Args:
            lists: whose hashes to look among.
        """
        self.counts = {kind: sum(len(each.hashes) for each in lists if each.kind == kind) for kind in KINDS}
        """Hashes of each kind."""
        self._pdq_lists = [each for each in lists if each.kind == "pdq" and len(each.hashes)]
        self._pdq = _flat([each.hashes for each in self._pdq_lists]) if self._pdq_lists else None
        self._exact_lists = {
            kind: [each for each in lists if each.kind == kind and len(each.hashes)] for kind in EXACT
        }
        self._exact = {kind: _Digests(found) for kind, found in self._exact_lists.items() if found}

    def match_bytes(self, data: bytes) -> ListHit | None:
        """Look up a file as it was handed in.

        Args:
            data: the file's bytes.
        """
        for kind, digests in self._exact.items():
            place = digests.find(hashlib.new(kind, data, usedforsecurity=False).digest())
            if place is not None:
                return self._hit(self._exact_lists[kind], place, 0, DIHEDRAL[0])
        return None

    def match_pdq(self, hashed: PdqHash) -> ListHit | None:
        """Look up a picture and its rotations and mirror images; the nearest entry within the distance.

        Args:
            hashed: the picture's hash; one of too low a quality matches nothing.
        """
        if self._pdq is None or hashed.quality < MIN_QUALITY:
            return None
        import faiss

        # For this thread alone. FAISS's own threads wait for each other by spinning: on busy cores they make
        # a tenth of a second out of milliseconds.
        faiss.omp_set_num_threads(1)
        queries = np.frombuffer(b"".join(hashed.dihedral), np.uint8).reshape(len(DIHEDRAL), -1)
        distances, places = self._pdq.search(queries, 1)
        turn = int(distances.argmin())
        if distances[turn, 0] > MATCH_DISTANCE:
            return None
        return self._hit(self._pdq_lists, int(places[turn, 0]), int(distances[turn, 0]), DIHEDRAL[turn])

    def _hit(self, lists: Sequence[HashList], place: int, distance: int, turned: str) -> ListHit:
        for each in lists:
            if place < len(each.hashes):
                category = each.categories[each.category[place]]
                return ListHit(each.name, place, each.kind, category, distance, turned)
            place -= len(each.hashes)
        raise AssertionError("an index never finds more than it holds")


def _flat(hashes: Sequence[NDArray[np.uint8]]) -> Any:
    """An index that compares with every hash, so that none is missed; 32 bytes a hash, and made at once."""
    import faiss  # only where there is something to look among: it takes 0.1 s and 40 MB

    index = faiss.IndexBinaryFlat(BITS)
    for each in hashes:
        index.add(np.ascontiguousarray(each))
    return index


class _Digests:
    """Digests of one length, sorted."""

    def __init__(self, lists: Sequence[HashList]) -> None:
        digests = np.ascontiguousarray(np.concatenate([each.hashes for each in lists]))
        text = digests.view(f"S{digests.shape[1]}").ravel()  # of one length, so that its order is the bytes'
        self._order = np.argsort(text)
        self._sorted = text[self._order]

    def find(self, digest: bytes) -> int | None:
        """Place of a digest in the lists, or None."""
        at = int(np.searchsorted(self._sorted, np.array(digest, self._sorted.dtype)))
        # numpy drops trailing zero bytes when it takes a value out; both sides drop the same.
        if at < len(self._sorted) and self._sorted[at] == digest.rstrip(b"\0"):
            return int(self._order[at])
        return None
