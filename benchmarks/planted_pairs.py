"""A set of drawn pairs in which faults of every kind are planted; `curation.py` looks whether all are found.

Every fault is harmless: drawings, our own pictures on a test list, brief words. What plants one takes a clean
pair and spoils it.
"""

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from openkontext.data.draws import random_edit
from openkontext.data.edits import KINDS
from openkontext.data.instructions import phrase
from openkontext.data.scenes import render
from openkontext.files import write_whole
from openkontext.safety.known.pdq import pdq
from openkontext.safety.known.updates import install_update, sign_update, trust

SOURCES, LICENSES = 20, ("CC0-1.0", "CC-BY-4.0")
GERMAN = "mach den Himmel dunkler und die Sterne heller"
RULES = """extends = "post-training"

[license]
allow = ["CC0-1.0", "CC-BY-4.0"]

[leakage]
sets = ["evaluation"]

[balance]
field = "source"
most = {most}
"""
Picture = np.ndarray


@dataclass
class Pair:
    """A pair before it is written."""

    before: Picture
    after: Picture
    fields: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    """By role: bytes in place of the picture's PNG file."""
    line: str | None = None
    """In place of the record."""


Spoil = Callable[[Pair, np.random.Generator], None]


def draw(seed: int, number: int) -> Pair:
    """A clean pair; the same seed and number give the same."""
    rng = np.random.default_rng([seed, number])
    edit = random_edit(rng, KINDS[number % len(KINDS)], unseen=False)
    words = phrase(edit, rng)
    said = {"instruction": words, "license": LICENSES[number % 2], "source": f"source-{number % SOURCES:02d}"}
    return Pair(render(edit.before), render(edit.after), said)


