"""How good a picture is: how sharp, how far from one color, how much of it is missing."""

import numpy as np
from PIL import Image

from openkontext.images.fitting import Pixels

VERSION = "1"
_LARGEST = 512
"""Pixels of the longer side that a picture is brought down to: sharpness beyond is none that a model sees."""
_SHARPEST = 0.99
"""Quantile of edges that tells sharpness: a background may be out of focus on purpose."""
_FILLS = ((128, 128, 128), (0, 0, 0), (0, 135, 0), (0, 77, 0))
"""Colors in which decoders leave what is missing: JPEG's gray, black, and the greens of YUV zeros."""
_NEAR_FILL = 2
"""Levels by which a pixel may differ from a fill, after recompression."""


def sharpness(pixels: Pixels) -> float:
    """The 99th percentile of the Laplacian's magnitude, in levels.

    The picture is brought down to 512 pixels first. Sharp photographs and drawings have 30 and more; one that
    is blurred over several pixels has less than 8.

    Args:
        pixels: uint8 [H, W, 3].
    """
    luma = _luma(pixels)
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(np.quantile(np.abs(laplacian), _SHARPEST))


def contrast(pixels: Pixels) -> float:
    """Standard deviation in levels, of the channel where it is largest; 0 for one flat color.

    Args:
        pixels: uint8 [H, W, 3].
    """
    return float(pixels.reshape(-1, 3).std(axis=0).max())


def blank(pixels: Pixels) -> float:
    """Share of the rows, from the bottom up, that a decoder left in one of its fills.

    Args:
        pixels: uint8 [H, W, 3].
    """
    height = len(pixels)
    most = 0
    for fill in _FILLS:
        # Row by row from the bottom: most pictures end with the first.
        rows = 0
        while rows < height and np.abs(pixels[-1 - rows].astype(np.int16) - fill).max() <= _NEAR_FILL:
            rows += 1
        most = max(most, rows)
    return most / height


def change(before: Pixels, after: Pixels) -> float:
    """Mean difference in levels between a picture and what became of it, at the size of the smaller.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3], of any size.
    """
    if before.shape != after.shape:
        size = min(before.shape[1], after.shape[1]), min(before.shape[0], after.shape[0])
        before, after = (np.asarray(Image.fromarray(each).resize(size)) for each in (before, after))
    return float(np.abs(before.astype(np.int16) - after).mean())


def _luma(pixels: Pixels) -> np.ndarray:
    image = Image.fromarray(pixels).convert("L")
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image, np.float32)
