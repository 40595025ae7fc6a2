"""Thumbnails of held pictures: small, and blurred until someone asks to see them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_SIDE = 512
"""Pixels of the longer side of what is kept."""
_BLUR = 12
"""The blur's standard deviation is the longer side divided by this: what is left is where colors are."""


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as the queue keeps it.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        A WebP file of at most 512 pixels a side.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return file.getvalue()


def shown(data: bytes, *, clear: bool) -> Image.Image:
    """A thumbnail as a reviewer sees it.

    Args:
        data: as `thumbnail` gives it.
        clear: whether the reviewer asked to see it unblurred.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image if clear else image.filter(ImageFilter.GaussianBlur(max(image.size) / _BLUR))
