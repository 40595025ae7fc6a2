import faiss
import numpy as np
import pytest

from openkontext.safety.known.nearest import MAX_DISTANCE, NearestHashes


def flipped(hashes: np.ndarray, flips: list[int], rng: np.random.Generator) -> np.ndarray:
    """Each of the hashes with as many of its bits turned."""
    bits = np.unpackbits(hashes, axis=1)
    for row, count in zip(bits, flips, strict=True):
        row[rng.choice(256, count, replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("spread", [256, 2])
def test_it_finds_what_faiss_finds_comparing_with_every_hash(spread: int) -> None:
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, spread, (4000, 32), dtype=np.uint8)  # 2: most words are the same in many hashes
    hashes[10] = hashes[11]  # twice in the list: found twice
    flat = faiss.IndexBinaryFlat(256)
    flat.add(hashes)
    index = NearestHashes(hashes)
    flips = [0, 1, 15, 16, 30, 31, 32, 33, 60, 128] * 6
    queries = flipped(hashes[rng.integers(0, len(hashes), len(flips))], flips, rng)
    queries[:2] = hashes[10], hashes[11]
    for distance in (0, 5, MAX_DISTANCE):
        limits, distances, places = flat.range_search(queries, distance + 1)  # nearer than the radius
        expected = [
            (query, int(places[i]), int(distances[i]))
            for query in range(len(queries))
            for i in range(limits[query], limits[query + 1])
        ]
        found = [(near.query, near.place, near.distance) for near in index.within(queries, distance)]
        assert sorted(found) == sorted(expected)
        assert len(found) > 2


def test_two_bits_in_each_word_but_one_are_the_worst_that_is_found() -> None:
    hashes = np.zeros((1, 32), np.uint8)
    words = np.full(16, 0b11, np.uint16)
    index = NearestHashes(hashes)
    assert index.within(words.view(np.uint8)[None], MAX_DISTANCE) == []  # 32 bits
    for number in range(16):
        near = words.copy()
        near[number] = 0b1000
        assert [n.distance for n in index.within(near.view(np.uint8)[None], MAX_DISTANCE)] == [31]


def test_farther_than_it_finds_for_sure_is_not_looked_for() -> None:
    with pytest.raises(ValueError, match="31 bits"):
        NearestHashes(np.zeros((1, 32), np.uint8)).within(np.zeros((1, 32), np.uint8), 32)
