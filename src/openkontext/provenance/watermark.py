"""An invisible mark in the pixels, which stays where a file's record was stripped.

It says which model made the picture: the first 32 bits of the model's digest, and 24 bits that tell a mark
from chance. It lies in middle frequencies of the brightness at a size of its own, so that it does not depend
on the picture's; each bit is spread over 48 of them (spread transform dither modulation: Chen and Wornell,
"Quantization index modulation", IEEE Transactions on Information Theory 47(4), 2001).
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float = NDArray[np.float64]

SIDE = 256
"""Pixels of the square at which the mark is put in and read."""
PAYLOAD, CHECK = 32, 24
"""Bits of the digest, and of the hash that tells a mark from chance: one picture in 17 million has one."""
SPREAD = 48
"""Frequencies over which one bit is spread."""
STEP = 90.0
"""Distance between the two values of a bit: a larger one stands more, and shows more."""
LOWEST, HIGHEST = 10, 76
"""Band of the frequencies: u + v of the cosine transform."""
_LUMA = np.array([0.299, 0.587, 0.114])


def embed(pixels: NDArray[np.uint8], digest: str) -> NDArray[np.uint8]:
    """Put the mark into a picture.

    Args:
        pixels: uint8 [H, W, 3].
        digest: of the model, as hexadecimal digits.

    Returns:
        uint8 [H, W, 3], hardly to be told from the picture.
    """
    bits = _bits(bytes.fromhex(digest[: PAYLOAD // 4]))
    marked = pixels.astype(np.float64)
    for _ in range(3):  # rounding, and pixels that are black or white already, take a part of it away
        spectrum = _spectrum(np.clip(np.rint(marked), 0, 255))
        places, directions = _places()
        values = (spectrum[places] * directions).sum(axis=1)
        wanted = 2 * STEP * np.rint((values - STEP * bits) / (2 * STEP)) + STEP * bits
        change = np.zeros_like(spectrum)
        change[places] = (wanted - values)[:, None] * directions
        cosines = _cosines()
        residue = Image.fromarray((cosines.T @ change @ cosines).astype(np.float32))
        size = pixels.shape[1], pixels.shape[0]
        marked += np.asarray(residue.resize(size, Image.Resampling.BICUBIC), np.float64)[:, :, None]
    return np.clip(np.rint(marked), 0, 255).astype(np.uint8)


def detect(pixels: NDArray[np.uint8]) -> str | None:
    """Read the mark.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        The first eight hexadecimal digits of the model's digest; None where there is no mark.
    """
    places, directions = _places()
    values = (_spectrum(pixels.astype(np.float64))[places] * directions).sum(axis=1)
    bits = np.rint(values / STEP).astype(np.int64) & 1
    payload = np.packbits(bits[:PAYLOAD].astype(np.uint8)).tobytes()
    return payload.hex() if np.array_equal(_bits(payload), bits) else None


def _bits(payload: bytes) -> NDArray[np.int64]:
    """The payload's bits, and those of its hash."""
    check = hashlib.sha256(b"openkontext watermark 1" + payload).digest()[: CHECK // 8]
    return np.unpackbits(np.frombuffer(payload + check, np.uint8)).astype(np.int64)


def _spectrum(pixels: Float) -> Float:
    """Cosine transform of the brightness, float64 [SIDE, SIDE]."""
    luma = Image.fromarray((pixels @ _LUMA).astype(np.float32))
    small = np.asarray(luma.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return _cosines() @ small @ _cosines().T


@lru_cache(maxsize=1)
def _cosines() -> Float:
    """The orthonormal cosine transform (DCT-II) as a matrix [SIDE, SIDE]."""
    rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    matrix = np.sqrt(2 / SIDE) * np.cos(np.pi * rows * (2 * columns + 1) / (2 * SIDE))
    matrix[0] /= np.sqrt(2)
    return matrix


@lru_cache(maxsize=1)
def _places() -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Float]:
    """Where each bit lies, two [bits, SPREAD], and the direction that it is read along, of length 1."""
    count = PAYLOAD + CHECK
    rows, columns = np.nonzero(_band())
    # Drawn from a hash: marks of today must be read by every version of numpy.
    drawn = np.frombuffer(hashlib.shake_256(b"openkontext watermark 1").digest(8 * len(rows)), "<u8")
    chosen = np.argsort(drawn, kind="stable")[: count * SPREAD].reshape(count, SPREAD)
    signs = np.where(drawn[chosen] & np.uint64(1), 1.0, -1.0)
    return (rows[chosen], columns[chosen]), signs / np.sqrt(SPREAD)


def _band() -> NDArray[np.bool_]:
    sums = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    return (sums >= LOWEST) & (sums <= HIGHEST)