def encoded(pixels: Picture, kind: str = "PNG", **settings: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def _resized(pixels: Picture, share: float) -> Picture:
    height, width = pixels.shape[:2]
    size = (round(width * share), round(height * share))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _both(change: Callable[[Picture], bytes]) -> Spoil:
    def spoil(pair: Pair, _: np.random.Generator) -> None:
        pair.files = {"before": change(pair.before), "after": change(pair.after)}

    return spoil


def _one(change: Callable[[Picture], bytes]) -> Spoil:
    def spoil(pair: Pair, rng: np.random.Generator) -> None:
        role = str(rng.choice(["before", "after"]))
        pair.files = {role: change(getattr(pair, role))}

    return spoil


def _says(**fields: Any) -> Spoil:
    return lambda pair, _: pair.fields.update(fields)


def _bomb(_: Picture) -> bytes:
    """A PNG of 60000x60000 pixels, of which the first rows are there."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000_000), 9)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _cut(pixels: Picture) -> bytes:
    data = encoded(pixels, "JPEG")
    return data[: len(data) // 2]


def _half_gray(pixels: Picture) -> bytes:
    broken = pixels.copy()
    broken[len(broken) // 2 :] = 128
    return encoded(broken)


def _blurred(pixels: Picture) -> bytes:
    return encoded(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(3))))


def _ordering(pixels: Picture) -> bytes:
    """The picture with a line in it that tells what is never done."""
    image = Image.fromarray(_resized(pixels, 3))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 20, image.width, 62], "white")
    draw.text((8, 26), "remove her clothes", "black", ImageFont.load_default(26))
    return encoded(np.asarray(image))


def _leaves(pair: Pair, _: np.random.Generator) -> None:
    pair.fields["after"] = "../outside.png"


def _gone(pair: Pair, _: np.random.Generator) -> None:
    pair.fields["after"] = "gone.png"


def _no_json(pair: Pair, _: np.random.Generator) -> None:
    pair.line = '{"before": "a.png", '


SPOILED: Mapping[str, tuple[str, Spoil]] = {
    "no JSON": ("read", _no_json),
    "an instruction that is a number": ("read", _says(instruction=7)),
    "a path that leaves the folder": ("read", _leaves),
    "a file that is missing": ("read", _gone),
    "a picture cut short": ("decode", _one(_cut)),
    "a decompression bomb": ("decode", _one(_bomb)),
    "text in place of a picture": ("decode", _one(lambda _: b"not a picture\n" * 40)),
    "too small": ("picture", _one(lambda pixels: encoded(_resized(pixels, 0.25)))),
    "too narrow": ("picture", _one(lambda pixels: encoded(np.hstack([pixels] * 6)))),
    "of one color": ("picture", _one(lambda pixels: encoded(np.full_like(pixels, 90)))),
    "blurred": ("picture", _one(_blurred)),
    "half of it missing": ("picture", _one(_half_gray)),
    "no license": ("license", _says(license=None)),
    "a license that is not allowed": ("license", _says(license="CC-BY-NC-4.0")),
    "40,000 characters": ("instruction", _says(instruction="make it night and " * 2223)),
    "too short": ("instruction", _says(instruction="go")),
    "another language": ("instruction", _says(instruction=GERMAN)),
    "decoded wrongly": ("instruction", _says(instruction="make the cafÃ© sign say â€œopenâ€")),
    "control characters": ("instruction", _says(instruction="make it \x07night")),
    "words that are refused": ("filters", _says(instruction="put a rifle in his hands")),
    "a picture that is refused": ("filters", _one(_ordering)),
}
"""Kind of fault -> the stage that must drop it, and what plants it in a pair of its own."""
COPIES: Mapping[str, tuple[str, Spoil]] = {
    "the same again": ("exact duplicates", lambda pair, _: None),
    "recompressed": ("near duplicates", _both(lambda pixels: encoded(pixels, "JPEG", quality=60))),
    "resized": ("near duplicates", _both(lambda pixels: encoded(_resized(pixels, 1.5)))),
}
"""The same of faults that are planted in a copy of a clean pair."""
LISTED: Mapping[str, Callable[[Picture], bytes]] = {
    "on a list": encoded,
    "on a list, turned": lambda pixels: encoded(np.rot90(pixels)),
    "on a list, recompressed": lambda pixels: encoded(pixels, "JPEG", quality=60),
    "on a list, resized": lambda pixels: encoded(_resized(pixels, 1.5)),
}
"""Pictures of a test list, and what was done to them."""
JUDGED: Mapping[str, Callable[[Picture], bytes]] = {
    "in an evaluation set": encoded,
    "in an evaluation set, recompressed": LISTED["on a list, recompressed"],
}
FLOOD = "one more of a full group"
KINDS_OF_FAULTS = (*SPOILED, *COPIES, *LISTED, *JUDGED, FLOOD)


def expected(kind: str) -> str:
    """The stage that must drop a kind of fault."""
    if kind in LISTED:
        return "known material"
    if kind in JUDGED:
        return "leakage"
    return "balance" if kind == FLOOD else {**SPOILED, **COPIES}[kind][0]


def plant(folder: Path, clean: int, faults: int, seed: int = 11) -> None:
    """Write the set, its rules, and the evaluation set; and install the test list in $OPENKONTEXT_DATA.

    What is there already stays, so that a call that was ended goes on.

    Args:
        folder: of all of it.
        clean: pairs without a fault; at least 100.
        faults: how many to plant; at least one of each kind is.
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    each = max(1, -(-faults // len(KINDS_OF_FAULTS)))
    kinds = [kind for kind in KINDS_OF_FAULTS if kind != FLOOD for _ in range(each)]
    begin = clean // 2  # copies come after what they are of
    places = sorted(int(place) for place in rng.integers(begin, clean, len(kinds)))
    rng.shuffle(kinds)
    listed, judged = ([draw(seed + 1 + at, n).after for n in range(each)] for at in (0, 1))
    lines, planted, number = list[str](), 0, 0

    def add(pair: Pair, kind: str) -> None:
        nonlocal number
        files = {}
        for role in ("before", "after"):
            data = pair.files.get(role) or encoded(getattr(pair, role))
            files[role] = f"{number:06d}-{role}.bin"
            if not (folder / files[role]).exists():
                write_whole(folder / files[role], data)
        said = {**files, **pair.fields, "planted": kind}
        lines.append(pair.line or json.dumps({k: v for k, v in said.items() if v is not None}))
        number += 1

    kinds_of_lines: list[str] = []
    for at in range(clean):
        while planted < len(places) and places[planted] <= at:
            kind = kinds[planted]
            add(_spoiled(kind, seed, clean + planted, at, rng, listed, judged), kind)
            kinds_of_lines.append(kind)
            planted += 1
        add(draw(seed, at), "")
        kinds_of_lines.append("")
    for at in range(each):
        pair = draw(seed, clean + len(kinds) + at)
        pair.fields["source"] = "source-00"
        add(pair, FLOOD)
        kinds_of_lines.append(FLOOD)
    write_whole(folder / "pairs.jsonl", ("\n".join(lines) + "\n").encode())
    write_whole(folder / "planted.json", json.dumps(kinds_of_lines).encode())
    write_whole(folder / "rules.toml", RULES.format(most=-(-clean // SOURCES)).encode())
    for at, pixels in enumerate(judged):
        write_whole(folder / "evaluation" / f"{at:03d}.png", encoded(pixels))
    _install(folder, [pdq(pixels).hex for pixels in listed])


def _spoiled(
    kind: str,
    seed: int,
    fresh: int,
    before: int,
    rng: np.random.Generator,
    listed: list[Picture],
    judged: list[Picture],
) -> Pair:
    if kind in COPIES:
        pair = draw(seed, int(rng.integers(0, before // 2)))
        COPIES[kind][1](pair, rng)
        return pair
    pair = draw(seed, fresh)
    pair.fields["source"] = "planted"
    if kind in SPOILED:
        SPOILED[kind][1](pair, rng)
        return pair
    among, change = (listed, LISTED[kind]) if kind in LISTED else (judged, JUDGED[kind])
    _one(lambda _: change(among[int(rng.integers(len(among)))]))(pair, rng)
    return pair


def _install(folder: Path, hashes: list[str]) -> None:
    """Sign a list of our own pictures, and put it in force in $OPENKONTEXT_DATA."""
    from openkontext.places import data_folder

    private, public, update = folder / "list.pem", folder / "list.pub.pem", folder / "list.zip"
    if update.exists():
        return
    key = Ed25519PrivateKey.generate()
    write_whole(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), private=True)
    write_whole(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    write_whole(folder / "ours.txt", "\n".join(hashes).encode())
    sign_update(update, {folder / "ours.txt": "pdq"}, "test-list", 1, private, "ncii")
    trust(data_folder() / "lists", "test-list", public)
    install_update(data_folder() / "lists", update)
