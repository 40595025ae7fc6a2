"""Pictures that look alike among many: an inverted file of PDQ hashes by FAISS, most of it on the disk.

Up to `EXACT` hashes it has one list and compares with every hash. Above, it compares with the hashes of the
`_PROBES` lists whose centers lie nearest. `benchmarks/curation.py near` prints how many copies it then finds.
Only the last `SEGMENT` hashes lie in memory, 40 bytes each; those before are mapped from files.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.files import beside
from openkontext.safety.known.pdq import BITS, BYTES

EXACT = 200_000
"""Hashes up to which no neighbor is missed."""
SEGMENT = 1 << 21
"""Hashes that lie in memory at most."""
_LIST = 512
"""Hashes that a list has on average."""
_MOST_LISTS = 4096
_PROBES = 128
_SAMPLE = 32
"""Hashes that each center is chosen from."""
_SEED = 1


class NearIndex:
    """Hashes with numbers of their owners; the nearest are found, and none is taken out."""

    def __init__(self, folder: Path, expected: int, sample: NDArray[np.uint8], distance: int) -> None:
        """Choose the centers.

        Args:
            folder: of the files that it writes.
            expected: hashes that will come, about.
            sample: uint8 [N, 32], hashes that are like those that will come; see `sample_size`.
            distance: bits in which hashes of one owner differ at most from those that are found.
        """
        import faiss

        faiss.omp_set_num_threads(1)  # its own threads wait for each other by spinning
        self._folder, self._distance = folder, distance
        lists = min(list_count(expected), max(1, len(sample)))
        self._centers = faiss.IndexBinaryFlat(BITS)
        self._current = faiss.IndexBinaryIVF(self._centers, BITS, lists)
        clustering = self._current.cp
        clustering.seed, clustering.niter = _SEED, 4
        clustering.max_points_per_centroid, clustering.min_points_per_centroid = _SAMPLE, 1
        trained = sample if len(sample) else np.zeros((1, BYTES), np.uint8)
        self._current.train(np.ascontiguousarray(trained))
        self._current.nprobe = min(lists, _PROBES)
        self._sealed: list[Any] = []

    def add(self, hashes: NDArray[np.uint8], owners: NDArray[np.int64]) -> None:
        """Put hashes in.

        Args:
            hashes: uint8 [N, 32].
            owners: int64 [N], what `near` gives back.
        """
        if not len(hashes):
            return
        self._current.add_with_ids(np.ascontiguousarray(hashes), np.ascontiguousarray(owners))
        if self._current.ntotal >= SEGMENT:
            self._seal()

    def near(self, hashes: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """The owners of hashes within the distance, for each hash.

        Args:
            hashes: uint8 [N, 32].

        Returns:
            N arrays, in no order; an owner stands once for each hash of it.
        """
        found: list[list[NDArray[np.int64]]] = [[] for _ in hashes]
        if len(hashes):
            for index in (*self._sealed, self._current):
                limits, _, owners = index.range_search(np.ascontiguousarray(hashes), self._distance + 1)
                for at, (begin, end) in enumerate(pairwise(limits)):
                    if end > begin:
                        found[at].append(owners[int(begin) : int(end)])
        nothing = np.empty(0, np.int64)
        return [np.concatenate(each) if each else nothing for each in found]

    def _seal(self) -> None:
        """Move what is in memory to a file, which is mapped."""
        import faiss

        path = self._folder / f"hashes-{len(self._sealed):04d}.faiss"
        with beside(path) as part:
            try:
                faiss.write_index_binary(self._current, str(part))
            except RuntimeError as error:  # so it says that the disk is full
                raise OSError(f"{path.name} cannot be written") from error
        mapped: Any = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP)
        mapped.nprobe = self._current.nprobe
        self._sealed.append(mapped)
        self._current.reset()


def pairs_within(
    hashes: NDArray[np.uint8], others: NDArray[np.uint8], distance: int
) -> list[NDArray[np.int64]]:
    """Which of some hashes lie within a distance of each, all compared with all.

    Args:
        hashes: uint8 [N, 32].
        others: uint8 [M, 32].
        distance: bits in which they differ at most.

    Returns:
        N arrays of places in `others`, in no order.
    """
    import faiss

    index = faiss.IndexBinaryFlat(BITS)
    index.add(np.ascontiguousarray(others))
    if not len(hashes):
        return []
    limits, _, found = index.range_search(np.ascontiguousarray(hashes), distance + 1)
    return [found[int(begin) : int(end)] for begin, end in pairwise(limits)]


def list_count(expected: int) -> int:
    """Lists of an index of so many hashes."""
    if expected <= EXACT:
        return 1
    return min(_MOST_LISTS, 1 << (expected // _LIST).bit_length())


def sample_size(expected: int) -> int:
    """Hashes that the centers of an index of so many are chosen from."""
    return list_count(expected) * _SAMPLE
