"""What strangers hand in ends, at worst, a process of its own."""

import io
import os
import signal
import subprocess
import sys
import time
import zlib

import pillow_heif
import pytest
from patience import DEAD
from PIL import Image
from running import png

from openkontext import InputError
from openkontext.service.http import decoding
from openkontext.service.http.decoding import check_picture
from openkontext.service.settings import Settings

SETTINGS = Settings(secret="s" * 32, max_pixels=1_000_000, max_upload_bytes=200_000)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_what_decodes_is_there_before_the_first_picture() -> None:
    code = (
        "import psutil\n"
        "from openkontext.service.http.decoding import make_ready\n"
        "make_ready()\n"
        "print([' '.join(each.cmdline()) for each in psutil.Process().children()])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "forkserver" in said
    assert "openkontext.service.http.decoding" in said  # imported there by now


def test_a_picture_passes_as_it_came() -> None:
    found = check_picture(png(40, 30), SETTINGS, "input_image")
    assert (found.width, found.height, found.content) == (40, 30, png(40, 30))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "TIFF", "GIF"])
def test_every_format_is_decoded_within_the_limits(kind: str) -> None:
    pillow_heif.register_heif_opener()
    settings = SETTINGS.model_copy(update={"max_upload_bytes": 5_000_000})

    def encoded(width: int, height: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "red").save(buffer, kind)
        return buffer.getvalue()

    found = check_picture(encoded(640, 480), settings, "input_image")
    assert (found.width, found.height, found.content) == (640, 480, encoded(640, 480))
    with pytest.raises(InputError, match="1001x1000 pixels; at most 1000000"):
        check_picture(encoded(1001, 1000), settings, "input_image")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "input_image: is empty"),
        (b"hello", "input_image: is not a picture"),
        (b"%PDF-1.7", "input_image: is a PDF document; export it as PNG"),
        (png()[:60], "input_image: the picture is damaged"),
        (bomb(50_000, 50_000), "too large; at most 1000000 pixels"),
        (bomb(1001, 1000), "1001x1000 pixels; at most 1000000"),
        (b"x" * 200_001, "at most 0.190735 MiB"),
        (png(1, 1), "too small"),
    ],
)
def test_what_cannot_be_used_is_said_in_words(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_picture(content, SETTINGS, "input_image")


def hang(*args: object) -> None:
    while True:
        pass


def eat(*args: object) -> None:
    blocks = [b"x" * 10**8]
    while True:
        blocks.append(blocks[0] * 2)


def crash(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("act", [hang, eat, crash])
def test_a_decoder_that_hangs_eats_or_crashes_ends_alone(
    act: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child is forked from this process so that it has the misbehaving decoder.
    monkeypatch.setattr(decoding, "_context", decoding.multiprocessing.get_context("fork"))
    monkeypatch.setattr(decoding, "_look", act)
    monkeypatch.setattr(decoding, "_PATIENCE", 2 * DEAD)  # it ends by itself, not because nobody waits
    started = time.monotonic()
    with pytest.raises(InputError, match="too much time or memory"):
        check_picture(png(), SETTINGS.model_copy(update={"decode_seconds": 1}), "input_image")
    assert time.monotonic() - started < DEAD


def test_a_mask_passes_as_it_came_and_must_mark_something() -> None:
    picture = Image.new("RGBA", (20, 20), (255, 255, 255, 255))
    picture.paste((255, 0, 0, 0), (0, 0, 10, 20))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    found = check_picture(buffer.getvalue(), SETTINGS, "mask", mask="any")
    assert (found.width, found.height, found.content) == (20, 20, buffer.getvalue())
    check_picture(buffer.getvalue(), SETTINGS, "image", mask="hole")
    with pytest.raises(InputError, match="image: has no transparent part"):
        check_picture(png(), SETTINGS, "image", mask="hole")
    with pytest.raises(InputError, match="mask: the mask is one gray everywhere; paint white"):
        check_picture(png(), SETTINGS, "mask", mask="any")
