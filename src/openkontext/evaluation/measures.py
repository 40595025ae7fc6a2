"""What the judge measures: renderings, errors between pictures, outlines, colors.

Errors are mean absolute differences over pixels and channels, as shares of full scale.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from openkontext.data.palette import COLORS
from openkontext.data.scenes import Scene, Thing, box_of, colored_area, render, silhouette
from openkontext.images.fitting import Pixels

SHIFT = 4
"""Pixels by which a thing may stand beside its place: an eighth of its side, hardly seen."""

CHANGED_SHARE = 0.4
"""Share of a thing's usual contrast at which a pixel counts as changed: about half, where a soft edge has its
middle."""

CHANGED_RANGE = (0.03, 0.12)
"""Bounds of that threshold: above an autoencoder's noise, below the contrast of most things."""

SOLID_SHARE = 0.5
"""Error of the asked thing, as a share of its contrast: nearer to being there than not."""

COLOR_MARGIN = 0.03
"""Two colors read alike within this error: a third of what is between the nearest two by night."""

COLOR_TOLERANCE = 0.10
"""Error of a mean color against the asked one: what is farther off is another color, named here or not."""

STAY_RANGE = (0.05, 0.12)
"""Bounds of that error: blur takes about 0.05 from small drawings, other colors are 0.12 away or more."""

GRID = (6, 4)
"""Rows and columns of the coarse view of a background: it shows sky, skyline and ground, no single hills."""

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


def shift_errors(scene: Scene, thing: Thing, picture: Float, expected: Float) -> Float:
    """Errors around a thing for every shift of the picture: [2 * SHIFT + 1, 2 * SHIFT + 1]."""
    window = window_of(scene, thing)
    rows, columns = window
    near = padded(picture)[rows.start : rows.stop + 2 * SHIFT, columns.start : columns.stop + 2 * SHIFT]
    target = expected[window]
    shifted = np.lib.stride_tricks.sliding_window_view(near, target.shape[:2], axis=(0, 1))
    return np.abs(shifted - target.transpose(2, 0, 1)).mean(axis=(2, 3, 4))


def overlap(scene: Scene, thing: Thing, picture: Float) -> float:
    """Intersection over union of where the thing changes the scene without it and where the picture does."""
    window = window_of(scene, thing)
    behind = draw(put(scene, thing))
    asked = np.abs(draw(scene) - behind).mean(axis=2)
    usual = np.median(asked[silhouette(scene, thing)])
    threshold = np.clip(CHANGED_SHARE * usual, *CHANGED_RANGE)
    a = asked[window] > threshold
    b = np.abs(picture - behind).mean(axis=2)[window] > threshold
    return float((a & b).sum() / max((a | b).sum(), 1))


def is_solid(scene: Scene, thing: Thing, picture: Float) -> bool:
    """Whether the thing is there rather than a trace of it: nearer to the thing than to what is behind it."""
    place = silhouette(scene, thing)
    drawn, behind = draw(scene), draw(put(scene, thing))
    return difference(picture, drawn, place) <= max(
        SOLID_SHARE * difference(drawn, behind, place), STAY_RANGE[0]
    )


def color_of(scene: Scene, thing: Thing, picture: Float) -> str:
    """The color that a thing has, by the mean over its colored area, in the light of this scene.

    Where two read alike, as in black and white, it is the one that the scene says. It may be none: "off".
    """
    drawn = {color: draw(put(scene, thing, replace(thing, color=color))) for color in COLORS}
    # Where something stands in front of the thing, its color makes no difference.
    area = colored_area(scene, thing) & (drawn["black"] != drawn["white"]).any(axis=2)
    if not area.any():
        return thing.color
    mean = picture[area].mean(axis=0)
    errors = {color: difference(image[area].mean(axis=0), mean) for color, image in drawn.items()}
    nearest = min(errors, key=errors.__getitem__)
    if errors[nearest] < errors[thing.color] - COLOR_MARGIN:
        return nearest
    return thing.color if errors[thing.color] <= COLOR_TOLERANCE else "off"


def coarse(picture: Float, where: Mask) -> Float:
    """Mean colors over a grid, of the pixels in `where` only: [cells, 3], empty cells left out."""
    height, width = where.shape
    row, column = np.arange(height) * GRID[0] // height, np.arange(width) * GRID[1] // width
    cells = (row[:, None] * GRID[1] + column)[where]
    counts = np.bincount(cells, minlength=GRID[0] * GRID[1])
    sums = np.stack([np.bincount(cells, channel, counts.size) for channel in picture[where].T], axis=1)
    means: Float = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return means


def window_of(scene: Scene, thing: Thing) -> tuple[slice, slice]:
    """The square of a thing, with room for a shift, as rows and columns."""
    left, top, side = box_of(scene, thing)
    return (
        slice(max(top - SHIFT, 0), min(top + side + SHIFT, scene.height)),
        slice(max(left - SHIFT, 0), min(left + side + SHIFT, scene.width)),
    )


def padded(picture: Float) -> Float:
    """The picture with its edges repeated, for shifts."""
    return np.pad(picture, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")


def grown(mask: Mask, pixels: int) -> Mask:
    """The mask, widened by so many pixels."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def put(scene: Scene, old: Thing, new: Thing | None = None) -> Scene:
    """The scene with a thing in another's stead, or without it."""
    things = (new if thing == old else thing for thing in scene.things)
    return replace(scene, things=tuple(thing for thing in things if thing is not None))


@lru_cache(maxsize=128)
def draw(scene: Scene) -> Float:
    """The picture of a scene in 0..1, shared between calls."""
    return scaled(render(scene))


def scaled(picture: Pixels) -> Float:
    """Bytes -> 0..1."""
    return picture.astype(np.float32) / np.float32(255)


def difference(a: Float, b: Float, where: Mask | None = None) -> float:
    """Mean absolute difference, over the pixels in `where` only if given."""
    apart = np.abs(a - b)
    return float((apart if where is None else apart[where]).mean())
