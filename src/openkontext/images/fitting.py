"""A picture to a model's size and back, and its pixels to the model's numbers and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import InputError

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
Box = tuple[int, int, int, int]

FITS = ("stretch", "crop", "pad")
"""Ways to bring a picture to a size of another aspect."""

_ROWS = 256
"""Rows that are blended at a time."""


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to a model's size, and what the model made back to the picture's aspect.

    By default the way back only shrinks: the result shows what the model made, no more and no less. Where the
    picture already has the model's aspect, the way back changes nothing.

    Raises:
        InputError: `mode` is not one of `FITS`.
    """

    input_size: Size
    """Of the picture that came in."""
    size: Size
    """That the model works at."""
    mode: str = "stretch"
    """stretch: all of the picture, squeezed to the model's aspect and back; crop: the middle of the picture,
    undistorted; pad: all of the picture, undistorted, with margins that are cut off again."""

    def __post_init__(self) -> None:
        if self.mode not in FITS:
            raise InputError(f"fit {self.mode!r} is unknown; choose {', '.join(FITS[:-1])} or {FITS[-1]}")

    @property
    def source_box(self) -> Box:
        """The part (left, top, right, bottom) of the picture that the model sees: less than all with crop."""
        inner = _within(self.size, self.input_size) if self.mode == "crop" else self.input_size
        return _centered(inner, self.input_size)

    @property
    def target_box(self) -> Box:
        """Where (left, top, right, bottom) it lies at the model's size: less than all with pad."""
        inner = _within(self.input_size, self.size) if self.mode == "pad" else self.size
        return _centered(inner, self.size)

    @property
    def output_size(self) -> Size:
        """Of the result: the picture's aspect (the model's with crop), as large as fits the model's size."""
        return self.size if self.mode == "crop" else _within(self.input_size, self.size)

    @property
    def note(self) -> str | None:
        """What of the picture is lost by this fit, for the user to know; None where nothing is."""
        left, top, right, bottom = self.source_box
        width, height = self.input_size
        if (right - left, bottom - top) == self.input_size:
            return None
        return f"cropped from {width}x{height} to the {right - left}x{bottom - top} in its middle"

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring pixels [H, W, 3] or a mask [H, W] of the input's size to the model's size."""
        left, top, right, bottom = self.target_box
        part = resize(_cut(array, self.source_box), (right - left, bottom - top))
        margins = [(top, self.size[1] - bottom), (left, self.size[0] - right)]
        # The picture's edge goes on into the margins, so that the model sees no border there.
        return np.pad(part, margins + [(0, 0)] * (part.ndim - 2), mode="edge")

    def undo(self, array: NDArray[Any], size: Size | None = None) -> NDArray[Any]:
        """Bring pixels [H, W, 3] or a mask [H, W] of the model's size back to the input's aspect.

        Args:
            array: of the model's size.
            size: of the result, such as `input_size`, in place of `output_size`.
        """
        return resize(_cut(array, self.target_box), size or self.output_size)


def side_by_side(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures [H, W, 3] joined to one, from left to right, all at the height of the first."""
    height = len(pictures[0])
    scaled = [resize(each, (max(1, round(each.shape[1] * height / len(each))), height)) for each in pictures]
    return np.concatenate(scaled, axis=1)


def blend(changed: Pixels, original: Pixels, *masks: NDArray[np.float32]) -> Pixels:
    """Lay one picture over another through the product of masks [H, W], all of one size.

    Returns:
        `changed` where all masks are 1 and `original` where one is 0, both to the bit; a mixture between.
    """
    mixed = np.empty_like(original)
    for top in range(0, len(original), _ROWS):  # floats of a large picture would take four times its memory
        rows = slice(top, top + _ROWS)
        mask = np.prod([mask[rows] for mask in masks], axis=0)
        below = original[rows].astype(np.float32)
        mixed[rows] = np.rint(below + (changed[rows] - below) * mask[..., None])
    return mixed


def to_model(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels [H, W, 3] -> what the encoder takes: float32 [1, 3, H, W] in -1..1."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


def from_model(images: NDArray[np.floating[Any]]) -> Pixels:
    """What the decoder gives, [1, 3, H, W] in -1..1 and a little beyond, -> pixels [H, W, 3]."""
    (image,) = images.astype(np.float32, copy=False)
    pixels = np.rint((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def resize(array: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resize pixels [H, W, 3] with the filter of the reference pipelines, a mask [H, W] without ringing."""
    if (array.shape[1], array.shape[0]) == size:
        return array
    resampling = Image.Resampling.LANCZOS if array.ndim == 3 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(array).resize(size, resampling))


def _within(aspect: Size, bounds: Size) -> Size:
    """The largest size of this aspect within the bounds."""
    scale = min(bounds[0] / aspect[0], bounds[1] / aspect[1])
    return max(1, round(aspect[0] * scale)), max(1, round(aspect[1] * scale))


def _centered(inner: Size, outer: Size) -> Box:
    left, top = (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
    return left, top, left + inner[0], top + inner[1]


def _cut(array: NDArray[Any], box: Box) -> NDArray[Any]:
    left, top, right, bottom = box
    return array[top:bottom, left:right]
