"""What looks to NudeNet like a bare part of a body and is none: flat and shaded drawings, and round things.

NudeNet takes discs, balls, fruit and eggs for buttocks, at any size, hue and turn, so that looking once more
from elsewhere does not help. What helps is the picture itself. A drawing is smoother than skin under any
camera and has sharper edges than a blurred photograph; and a round thing ends all around, whereas a part of a
body goes on into the body. benchmarks/nudity.py prints how often each is so, on drawings and on photographs.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]

_PATCH = 96
"""Longer side in pixels to which a box is reduced before its grain is measured, so that the noise of a large
photograph does not count, nor its size."""
_SMALLEST = 8
"""Pixels of a box's shorter side below which nothing can be told: it is no lookalike then."""
_GRAIN = 0.45
"""Levels of 255 by which half of a drawing's pixels differ at most from their blurred surroundings. Skin in
photographs differs by 0.5 to 5, shaded drawings by 0.1 to 0.3."""
_SHARP = 15
"""How often an edge of a drawing exceeds its grain. In a photograph that was blurred until its grain is gone,
edges are gone, too."""
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue."""
_ANGLES = 72
"""Directions in which the outline of a round thing is looked for."""
_RADII = np.linspace(0.6, 1.35, 76)
"""Where along a direction it is looked for; 1 is the ellipse inside of the box."""
_STEP = 5
"""Places in `_RADII` that an edge is wide."""
_EDGE = 8
"""Levels by which an edge differs at least."""
_STANDS_OUT = 3
"""How often an edge exceeds what differs anywhere: grain is full of edges, and they are no outline."""
_CLOSED = 0.88
"""Share of the directions in which the outline of a round thing has an edge."""
_PLAIN = 0.8
"""Share of a round thing's inside that smooth shading explains. The rest is highlights, a stalk, a letter."""
_SHADING = 10
"""Levels from smooth shading that still are smooth."""


def is_drawn(pixels: NDArray[np.uint8], box: Box) -> bool:
    """Whether what is in a box is drawn: without grain, and with sharp edges.

    Args:
        pixels: uint8 [H, W, 3].
        box: left, top, right, bottom in pixels.
    """
    left, top, right, bottom = _inside(pixels, box)
    if min(right - left, bottom - top) < _SMALLEST:
        return False
    patch = Image.fromarray(pixels[top:bottom, left:right])
    patch.thumbnail((_PATCH, _PATCH), Image.Resampling.BOX, reducing_gap=None)
    values = np.asarray(patch, np.float32)
    difference = values - _blurred(values)
    # Grain in brightness, where three roundings even out; edges in any color, for not all are in brightness.
    grain = float(np.median(np.abs(difference @ _BRIGHTNESS)))
    edges = float(np.quantile(np.abs(difference).max(axis=2), 0.98))
    return grain < _GRAIN and edges > _SHARP * max(grain, 0.1)


def is_round(pixels: NDArray[np.uint8], box: Box) -> bool:
    """Whether a box holds one plain round thing: an ellipse that ends all around and is smooth inside.

    Args:
        pixels: uint8 [H, W, 3].
        box: left, top, right, bottom in pixels; the ellipse fills it, as NudeNet's boxes do.
    """
    left, top, right, bottom = _inside(pixels, box)
    if min(right - left, bottom - top) < _SMALLEST:
        return False
    size = _outline(pixels, box)
    return size is not None and (is_drawn(pixels, box) or _is_plain(pixels, box, size))


def _outline(pixels: NDArray[np.uint8], box: Box) -> float | None:
    """Mean radius of the outline as a share of the box's ellipse; None where it is not closed."""
    values, seen = _rays(pixels, box)
    radii = (_RADII[_STEP:] + _RADII[:-_STEP]) / 2
    strength = np.abs(values[:, _STEP:] - values[:, :-_STEP]).max(axis=2)
    strength = np.where(seen[:, _STEP:] & seen[:, :-_STEP], strength, 0)
    least = max(_EDGE, _STANDS_OUT * float(np.median(strength)))
    angles = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    # An ellipse of another size, off the box's middle and a little turned, to the second order.
    waves = np.stack([np.ones(_ANGLES), *(f(n * angles) for n in (1, 2) for f in (np.cos, np.sin))], axis=1)
    around: NDArray[np.float64] | None = None
    for reach in (1.0, 0.2, 0.15, 0.1, 0.08, 0.06):
        near = strength if around is None else _near(strength, radii, around, reach)
        at = radii[near.argmax(axis=1)]
        sure = near.max(axis=1) > least
        if sure.sum() < _ANGLES // 2:
            return None
        if around is None:
            around = np.full(_ANGLES, np.median(at[sure]))
        else:
            around = waves @ np.linalg.lstsq(waves[sure], at[sure])[0]
    assert around is not None
    closed = (_near(strength, radii, around, 0.05).max(axis=1) > least).mean()
    return float(around.mean()) if closed >= _CLOSED else None


