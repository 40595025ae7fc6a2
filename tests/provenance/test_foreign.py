"""Records of other programs in what we edit: the library judges these, and our strictness is for our own."""

import functools
import io
import json
import random
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import c2pa
import foreign
import numpy as np
import pillow_heif
import pytest
from certificates import KEYS
from PIL import Image
from tiny import write_tiny_repository

import openkontext
from openkontext import images
from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.provenance import Ingredient, Record, record_trial, sign, verify

INTENT, CAPTURE = c2pa.C2paBuilderIntent, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE
KINDS = ("PNG", "JPEG", "WEBP", "TIFF")

pillow_heif.register_heif_opener()  # writes HEIC here; what reads it is another library


@functools.cache
def picture(kind: str, side: int = 48) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def edited(parent: bytes, kind: str = "PNG", *references: bytes, side: int = 48) -> bytes:
    """A file of ours that says it was made from these."""
    pictures = ((parent, "parentOf"), *((one, "inputTo") for one in references))
    ingredients = tuple(Ingredient.of(images.load(data), relation) for data, relation in pictures)
    plain = images.encode(images.load(picture("PNG", side)).pixels, kind)
    return sign(plain, kind, Record(model="nano", digest="ab" * 32, ingredients=ingredients))


def assertion(label: str, data: Any, **more: str) -> dict[str, Any]:
    return {"label": label, "data": data, **more}


