"""A part of a picture that is edited in place of all of it, and room around a picture for more of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.images.fitting import Box, Size
from openkontext.images.reading import check_size
from openkontext.latents import nearest_size

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SIDES = ("left", "top", "right", "bottom")
"""Of a picture, in the order of a box."""

_MARGIN = 0.25
"""Of a mask's longer side: what the model sees around it on each side, to fit its work in."""
_LEAST_MARGIN = 32
"""Pixels of that at least: two tokens of a small picture."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of which a part alone is edited."""

    pixels: Pixels
    """All of it, uint8 [H, W, 3]."""
    box: Box
    """The part (left, top, right, bottom)."""

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part of pixels [H, W, 3] or of a mask [H, W]."""
        left, top, right, bottom = self.box
        return array[top:bottom, left:right]

    def paste(self, part: Pixels) -> Pixels:
        """The picture with its part replaced; every other pixel is its own, to the bit."""
        left, top, right, bottom = self.box
        whole = self.pixels.copy()
        whole[top:bottom, left:right] = part
        return whole


def around(mask: Float, sizes: tuple[Size, ...]) -> Box:
    """The part of a picture that shows all that a mask lets change, with some of what is around it.

    It has the aspect of the nearest of a model's sizes, where the picture is large enough for that.

    Args:
        mask: float32 [H, W], above 0 somewhere.
        sizes: (width, height) that the model was trained on.

    Returns:
        (left, top, right, bottom) within the picture.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    middle = [(columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2]
    inner = int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
    margin = max(_LEAST_MARGIN, round(_MARGIN * max(inner)))
    width, height = (side + 2 * margin for side in inner)
    across, down = nearest_size(width, height, sizes)
    asked = max(width, round(height * across / down)), max(height, round(width * down / across))
    spans = []
    for center, side, whole in zip(middle, asked, mask.shape[::-1], strict=True):
        side = min(side, whole)
        start = min(max(0, round(center - side / 2)), whole - side)
        spans.append((start, start + side))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def extended(pixels: Pixels, mask: Float | None, extend: Mapping[str, int]) -> tuple[Pixels, Float]:
    """A picture with room on its sides, and a mask that lets that change.

    The picture's edge goes on into the room: a model that leaves some of it alone leaves no border.

    Args:
        pixels: uint8 [H, W, 3].
        mask: float32 [H, W], where the picture itself may change too; None for nowhere.
        extend: pixels by the names in `SIDES`.

    Returns:
        The pixels and the mask of the larger size.

    Raises:
        InputError: the larger picture is too large or too narrow.
    """
    left, top, right, bottom = (extend.get(side, 0) for side in SIDES)
    height, width, _ = pixels.shape
    check_size((width + left + right, height + top + bottom), "the extended picture")
    margins = [(top, bottom), (left, right)]
    inner = np.zeros((height, width), np.float32) if mask is None else mask
    return (
        np.pad(pixels, [*margins, (0, 0)], mode="edge"),
        np.pad(inner, margins, constant_values=np.float32(1)),
    )
