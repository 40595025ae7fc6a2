"""PDQ: a perceptual hash of 256 bits and how much the picture gives to hash.

Written from the description by its authors, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing
Algorithm" (Facebook, 2019), and from the order of bits and the rounding of their C++ reference. Two pictures
that people call the same differ in few bits; the authors advise to match within 31 and to discard a quality
below 50.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float = NDArray[np.float32]

BITS = 256
"""Of a hash."""
BYTES = BITS // 8
"""Of a hash."""
MATCH_DISTANCE = 31
"""Bits in which two hashes of one picture may differ, as the authors advise."""
MIN_QUALITY = 50
"""Quality below which a hash says nothing about a picture, as the authors advise."""

DIHEDRAL = ("original", "rotate90", "rotate180", "rotate270", "flipx", "flipy", "flipplus1", "flipminus1")
"""What may have been done to a picture, in the order of `PdqHash.dihedral`; names of the reference."""

_MAX_SIDE = 512
"""Pixels that a side is first brought down to, as the reference does: the hash sees no detail beyond."""
_MIN_SIDE = 5
"""Pixels of a side below which the reference hashes nothing."""
_GRID = 64
"""Side of the picture whose frequencies are hashed."""
_FREQUENCIES = 16
"""Frequencies of each direction that are hashed: 1 to 16, without the constant."""
_PASSES = 2
"""Of the box filter: two make it a tent."""


@dataclass(frozen=True)
class PdqHash:
    """The hash of a picture and those of its rotations and mirror images."""

    dihedral: tuple[bytes, ...]
    """Eight hashes of 32 bytes, in the order of `DIHEDRAL`."""
    quality: int
    """0 (featureless) to 100; compare with `MIN_QUALITY`."""

    @property
    def hash(self) -> bytes:
        """32 bytes, the most significant first."""
        return self.dihedral[0]

    @property
    def hex(self) -> str:
        """The hash as lists write it: 64 hexadecimal digits."""
        return self.hash.hex()


def pdq(pixels: NDArray[np.uint8]) -> PdqHash:
    """Hash a picture.

    Args:
        pixels: uint8 [H, W, 3], sRGB, upright.

    Returns:
        The hash; with a side below 5 pixels, all zeros with quality 0.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < _MIN_SIDE:
        return PdqHash((bytes(BYTES),) * len(DIHEDRAL), 0)
    image = Image.fromarray(pixels)
    if max(width, height) > _MAX_SIDE:
        size = (min(width, _MAX_SIDE), min(height, _MAX_SIDE))
        image = image.resize(size, Image.Resampling.BOX)
    luma: Float = np.asarray(image, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grid: Float = np.linalg.multi_dot((_tent(luma.shape[0]), luma, _tent(luma.shape[1]).T))
    cosines: Float = np.linalg.multi_dot((_cosines(), grid, _cosines().T))
    return PdqHash(tuple(_bits(turned) for turned in _turned(cosines)), _quality(grid))


def distance(one: bytes, other: bytes) -> int:
    """Bits in which two hashes differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@lru_cache(maxsize=256)
def _tent(side: int) -> Float:
    """The filter [64, side] that blurs one direction twice with a box and keeps every (side / 64)th value."""
    window = -(-side // (2 * _GRID))
    ahead = (window + 2) // 2
    at, taps = np.arange(side)[:, None], np.arange(side)[None, :]
    box = ((taps >= at - (window - ahead)) & (taps < at + ahead)).astype(np.float64)
    box /= box.sum(axis=1, keepdims=True)
    kept = ((np.arange(_GRID) + 0.5) * side / _GRID).astype(int)
    return np.linalg.matrix_power(box, _PASSES)[kept].astype(np.float32)


@lru_cache(maxsize=1)
def _cosines() -> Float:
    """Rows 1 to 16 of the 64-point DCT-II: [16, 64]."""
    frequency, place = np.arange(1, _FREQUENCIES + 1)[:, None], np.arange(_GRID)[None, :]
    wave = np.cos(np.pi / (2 * _GRID) * frequency * (2 * place + 1))
    return (np.sqrt(2 / _GRID) * wave).astype(np.float32)


def _quality(grid: Float) -> int:
    """Sum of the gradients that are not small, scaled to 0..100 as the reference does."""
    steps = (np.diff(grid, axis=axis) * np.float32(100) / np.float32(255) for axis in (0, 1))
    return min(int(sum(np.abs(np.trunc(step)).sum() for step in steps)) // 90, 100)


def _turned(cosines: Float) -> list[Float]:
    """What the frequencies [16, 16] of a picture become when it is turned: signs and transposition alone."""
    odd = np.where(np.arange(_FREQUENCIES) % 2, 1, -1).astype(np.float32)  # -1 for frequencies 1, 3, 5, ...
    rows, columns = cosines * odd[:, None], cosines * odd[None, :]
    both = rows * odd[None, :]
    return [cosines, columns.T, both, rows.T, rows, columns, cosines.T, both.T]


def _bits(cosines: Float) -> bytes:
    """One bit a frequency: whether it lies above the (lower) median; the last frequency comes first."""
    values = cosines.ravel()
    median = np.partition(values, BITS // 2 - 1)[BITS // 2 - 1]
    return np.packbits((values > median)[::-1]).tobytes()
