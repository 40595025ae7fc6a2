"""Phones' formats, transparency in every form of PNG, names of what is not read, and one read a file."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from openkontext import images
from openkontext.errors import InputError
from openkontext.images import opening, reading
from openkontext.inputs import read_inputs
from openkontext.repository import RepositoryConfig
from openkontext.request import EditRequest

pillow_heif.register_heif_opener()  # writes HEIC here; what reads it is another library
PHONES = ["AVIF", "HEIF"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(mode: str, color: Any) -> Image.Image:
    return Image.new(mode, (32, 24), color)


def near(pixel: np.ndarray, color: tuple[int, int, int], by: int = 3) -> bool:
    return bool(np.abs(pixel.astype(int) - color).max() <= by)


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        images.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- AVIF and HEIC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PHONES)
def test_transparency_of_phones_formats_is_laid_on_white(kind: str) -> None:
    loaded = images.load(encoded(flat("RGBA", (255, 0, 0, 51)), kind))
    assert near(loaded.pixels[5, 5], (255, 204, 204))  # a fifth of red
    assert loaded.notes == ("transparency laid on white",)
    gray = images.load(encoded(flat("L", 77), kind))
    assert near(gray.pixels[5, 5], (77, 77, 77))


@pytest.mark.parametrize("bits", [10, 12])
def test_heic_of_more_than_8_bits_is_scaled(bits: int) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16)[None, :, None], (32, 1, 3))
    file = pillow_heif.from_bytes("RGB;16", (64, 32), ramp.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=95, bit_depth=bits)
    loaded = images.load(buffer.getvalue())
    assert np.abs(loaded.pixels - ramp / 257).max() <= 8


@pytest.mark.parametrize(
    ("primaries", "transfer", "said"),
    [
        (1, 13, None),
        (12, 13, "its colors are Display P3 and are taken as sRGB, so they may look pale"),
        (9, 16, "its light is HDR (PQ) and is taken as sRGB, so it may look dull"),
        (9, 18, "its light is HDR (HLG) and is taken as sRGB, so it may look dull"),
    ],
)
def test_colors_beyond_srgb_are_said(primaries: int, transfer: int, said: str | None) -> None:
    named = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 9}
    loaded = images.load(encoded(flat("RGB", "red"), "HEIF", **named, full_range_flag=1))
    assert loaded.notes == (() if said is None else (said,))


@pytest.mark.parametrize("kind", PHONES)
def test_of_a_sequence_one_picture_is_taken(kind: str) -> None:
    frames = [flat("RGB", color) for color in ("red", "green", "blue")]
    options = {"primary_index": 0} if kind == "HEIF" else {}
    loaded = images.load(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert near(loaded.pixels[5, 5], (255, 0, 0), 6)
    assert loaded.notes == ("only its first frame or page is used",)


def test_of_several_pictures_in_a_heic_the_main_one_is_taken() -> None:
    frames = [flat("RGB", color) for color in ("red", "green", "blue")]
    data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=2)
    loaded = images.load(data)
    assert near(loaded.pixels[5, 5], (0, 0, 255), 6)
    assert loaded.notes == ("only its main picture is used",)


@pytest.mark.parametrize(("kind", "media_type"), [("AVIF", "image/avif"), ("HEIF", "image/heic")])
def test_what_a_phones_file_is(kind: str, media_type: str) -> None:
    data = encoded(flat("RGB", "red"), kind)
    assert (images.identify(data), images.media_type(data)) == (kind, media_type)
    assert (images.load(data).file, images.load(data).format) == (data, kind)
    both = data.replace(data[4:12], b"ftypmif1", 1)  # a brand that the two share
    assert images.load(both).format == kind


@pytest.mark.parametrize("kind", PHONES)
def test_limits_hold_before_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PIXELS", 20_000)
    for size, fault in (
        ((200, 101), "is too large"),
        ((640, 20), "is too narrow"),
        ((15, 90), "is too small"),
    ):
        data = encoded(Image.new("RGB", size, "red"), kind)
        start = data.index(b"mdat") + 4
        damaged = data[:start] + bytes(len(data) - start)  # decoding it would say so
        assert f"{size[0]}x{size[1]} pixels {fault}" in refusal(damaged)
    fine = encoded(Image.new("RGB", (200, 100), "red"), kind)
    assert images.load(fine).size == (200, 100)
    start = fine.index(b"mdat") + 4
    assert "is damaged or cut short" in refusal(fine[:start] + bytes(len(fine) - start))


def test_a_program_keeps_its_own_reader_of_heic() -> None:
    before = Image.OPEN.get("HEIF")
    images.load(encoded(flat("RGB", "red"), "HEIF"))
    assert Image.OPEN.get("HEIF") is before


# ---- PNG's ways to be transparent --------------------------------------------------------------------------


def png(bits: int, color: int, pixels: np.ndarray, transparent: bytes, palette: bytes = b"") -> bytes:
    """A PNG written by hand: Pillow writes few of these kinds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    else:
        planes = np.unpackbits(pixels.reshape(height, -1, 1).astype(np.uint8), axis=2)[:, :, 8 - bits :]
        rows = [row.tobytes() for row in np.packbits(planes.reshape(height, -1), axis=1)]
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + (chunk(b"PLTE", palette) if palette else b"") + chunk(b"tRNS", transparent)
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def grays() -> Iterator[tuple[int, int, int]]:
    """Bits, the transparent gray, and one that is not: neighbors, where a slip of scale shows."""
    for bits in (1, 2, 4, 8, 16):
        top = 2**bits - 1
        for key in sorted({0, 1, top // 3, top}):
            yield bits, key, key - 1 if key else 1


@pytest.mark.parametrize(("bits", "key", "other"), list(grays()))
def test_a_transparent_gray_of_any_depth(bits: int, key: int, other: int) -> None:
    values = np.full((20, 32), other)
    values[:, :16] = key
    loaded = images.load(png(bits, 0, values, struct.pack(">H", key)))
    assert near(loaded.pixels[0, 0], (255, 255, 255), 0)
    assert near(loaded.pixels[0, 20], (round(other * 255 / (2**bits - 1)),) * 3, 0)
    assert "transparency laid on white" in loaded.notes


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_color_of_any_depth(bits: int) -> None:
    top = 2**bits - 1
    for key in ((0, 0, 0), (top, 0, top), (top // 3, top // 5, top // 17), (top, top, top)):
        other = (top - key[0], key[1], key[2])
        values = np.empty((20, 32, 3), int)
        values[:], values[:, :16] = other, key
        loaded = images.load(png(bits, 2, values, struct.pack(">HHH", *key)))
        assert near(loaded.pixels[0, 0], (255, 255, 255), 0)
        assert near(loaded.pixels[0, 20], tuple(value * 255 // top for value in other), 1)
        assert "transparency laid on white" in loaded.notes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_alpha_of_any_depth(bits: int) -> None:
    values = np.zeros((20, 32), int)
    values[:, 16:] = 1
    loaded = images.load(png(bits, 3, values, b"\x33\xff", bytes([255, 0, 0, 0, 0, 255])))
    assert near(loaded.pixels[0, 0], (255, 204, 204), 0)
    assert near(loaded.pixels[0, 20], (0, 0, 255), 0)


def test_premultiplied_images() -> None:
    assert near(images.load(flat("RGBa", (64, 0, 0, 128))).pixels[0, 0], (191, 127, 127), 1)
    assert near(images.load(flat("La", (64, 128))).pixels[0, 0], (191, 191, 191), 1)


# ---- what is not read --------------------------------------------------------------------------------------


def tiff(**tags: Any) -> bytes:
    """A TIFF with a small picture first, as raw files of cameras begin."""
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:], 16)] = value
        if name == "x014A":
            directory.tagtype[0x014A] = 4
    return encoded(flat("RGB", "red"), "TIFF", tiffinfo=directory)


NAMED = {
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "JPEG XL": b"\xff\x0a\xfa\x1f\x01\x90",
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n",
    "PSD": b"8BPS\0\1" + bytes(30),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG ": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- Inkscape -->\n<!DOCTYPE svg>\n<svg width='9'/>",
    "SVG drawing": "\ufeff<?xml version='1.0' encoding='utf-16'?><svg>".encode("utf-16-le"),
    "SVG drawing ": b"<?xml version='1.0'?><svg:svg xmlns:svg='http://www.w3.org/2000/svg'>",
    "SVGZ": b"\x1f\x8b\x08\0\0\0\0\0",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "PDF document": b"junk\n%PDF-1.4\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PostScript": b"%!PS-Adobe-3.0\n",
    "ICO": encoded(flat("RGB", "red"), "ICO"),
    "CUR": b"\0\0\2\0\1\0\x20\x20",
    "PNM": encoded(flat("RGB", "red"), "PPM"),
    "XCF": b"gimp xcf v011\0",
    "OpenEXR": b"v/1\x01\2\0\0\0",
    "HDR": b"#?RADIANCE\n",
    "DDS": encoded(flat("RGB", "red"), "DDS"),
    "QOI": b"qoif\0\0\0\x20",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0",
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "DNG": tiff(xC612=b"\1\4\0\0"),
    "NEF": tiff(x00FE=1, x014A=8),
    "MP4": b"\0\0\0\x20ftypisom\0\0\2\0",
    "QuickTime": b"\0\0\0\x14ftypqt  ",
    "WebM": b"\x1aE\xdf\xa3\x9f\x42\x86\x81",
    "AVI": b"RIFF\0\1\0\0AVI LIST",
    "ZIP": b"PK\3\4\x14\0",
    "web page": b"\n<!DOCTYPE html>\n<html><body><svg></svg>",
}


@pytest.mark.parametrize("name", NAMED)
def test_known_kinds_are_named_with_what_to_do(name: str) -> None:
    message = refusal(NAMED[name])
    assert name.strip() in message
    assert message.partition("; ")[2].startswith(("save", "export", "develop", "take"))


def test_a_heif_file_of_another_codec_is_named() -> None:
    assert "a HEIF picture that is coded in a way we cannot read" in refusal(b"\0\0\0\x18ftypavci" + bytes(9))


# ---- files are read once -----------------------------------------------------------------------------------


class Swapped(os.PathLike[str]):
    """A path whose file is another one at every look."""

    def __init__(self, *paths: Path) -> None:
        self.paths = list(paths)

    def __fspath__(self) -> str:
        return str(self.paths.pop(0) if len(self.paths) > 1 else self.paths[0])


def test_pictures_are_judged_kept_and_edited_by_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    first.write_bytes(encoded(flat("RGB", "red"), "PNG"))
    second.write_bytes(encoded(flat("RGB", "blue"), "PNG"))
    request = EditRequest(
        image=Swapped(first, second), reference_images=[Swapped(second, first)], prompt="make it night"
    )
    inputs = read_inputs(request, RepositoryConfig(sizes=((32, 32),)))
    assert inputs.pixels is not None
    assert near(inputs.pixels[0, 0], (255, 0, 0), 0)
    assert near(inputs.context[1][0, 0], (0, 0, 255), 0)
    for shown, ingredient, file in zip(inputs.shown, inputs.ingredients, (first, second), strict=True):
        assert shown.data == ingredient.file[1] == file.read_bytes()
        assert near(shown.pixels[0, 0], tuple(images.load(file).pixels[0, 0]), 0)


def test_a_file_larger_than_it_says_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_FILE", 3 * 2**20)
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    assert refusal(sparse) == f"{sparse}: is too large; at most 3 MiB can be read"
    with pytest.raises(InputError, match="at most 3 MiB"):
        images.read_metadata(sparse)
    with pytest.raises(InputError, match="at most 3 MiB"):
        images.load_mask(sparse, (32, 32))
    for length, fits in ((3 * 2**20, True), (3 * 2**20 + 1, False)):
        sparse.write_bytes(encoded(flat("RGB", "red"), "PNG").ljust(length, b"\0"))
        if fits:
            assert len(images.load(sparse).file or b"") == length
        else:
            assert "is too large" in refusal(sparse)