def _near(
    strength: NDArray[np.float32], radii: NDArray[np.float64], around: NDArray[np.float64], reach: float
) -> NDArray[np.float32]:
    """Edges within reach of an outline, the others 0."""
    return np.where(np.abs(radii - around[:, None]) < reach, strength, np.float32(0))


def _rays(pixels: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values along rays from the box's middle, [angles, radii, 3], and which of them lie in the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top, right, bottom = _inside(
        pixels, (box[0] - width // 4, box[1] - height // 4, box[2] + width // 4, box[3] + height // 4)
    )
    coarse = max(1, round(max(width, height) / _PATCH))
    values = np.asarray(Image.fromarray(pixels[top:bottom, left:right]).reduce(coarse), np.float32)
    angles = (np.arange(_ANGLES) * 2 * np.pi / _ANGLES)[:, None]
    x = ((box[0] + box[2]) / 2 - left + width / 2 * np.cos(angles) * _RADII) / coarse - 0.5
    y = ((box[1] + box[3]) / 2 - top + height / 2 * np.sin(angles) * _RADII) / coarse - 0.5
    seen = (x >= 0) & (x <= values.shape[1] - 1) & (y >= 0) & (y <= values.shape[0] - 1)
    left_x = np.clip(x.astype(int), 0, max(values.shape[1] - 2, 0))
    top_y = np.clip(y.astype(int), 0, max(values.shape[0] - 2, 0))
    right_x, low_y = np.minimum(left_x + 1, values.shape[1] - 1), np.minimum(top_y + 1, values.shape[0] - 1)
    across, down = np.clip(x - left_x, 0, 1)[..., None], np.clip(y - top_y, 0, 1)[..., None]
    upper = values[top_y, left_x] * (1 - across) + values[top_y, right_x] * across
    lower = values[low_y, left_x] * (1 - across) + values[low_y, right_x] * across
    return (upper * (1 - down) + lower * down).astype(np.float32), seen


def _is_plain(pixels: NDArray[np.uint8], box: Box, size: float) -> bool:
    """Whether a polynomial of the fourth degree explains the inside of an outline, highlights left out."""
    margin_x = round((box[2] - box[0]) / 2 * (1 - size))
    margin_y = round((box[3] - box[1]) / 2 * (1 - size))
    left, top, right, bottom = _inside(
        pixels, (box[0] + margin_x, box[1] + margin_y, box[2] - margin_x, box[3] - margin_y)
    )
    small = Image.fromarray(pixels[top:bottom, left:right]).resize((32, 32), Image.Resampling.BOX)
    y, x = (np.mgrid[0:32, 0:32] + 0.5) / 16 - 1
    inside = x * x + y * y < 0.85**2
    values = np.asarray(small, np.float64)[inside]
    terms = np.stack([x**i * y**j for i in range(5) for j in range(5 - i)], axis=-1)[inside]
    kept = np.ones(len(values), bool)
    off = np.zeros(len(values))
    for limit in (40, 24, 16, _SHADING, _SHADING):
        off = np.abs(values - terms @ np.linalg.lstsq(terms[kept], values[kept])[0]).max(axis=1)
        kept = off < limit
        if kept.sum() < len(values) // 2:
            return False
    return bool((off < _SHADING).mean() > _PLAIN)


def _inside(pixels: NDArray[np.uint8], box: Box) -> Box:
    """The part of a box that lies in the picture."""
    height, width = pixels.shape[:2]
    return max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])


def _blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [H, W, C] under a Gaussian whose standard deviation is one pixel."""
    weights = np.exp(-0.5 * np.arange(-3, 4, dtype=np.float32) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        wide = np.pad(values, [(3, 3) if at == axis else (0, 0) for at in range(3)], mode="edge")
        length = values.shape[axis]
        values = sum(
            (w * wide.take(range(at, at + length), axis) for at, w in enumerate(weights)),
            np.zeros_like(values),
        )
    return values
