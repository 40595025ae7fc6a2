"""The index of PDQ hashes against a comparison with every hash, bit by bit, in plain Python."""

import numpy as np
import pytest

from openkontext.safety.known.index import HashIndex
from openkontext.safety.known.lists import HashList
from openkontext.safety.known.pdq import DIHEDRAL, PdqHash, distance


def as_list(name: str, hashes: np.ndarray) -> HashList:
    return HashList(name, "pdq", hashes, ("", "A1"), np.ones(len(hashes), np.uint16))


def flipped(hashed: bytes, count: int, rng: np.random.Generator) -> bytes:
    """The hash with as many of its bits turned."""
    bits = np.unpackbits(np.frombuffer(hashed, np.uint8))
    bits[rng.choice(256, count, replace=False)] ^= 1
    return np.packbits(bits).tobytes()


@pytest.mark.parametrize("values", [256, 2])
def test_it_finds_the_nearest_within_31_bits_and_misses_none(values: int) -> None:
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, values, (500, 32), dtype=np.uint8)  # 2: all of them alike
    index = HashIndex([as_list("one", hashes[:200]), as_list("two", hashes[200:])])
    entries = [(name, place) for name, count in (("one", 200), ("two", 300)) for place in range(count)]
    found = 0
    for number, flips in enumerate([0, 1, 15, 16, 30, 31, 32, 33, 60] * 3):
        orientations = [bytes(rng.integers(0, 256, 32, dtype=np.uint8)) for _ in DIHEDRAL]
        turn = number % len(DIHEDRAL)
        orientations[turn] = flipped(hashes[int(rng.integers(len(hashes)))].tobytes(), flips, rng)
        nearest = [
            min(distance(orientation, each.tobytes()) for each in hashes) for orientation in orientations
        ]
        hit = index.match_pdq(PdqHash(tuple(orientations), 100))
        if min(nearest) > 31:
            assert hit is None
            continue
        found += 1
        assert hit is not None
        assert (hit.distance, hit.turned, hit.category) == (min(nearest), DIHEDRAL[turn], "A1")
        entry = hashes[entries.index((hit.list_name, hit.entry))].tobytes()
        assert distance(orientations[turn], entry) == hit.distance
    assert found >= 18


def test_of_a_picture_without_features_nothing_is_found() -> None:
    hashes = np.zeros((1, 32), np.uint8)
    index = HashIndex([as_list("one", hashes)])
    assert index.match_pdq(PdqHash((bytes(32),) * 8, 49)) is None
    assert index.match_pdq(PdqHash((bytes(32),) * 8, 50)) is not None