OPTIONS: dict[str, dict[str, Any]] = {
    "thumbnail": {},
    "plain": {"thumbnail": False},
    "version 1": {"version": 1, "thumbnail": False},
    "version 1, thumbnail": {"version": 1},
    "PNG thumbnail": {"settings": {"builder": {"thumbnail": {"format": "png", "long_edge": 20}}}},
    "camera": {
        "assertions": [
            assertion("c2pa.metadata", {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"}}, kind="Json"),
            assertion(
                "stds.schema-org.CreativeWork",
                {"@context": "https://schema.org", "@type": "CreativeWork"},
                kind="Json",
            ),
        ]
    },
    "several": {
        "assertions": [
            assertion("org.example.thing", {"a": [1, 2.5, None, True, "x" * 70_000]}),
            assertion("org.example.thing", {"b": {"c": "d"}}),
            assertion("cawg.training-mining", {"entries": {"cawg.data_mining": {"use": "notAllowed"}}}),
        ]
    },
    "created by intent": {"intent": (INTENT.CREATE, CAPTURE)},
    "box hash": {"settings": {"core": {"prefer_box_hash": True}}},
    "compressed": {"thumbnail": False, "settings": {"core": {"prefer_compress_manifests": True}}},
    "sha512": {"settings": {"core": {"hash_alg": "sha512"}}},
    "created assertions": {
        "settings": {"builder": {"created_assertion_labels": ["c2pa.actions", "c2pa.thumbnail.claim"]}}
    },
    "identity": {"identity": True},
    "embedded and remote": {"remote": "http://127.0.0.1:9/record"},
    "components": {"components": [("JPEG", picture("JPEG")), ("TIFF", picture("TIFF", 32))]},
    **{algorithm: {"algorithm": algorithm} for algorithm in KEYS},
}


def combinations() -> Iterator[tuple[str, str]]:
    """Each option in one format, the usual ones in all."""
    for index, name in enumerate(OPTIONS):
        for kind in KINDS if index < 4 else KINDS[index % 4 :][:1]:
            yield name, kind


def both_find_it_whole(data: bytes, kind: str) -> list[str]:
    """Hold our verdict against that of c2pa's own reader; the programs of the chain."""
    report = verify(data)
    assert (report.valid, report.tampering) == (True, ())
    assert foreign.judged(data, kind) == "Valid"
    assert not any(step.warnings for step in report.chain)
    return [step.software.split()[0] for step in report.chain]


@pytest.mark.parametrize(("name", "kind"), list(combinations()))
def test_three_edits_of_a_picture_with_another_programs_record(name: str, kind: str) -> None:
    data = foreign.record(picture(kind), kind, **OPTIONS[name])
    assert both_find_it_whole(data, kind) == ["OtherTool"]
    for number, written in enumerate((KINDS[KINDS.index(kind) - 1], kind, "JPEG"), 1):
        data = edited(data, written)
        assert both_find_it_whole(data, written) == ["OtherTool"] + ["openkontext"] * number


def test_three_edits_with_the_editor_are_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = openkontext.load(write_tiny_repository(tmp_path / "tiny"))
    file = tmp_path / "camera.jpg"
    file.write_bytes(foreign.record(picture("JPEG", 64), "JPEG", version=1))
    for number, name in enumerate(("1.webp", "2.png", "3.tiff"), 1):
        result = editor.edit(file, "make it red", seed=number, num_inference_steps=1)
        file = tmp_path / name
        result.save(file)
    chain = both_find_it_whole(file.read_bytes(), "TIFF")
    assert chain == ["OtherTool"] + ["openkontext"] * 3
    assert main(["verify", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3.tiff: unchanged since it was signed" in out
    assert "1. created (OtherTool 3.1, signed by Signer)" in out


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "GIF"])
def test_records_in_formats_that_we_only_read_are_kept(kind: str) -> None:
    data = foreign.record(picture(kind), kind)
    assert both_find_it_whole(data, kind) == ["OtherTool"]
    assert both_find_it_whole(edited(edited(data, "JPEG")), "PNG") == ["OtherTool"] + ["openkontext"] * 2
    changed = bytearray(data)
    changed[-30] ^= 1
    assert "the picture was changed after it was signed" in verify(bytes(changed)).tampering


@pytest.mark.parametrize("said", [[1, 2], "gpt", {"modelName": {"a": 1}, "modelIdentifier": 5}, None])
def test_another_program_may_mean_something_else_by_a_label(said: Any) -> None:
    data = foreign.record(picture("PNG"), "PNG", assertions=[assertion("c2pa.ai-disclosure", said)])
    assert both_find_it_whole(edited(data), "PNG") == ["OtherTool", "openkontext"]
    assert verify(data).model is None


def test_references_bring_their_records_too() -> None:
    photo = foreign.record(picture("JPEG"), "JPEG")
    data = edited(photo, "PNG", photo, edited(photo), picture("WEBP"))
    assert both_find_it_whole(data, "PNG") == ["OtherTool", "openkontext"]
    assert verify(data).chain[-1].inputs == 3


def test_a_time_stamped_record(time_stamp_authority: tuple[str, bytes]) -> None:
    data = foreign.record(picture("PNG"), "PNG", timestamp=time_stamp_authority[0])
    assert both_find_it_whole(edited(edited(data)), "PNG") == ["OtherTool", "openkontext", "openkontext"]


def test_a_record_that_lies_elsewhere_is_named_and_not_fetched() -> None:
    data = foreign.record(picture("JPEG"), "JPEG", remote="http://127.0.0.1:9/record", embed=False)
    assert verify(data).remote == "http://127.0.0.1:9/record"
    report = verify(edited(edited(data)))
    assert report.valid
    assert report.chain[0].warnings == ("its record lies elsewhere and was not fetched",)


def test_a_record_beside_its_file_is_not_looked_for() -> None:
    data = foreign.record(picture("PNG"), "PNG", embed=False)
    assert not verify(data).signed
    assert both_find_it_whole(edited(data), "PNG") == ["openkontext"]
    assert verify(edited(data)).chain[0].unsigned_parent


# Others that edit after us


def editions_of(ours: bytes) -> dict[str, bytes]:
    """What another program makes of a PNG of ours: edits, an update of the record alone, a redaction."""
    plain, parent = picture("PNG"), ("PNG", ours)
    label = json.loads(c2pa.Reader("image/png", io.BytesIO(ours)).json())["active_manifest"]
    disclosure = f"self#jumbf=/c2pa/{label}/c2pa.assertions/c2pa.ai-disclosure"
    return {
        "edit": foreign.record(plain, "PNG", parent=parent, intent=(INTENT.EDIT,)),
        "update": foreign.record(ours, "PNG", parent=parent, intent=(INTENT.UPDATE,), thumbnail=False),
        "redaction": foreign.record(plain, "PNG", parent=parent, redacted=disclosure),
        "collage": foreign.record(plain, "PNG", parent=parent, components=[parent, ("PNG", plain)]),
    }


def ending(kind: str) -> bytes:
    """A file whose record has a label on which the library ends the process."""
    asked = [assertion("com.example.zq", {"x": 1})]
    file = foreign.record(picture(kind), kind, assertions=asked).replace(b".zq", ".ü".encode())
    if kind != "PNG":
        return file
    at = file.index(b"caBX")
    end = at + 4 + int.from_bytes(file[at - 4 : at], "big")
    return file[:end] + zlib.crc32(file[at:end]).to_bytes(4, "big") + file[end + 4 :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_ends_the_library_ends_nothing_else(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for module in ("report", "signing"):  # the program itself: other tests fork in its place
        monkeypatch.setattr(f"openkontext.provenance.{module}.can_be_read", record_trial.can_be_read)
    report = verify(ending(kind))
    assert report.signed
    (said,) = report.tampering
    assert "cannot be read" in said
    ours = verify(edited(ending(kind)))
    assert ours.valid
    assert "left out" in ours.chain[-1].warnings[0]


def test_a_later_edit_by_another_program_is_that_programs_record() -> None:
    ours = edited(foreign.record(picture("JPEG"), "JPEG"))
    for name, theirs in editions_of(ours).items():
        assert both_find_it_whole(theirs, "PNG") == ["OtherTool", "openkontext", "OtherTool"], name
        report = verify(theirs)
        assert (report.trust, report.model) == ("unknown", None)
        assert report.chain[1].model == (None if name == "redaction" else "nano")
        again = both_find_it_whole(edited(theirs, "WEBP", ours), "WEBP")
        assert again == ["OtherTool", "openkontext", "OtherTool", "openkontext"], name


def test_a_change_after_another_programs_record_is_seen() -> None:
    ours = edited(foreign.record(picture("JPEG"), "JPEG"))
    for name, theirs in editions_of(ours).items():
        for place in (b"IDAT", b"OtherTool", b"modelName", b"nano"):
            changed = bytearray(theirs)
            if place in theirs:  # the redaction takes two away
                changed[theirs.rindex(place) + 40 * (place == b"IDAT")] ^= 1
                report = verify(bytes(changed))
                assert not report.valid, (name, place)
                assert foreign.judged(bytes(changed), "PNG") == "Invalid", (name, place)


# What was changed


def manifests(data: bytes) -> list[range]:
    """Where each manifest of a TIFF file's store lies, the picture's own last."""
    store = data.index(b"jumb") - 4
    end = store + int.from_bytes(data[store : store + 4], "big")
    at, found = store + 8 + int.from_bytes(data[store + 8 : store + 12], "big"), []
    while at < end:
        length = int.from_bytes(data[at : at + 4], "big")
        found.append(range(at, at + length))
        at += length
    return sorted(found, key=lambda manifest: b"OtherTool" not in data[manifest.start : manifest.stop])


def flipped(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def is_valid(data: bytes) -> bool:
    with suppress(InputError):  # it may be no picture any more
        return verify(data).valid
    return False


@pytest.fixture(scope="module")
def both() -> bytes:
    """A small TIFF file of ours, whose store holds another program's manifest and then ours."""
    return edited(foreign.record(picture("JPEG", 16), "JPEG"), "TIFF", side=16)


def test_our_own_record_is_held_to_its_form_beside_anothers(both: bytes) -> None:
    theirs, ours = manifests(both)
    own = both[ours.start : ours.stop]
    room = own.index(bytes(5000))
    shape = [
        own.index(label) + 2 for label in (b"c2pa.assertions\0", b"c2pa.claim.v2\0", b"c2pa.signature\0")
    ]
    shape += [own.index(b"c2ma") + 16, own.index(b"urn:c2pa"), room + 9, room + 4999, 0, 3, 5]
    shape += random.Random(3).sample(range(len(own)), 60)
    for position in shape:
        assert not is_valid(flipped(both, ours.start + position, position % 8)), position
    assert not is_valid(flipped(both, theirs.start - 10, 0))  # the outer box's description


def test_in_anothers_record_we_see_what_the_library_sees(both: bytes) -> None:
    theirs, _ = manifests(both)
    body = both[theirs.start : theirs.stop]
    content = [body.index(word) for word in (b"OtherTool", b"holiday", b"c2pa.created", b"bidb")]
    content += [body.index(b"bidb") + 300, body.index(b"\x84\x59") + 20]
    for position in content:
        assert not is_valid(flipped(both, theirs.start + position, 1)), position
    for position in random.Random(4).sample(range(len(body)), 60):
        changed = flipped(both, theirs.start + position, position % 8)
        with suppress(c2pa.C2paError):
            assert is_valid(changed) == (foreign.judged(changed, "TIFF") != "Invalid"), position


def test_anothers_record_put_in_the_place_of_the_signed_one_is_seen(both: bytes) -> None:
    theirs, _ = manifests(both)
    other = edited(foreign.record(picture("JPEG", 16), "JPEG"), "TIFF", side=16)
    its, _ = manifests(other)
    assert len(its) == len(theirs)
    swapped = both[: theirs.start] + other[its.start : its.stop] + both[theirs.stop :]
    assert not is_valid(swapped)
    assert not is_valid(both[: theirs.start] + bytes(len(theirs)) + both[theirs.stop :])


def test_what_was_changed_before_our_edit_is_told_of_that_step() -> None:
    photo = foreign.record(picture("JPEG"), "JPEG")
    scan = flipped(photo, photo.rindex(b"\xff\xda") + 60, 0)
    claim = flipped(photo, photo.index(b"OtherTool"), 0)
    for changed in (scan, claim):
        assert not verify(changed).valid
        report = verify(edited(edited(changed)))
        assert (report.valid, [bool(step.warnings) for step in report.chain]) == (True, [False, True, False])
