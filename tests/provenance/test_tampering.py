"""Every changed byte is seen: of the picture, of the record, and of what holds the record in the file."""

import random
import re
import zlib
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openkontext import images
from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.provenance import Ingredient, Record, sign, verify

KINDS = ("PNG", "JPEG", "WEBP", "TIFF")


def unseen(data: bytes, positions: Iterable[int], seed: int = 0) -> list[int]:
    """Positions at which one flipped bit leaves a picture that is taken for whole."""
    choose = random.Random(seed)
    found = []
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << choose.randrange(8)
        with suppress(InputError):  # it may be no picture any more
            if verify(bytes(changed)).valid:
                found.append(position)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_anywhere_is_seen(signed: dict[str, bytes], kind: str) -> None:
    data = signed[kind]
    assert verify(data).valid
    assert unseen(data, random.Random(7).sample(range(len(data)), 60)) == []


def outside_of_room(data: bytes) -> list[int]:
    """Every position but of the zeros that keep room for a time-stamp; of those the ends and every 32nd."""
    rooms = [range(*found.span()) for found in re.finditer(rb"\0{5000,}", data)]
    left_out = {at for room in rooms for at in room[16:-16] if at % 32}
    return [at for at in range(len(data)) if at not in left_out]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "records", "positions"),
    [
        ("PNG", 1, lambda data: range(len(data))),
        ("PNG", 2, outside_of_room),
        ("JPEG", 1, outside_of_room),
        ("WEBP", 1, outside_of_room),
        ("TIFF", 1, outside_of_room),
    ],
)
def test_a_flipped_bit_at_every_position_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    records: int,
    positions: Callable[[bytes], Collection[int]],
) -> None:
    # The invisible mark says nothing of changes, and looking for it takes most of the time.
    monkeypatch.setattr("openkontext.provenance.report.detect", lambda pixels: None)
    # Small, since each position is checked alone: nearly all bytes of such a file are its records.
    pixels = np.random.default_rng(6).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = images.encode(pixels, kind)
    for number in range(records):
        parents = (Ingredient.of(images.load(data)),) if number else ()
        data = sign(
            images.encode(pixels, kind), kind, Record(model="nano", digest="ab" * 32, ingredients=parents)
        )
    assert verify(data).valid
    assert len(verify(data).chain) == records
    tried = positions(data)
    assert len(tried) > 2500 * records
    assert unseen(data, tried) == []


def test_what_the_signature_leaves_out_is_checked_too(signed: dict[str, bytes]) -> None:
    data = signed["PNG"]
    store = data.rindex(b"c2pa.assertions\0")  # of the picture's own manifest
    claim, signature = data.rindex(b"c2pa.claim.v2\0"), data.rindex(b"c2pa.signature\0")
    room = data.rindex(bytes(5000)) + 1000
    checksum = data.index(b"IDAT") - 5
    for position in (store + 3, claim + 6, signature + 6, room, checksum):
        assert unseen(data, [position]) == [], position
    changed = bytearray(data)
    changed[room] = 1
    chunk = data.index(b"caBX")
    length = int.from_bytes(data[chunk - 4 : chunk], "big")
    changed[chunk + 4 + length : chunk + 8 + length] = zlib.crc32(
        changed[chunk : chunk + 4 + length]
    ).to_bytes(4, "big")
    report = verify(bytes(changed))
    assert report.tampering == (
        "bytes around the record were changed: the room beside the signature is not empty",
    )


def test_a_changed_record_may_say_things_of_any_form(signed: dict[str, bytes]) -> None:
    data = signed["PNG"]
    changed = bytearray(data)
    at = data.rindex(b"\xa3omodelIdentifier")
    changed[at] = 0x83  # in CBOR a list of three, where a map of three was
    report = verify(bytes(changed))
    assert "what the record says was changed after it was signed" in report.tampering
    assert (report.chain, report.signature, report.model) == ((), None, None)


def test_a_large_record_over_several_jpeg_segments(pixels: NDArray[np.uint8]) -> None:
    data, prompt = images.encode(pixels, "JPEG"), "x" * 150_000
    large = sign(data, "JPEG", Record(model="m", digest="", prompt=prompt))
    assert verify(large).valid
    segments = [at for at in range(len(large) - 4) if large[at : at + 2] == b"\xff\xeb"][:3]
    assert len(segments) == 3
    heads = [at + offset for at in segments for offset in (4, 5, 6, 7, 8, 11, 12, 15, 16, 19)]
    assert unseen(large, heads) == []


@pytest.mark.parametrize("kind", KINDS)
def test_other_changes_are_seen(signed: dict[str, bytes], pixels: NDArray[np.uint8], kind: str) -> None:
    data = signed[kind]
    with_more = data + b"more"
    assert not verify(with_more).valid
    for end in (len(data) - 1, len(data) // 2):
        with suppress(InputError):
            assert not verify(data[:end]).valid
    stripped = verify(images.encode(images.load(data).pixels, kind))
    assert (stripped.signed, stripped.valid) == (False, False)


def test_a_record_on_another_picture_is_seen(signed: dict[str, bytes], pixels: NDArray[np.uint8]) -> None:
    data, other = signed["PNG"], images.encode(255 - pixels, "PNG")
    start = data.index(b"caBX") - 4
    chunk = data[start : data.index(b"IDAT") - 4]
    at = other.index(b"IDAT") - 4
    report = verify(other[:at] + chunk + other[at:])
    assert report.tampering == ("the picture was changed after it was signed",)


def test_the_command_tells_it(
    signed: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, plain = (tmp_path / name for name in ("good.png", "bad.png", "plain.png"))
    good.write_bytes(signed["PNG"])
    bad.write_bytes(signed["PNG"][:-40] + b"\1" + signed["PNG"][-39:])
    images.save(plain, np.zeros((16, 16, 3), np.uint8))
    assert main(["verify", str(good)]) == 0
    out, err = capsys.readouterr()
    assert f"{good}: unchanged since it was signed" in out
    assert "this installation" in out
    assert "1. created with nano" in out
    assert "2. edited with nano" in out
    assert err == ""
    assert main(["verify", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert "changed:    the picture was changed after it was signed" in out
    assert err == f"error: {bad}: the picture was changed after it was signed; do not believe its record\n"
    assert main(["verify", str(plain)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {plain}: carries no signed record")
    assert main(["verify", str(tmp_path / "none.png")]) == 2
    assert "no such file" in capsys.readouterr().err
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert main(["verify", str(text)]) == 2
    assert "is not a picture" in capsys.readouterr().err
