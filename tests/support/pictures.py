"""Pictures made here, and files of them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]


def picture(width: int = 60, height: int = 40) -> np.ndarray:
    """Smooth colors that differ along both axes, so that a turn or a mix-up of channels shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // (width - 1), rows * 255 // (height - 1)
    return np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(ours: np.ndarray, expected: np.ndarray) -> int:
    assert ours.shape == expected.shape
    return int(np.abs(ours.astype(int) - expected).max())


def flat(mode: str, color: Any, size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new(mode, size, color)


def only_color(pixels: np.ndarray) -> tuple[int, ...]:
    (color,) = np.unique(pixels.reshape(-1, 3), axis=0)
    return tuple(int(channel) for channel in color)


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG written by hand, for kinds that Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
