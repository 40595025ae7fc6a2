"""What is no picture, or a damaged one: a refusal in one line, and never a crash."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import FORMATS, encoded, flat, picture, png
from PIL import Image

from openkontext import images
from openkontext.errors import InputError


def refusal(source: Any) -> str:
    """The message of the InputError; it must be one line that begins with what was handed in."""
    with pytest.raises(InputError) as caught:
        images.load(source)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.png") == f"{tmp_path}/none.png: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: is a directory; name a picture"
    (tmp_path / "empty.png").touch()
    assert refusal(str(tmp_path / "empty.png")) == f"{tmp_path}/empty.png: is empty"
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")
    assert "cannot be opened" in refusal(tmp_path / ("long" * 100))
    assert "cannot be opened" in refusal("nul\0byte.png")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be opened" in refusal(tmp_path / "loop")
    assert "cannot be opened" in refusal(tmp_path / "empty.png" / "inside.png")


def test_a_file_that_may_not_be_read(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(encoded(picture()))
    file.chmod(0)
    with unprivileged():
        assert refusal(file) == f"{file}: cannot be opened (Permission denied)"


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    file = tmp_path / "page.jpg"
    file.write_text("<!doctype html><title>404</title>")
    assert refusal(file) == (
        f"{file}: is not a picture that can be read, but a web page; "
        "save the picture itself and hand that in: JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"
    )
    file.write_bytes(b"\1\2\3" * 20)
    assert refusal(file) == (
        f"{file}: is not a picture that can be read; hand in JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"
    )
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert refusal(heic) == "the image: the picture is damaged or cut short (its HEIC data cannot be read)"
    assert "is not a picture that can be read" in refusal(encoded(picture(), "PPM"))  # Pillow could read it


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_short_in_the_middle(kind: str) -> None:
    data = encoded(picture(), kind)
    assert "the picture is damaged or cut short" in refusal(data[: len(data) * 2 // 3])


def test_a_damaged_picture() -> None:
    data = bytearray(encoded(picture()))
    data[data.index(b"IDAT") + 4] ^= 0xFF  # the head of the compressed stream
    assert "the picture is damaged or cut short" in refusal(bytes(data))


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        ((1, 1), "is too small; each side must be at least 16"),
        ((20_000, 15), "is too small"),
        ((20_000, 20), "is too narrow; one side can be at most 20 times the other"),
        ((20, 401), "is too narrow"),
        ((11_000, 11_000), "is too large; at most 120 million pixels can be read"),
    ],
)
def test_sizes_beyond_the_limits_are_refused_before_decoding(size: tuple[int, int], fault: str) -> None:
    message = refusal(png(*size, 8, 2, b""))  # no pixels at all: decoding would call it damaged
    assert f"{size[0]}x{size[1]} pixels {fault}" in message


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    bomb = png(60_000, 60_000, 1, 0, bytes(10_000_000))  # 3.6 gigapixels in 10 kB
    assert refusal(bomb) == "the image: is too large; at most 120 million pixels can be read"
    assert "is too large" in refusal(Image.new("1", (11_000, 11_000)))


def test_sizes_at_the_limits_are_read() -> None:
    assert images.load(np.zeros((16, 320, 3), np.uint8)).size == (320, 16)
    assert images.load(encoded(flat("L", 0, (16, 16)))).size == (16, 16)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (None, "not NoneType"),
        (3, "not int"),
        ([[1]], "not list"),
        (np.zeros((3, 40, 40), np.uint8), r"not [3, 40, 40]"),
        (np.zeros((1, 40, 40, 3), np.uint8), r"not [1, 40, 40, 3]"),
        (np.zeros((0, 40, 3), np.uint8), r"not [0, 40, 3]"),
        (np.zeros(40, np.uint8), r"not [40]"),
        (np.full((40, 40, 3), 1.5), "must lie in 0..1"),
        (np.full((40, 40, 3), -0.1), "must lie in 0..1"),
        (np.full((40, 40, 3), np.nan), "must lie in 0..1"),
        (np.zeros((40, 40, 3), np.int64), "not int64"),
        (np.zeros((40, 40, 3), "O"), "not object"),
    ],
)
def test_things_that_are_no_images(source: Any, fault: str) -> None:
    assert fault in refusal(source)


def load_or_refuse(data: bytes) -> None:
    message = ""
    try:
        loaded = images.load(data)
    except InputError as error:
        message = str(error)
    else:
        assert loaded.pixels.shape == (*loaded.size[::-1], 3)
        assert loaded.pixels.dtype == np.uint8
    assert "\n" not in message


MAGIC = [
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\1\0\0WEBPVP8 ",
    b"GIF89a",
    b"BM",
    b"\0\0\0\x1cftypavif",
    b"\0\0\0\x1cftypheic",
    b"\0\0\0\x1cftypmif1",
    b"II*\0",
    b"MM\0*",
]


@settings(max_examples=300, deadline=None)
@given(magic=st.sampled_from([b"", *MAGIC]), body=st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(magic: bytes, body: bytes) -> None:
    load_or_refuse(magic + body)


SAMPLES = [encoded(picture(), kind) for kind in FORMATS]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_cut_and_altered_pictures_are_read_or_refused(data: st.DataObject) -> None:
    sample = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, min(len(sample) - 1, 200)))  # mostly the headers
        sample[place] = data.draw(st.integers(0, 255))
    load_or_refuse(bytes(sample[: data.draw(st.integers(0, len(sample)))]))
