"""Lists of known material in the forms that they come in."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from openkontext.errors import InputError
from openkontext.safety.known.index import HashIndex
from openkontext.safety.known.lists import HashList, read_list
from openkontext.safety.known.pdq import DIHEDRAL, PdqHash

ONE, TWO = "0f" * 32, "f0" * 32


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def hashed(value: bytes, quality: int = 100) -> PdqHash:
    """A picture whose turned hashes match nothing."""
    return PdqHash((value, *(bytes([turn] * 32) for turn in (1, 2, 3, 4, 5, 6, 7))), quality)


def test_one_hash_a_line(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "a.txt", f"# a comment\n{ONE}\r\n\n{TWO.upper()}\n"), "pdq")
    assert found.hashes.tobytes().hex() == ONE + TWO
    assert found.categories == ("",)


def test_csv_with_quality_and_category(tmp_path: Path) -> None:
    text = f"category,hash,quality\nA1,{ONE},100\nB2,{TWO},49\nB2,{TWO},50\nA1,{ONE},\n"
    found = read_list(write(tmp_path / "a.csv", text), "pdq")
    assert found.hashes.tobytes().hex() == ONE + TWO + ONE
    assert [found.categories[number] for number in found.category] == ["A1", "B2", "A1"]
    assert found.discarded == 1  # the authors of PDQ advise to discard below 50


def test_csv_without_titles(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "a.csv", f"{ONE},80,A2\n{TWO}\n"), "pdq")
    assert len(found.hashes) == 2
    assert found.categories == ("", "A2")


@pytest.mark.parametrize(
    ("name", "text", "kind", "where"),
    [
        ("a.txt", f"{ONE}\nnothex\n", "pdq", "line 2"),
        ("a.txt", f"{ONE}\n\n{ONE[:-2]}\n", "sha256", "line 3"),
        ("a.txt", f"{ONE[:-2]} 0\n", "pdq", "line 1"),
        ("a.csv", f"hash,quality\n{ONE},much\n", "pdq", "line 2"),
        ("a.csv", f"hash,quality\n{ONE},101\n", "pdq", "line 2"),
        ("a.csv", f"{ONE}\n", "md5", "line 1"),
        ("a.txt", ONE, "phash", "no kind of hash"),
    ],
)
def test_a_bad_line_is_named_but_not_shown(
    tmp_path: Path, name: str, text: str, kind: str, where: str
) -> None:
    with pytest.raises(InputError, match=where) as caught:
        read_list(write(tmp_path / name, text), kind)
    assert ONE[:-2] not in str(caught.value)


def test_a_list_does_not_show_its_hashes() -> None:
    found = HashList("a.txt", "md5", np.full((3, 16), 0xAB, np.uint8), ("",), np.zeros(3, np.uint16))
    assert repr(found) == "HashList('a.txt', md5, 3 hashes)"


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_exact_hashes_match_the_bytes_alone(kind: str) -> None:
    files = [f"file {number}".encode() for number in range(500)]
    data = b"".join(hashlib.new(kind, file).digest() for file in files)
    hashes = np.frombuffer(data, np.uint8).reshape(500, -1)
    halves = [
        HashList(f"{start}", kind, hashes[start : start + 250], ("", "A1"), np.ones(250, np.uint16))
        for start in (0, 250)
    ]
    index = HashIndex(halves)
    for number, file in enumerate(files):
        hit = index.match_bytes(file)
        assert hit is not None
        assert (int(hit.list_name) + hit.entry, hit.kind, hit.category) == (number, kind, "A1")
        assert index.match_bytes(file + b"\0") is None


def test_digests_that_end_in_zeros() -> None:
    digests = np.zeros((3, 16), np.uint8)
    digests[1, 0], digests[2, :2] = 7, (7, 1)
    index = HashIndex([HashList("a", "md5", digests, ("",), np.zeros(3, np.uint16))])
    digest = index._exact["md5"].find
    assert digest(bytes(16)) == 0
    assert digest(b"\7" + bytes(15)) == 1
    assert digest(b"\7\1" + bytes(14)) == 2
    assert digest(b"\7\2" + bytes(14)) is None


def test_pdq_matches_within_31_bits_as_brute_force_does() -> None:
    rng = np.random.default_rng(5)
    stored = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    parts = [
        HashList(str(start), "pdq", stored[start : start + 1000], ("",), np.zeros(1000, np.uint16))
        for start in (0, 1000, 2000)
    ]
    index = HashIndex(parts)
    for flips in [0, 1, 30, 31, 32, 33, 60] * 5:
        number = int(rng.integers(3000))
        bits = np.unpackbits(stored[number])
        bits[rng.choice(256, flips, replace=False)] ^= 1
        query = np.packbits(bits)
        nearest = np.unpackbits(stored ^ query, axis=1).sum(axis=1)
        hit = index.match_pdq(hashed(query.tobytes()))
        assert (hit is not None) == (nearest.min() <= 31)
        if hit is not None:
            assert (int(hit.list_name) + hit.entry, hit.distance) == (number, flips)


def test_a_turned_picture_is_said_to_be_turned() -> None:
    stored = np.frombuffer(bytes.fromhex(ONE), np.uint8)[None]
    index = HashIndex([HashList("a", "pdq", stored, ("",), np.zeros(1, np.uint16))])
    for place, turn in enumerate(DIHEDRAL):
        values = [bytes(32)] * 8
        values[place] = bytes.fromhex(ONE)
        hit = index.match_pdq(PdqHash(tuple(values), 100))
        assert hit is not None
        assert hit.turned == turn


def test_a_featureless_picture_matches_nothing() -> None:
    stored = np.frombuffer(bytes.fromhex(ONE), np.uint8)[None]
    index = HashIndex([HashList("a", "pdq", stored, ("",), np.zeros(1, np.uint16))])
    assert index.match_pdq(hashed(bytes.fromhex(ONE), quality=50)) is not None
    assert index.match_pdq(hashed(bytes.fromhex(ONE), quality=49)) is None
