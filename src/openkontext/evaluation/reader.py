"""The reader: does a picture show the asked change, and does all else stay?

It knows the scene before and after, and nothing of any model. It compares the output with renderings: of the
scene as asked, and of what else it could show (other colours, other shapes, the thing not there, other
landscapes).

The thresholds were set before any model was judged, on renderings alone: the true picture passes when blurred
and saved as a JPEG, the unchanged input and wrong edits fail. Errors are mean absolute differences over
pixels and channels, as shares of full scale.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from openkontext.data.edits import GLOBAL_KINDS, Edit, global_changes
from openkontext.data.palette import COLOURS
from openkontext.data.scenes import Scene, Thing, box_of, coloured_area, render, silhouette
from openkontext.data.things import GROUND_THINGS, SKY_THINGS
from openkontext.images.fitting import Pixels

OUTSIDE_TOLERANCE = 0.06
"""Error outside the edit's region: an autoencoder's round trip makes about 0.02."""

SHIFT = 4
"""Pixels by which a thing may stand beside its place: an eighth of its side, hardly seen."""
OVERLAP = 0.5
"""Intersection over union with the asked outline: the usual bound for a thing that is found."""
CHANGED_SHARE = 0.4
"""Share of a thing's usual contrast at which a pixel counts as changed: about half, where a soft edge has its
middle."""
CHANGED_RANGE = (0.03, 0.12)
"""Bounds of that threshold: above an autoencoder's noise, below the contrast of most things."""
SOLID_SHARE = 0.5
"""Error of the asked thing, as a share of its contrast: nearer to being there than not."""
COLOUR_MARGIN = 0.03
"""Two colours read alike within this error: a third of what is between the nearest two by night."""
COLOUR_TOLERANCE = 0.10
"""Error of a mean colour against the asked one: what is farther off is another colour, named here or not."""

GONE_SHARE = 0.5
"""How near to the place without the thing, as a share of how near to the thing; a faint ghost fails."""
GONE_TOLERANCE = 0.10
"""Error of the place where the thing was: what is behind it can only be guessed."""
SOFT_EDGE = 2
"""Pixels around a new thing that are not looked at for the old one."""
FEWEST_PIXELS = 12
"""Pixels that must show of a thing for the reader to judge it: fewer are all edge."""

STAY_SHARE = 0.5
"""Error of a thing that stays, as a share of its contrast: nearer to being there than to being gone."""
STAY_RANGE = (0.05, 0.12)
"""Bounds of that error: blur takes about 0.05 from small drawings, other colours are 0.12 away or more."""

GRID = (6, 4)
"""Rows and columns of the coarse view of a background: it shows sky, skyline and ground, no single hills."""
BACKGROUND_TOLERANCE = 0.06
"""Error of the coarse view: hills and houses in other places, the painter's to choose, make 0.04 at most."""
PICTURE_TOLERANCE = 0.10
"""Error of a picture in another season, at another time or in another look: sun, stars and snow are the
painter's to place, all else is given."""

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a picture."""

    check: str
    """One of size, presence, shape, colour, leftover, outside, others, background, picture."""
    words: str
    """What was found, in a few words."""


@dataclass(frozen=True)
class Reading:
    """What the reader found."""

    faults: tuple[Fault, ...]
    """What is wrong; none for a success."""

    @property
    def success(self) -> bool:
        """Whether the picture shows what was asked and all else stayed."""
        return not self.faults


def read(edit: Edit, output: Pixels) -> Reading:
    """Read an editor's picture.

    Args:
        edit: what was asked.
        output: uint8 [height, width, 3]; of another size than the scene's it is a fault.
    """
    if output.shape != (edit.after.height, edit.after.width, 3):
        return Reading((Fault("size", f"{output.shape[1]}x{output.shape[0]} pixels"),))
    faults = _whole_faults if edit.kind in GLOBAL_KINDS else _local_faults
    return Reading(tuple(faults(edit, _scaled(output))))


def _local_faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    """Faults of an edit of one thing."""
    outside = ~edit.region()
    if edit.result is not None:
        yield from _result_faults(edit.after, edit.result, picture)
    if edit.subject is not None and edit.kind != "recolour":
        yield from _leftover_faults(edit, edit.subject, picture)
    if _error(picture, _drawn(edit.before), outside) > OUTSIDE_TOLERANCE:
        yield Fault("outside", "the rest changed")
    yield from _stay_faults(edit.after, (t for t in edit.after.things if t != edit.result), picture, outside)


def _whole_faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    """Faults of an edit of the whole picture: landscape, season, time and look must all read as asked."""
    scene = edit.after
    background = ~np.any([silhouette(scene, thing) for thing in scene.things], axis=0)
    view = _coarse(picture, background)
    errors = {
        name: _error(_coarse(_drawn(other), background), view) for name, other in _possible_readings(scene)
    }
    nearest = min(errors, key=errors.__getitem__)
    if nearest:
        yield Fault("background", f"looks like {nearest}")
    elif errors[nearest] > BACKGROUND_TOLERANCE:
        yield Fault("background", "the background is off")
    elif edit.kind != "background" and _error(picture, _drawn(scene)) > PICTURE_TOLERANCE:
        yield Fault("picture", "the picture is off")
    yield from _stay_faults(scene, scene.things, picture, np.ones_like(background))


def _result_faults(scene: Scene, thing: Thing, picture: Float) -> Iterator[Fault]:
    """Whether the asked thing is in its place, in its shape and its colour."""
    shapes = SKY_THINGS if thing.in_sky else GROUND_THINGS
    drawn = {shape: _drawn(_put(scene, thing, replace(thing, shape=shape))) for shape in shapes}
    errors = {shape: _errors_by_shift(scene, thing, picture, drawn[shape]) for shape in shapes}
    down, right = np.unravel_index(errors[thing.shape].argmin(), errors[thing.shape].shape)
    found = _padded(picture)[down : down + scene.height, right : right + scene.width]
    if _overlap(scene, thing, picture) < OVERLAP or not _solid(scene, thing, found):
        yield Fault("presence", f"no {thing.shape} there")
        return
    shape = min(shapes, key=lambda s: errors[s].min())
    if shape != thing.shape:
        yield Fault("shape", f"looks like a {shape}")
    colour = _colour(scene, thing, found)
    if colour != thing.colour:
        words = f"is no {thing.colour}" if colour == "off" else f"is {colour}"
        yield Fault("colour", f"the {thing.shape} {words}")


def _errors_by_shift(scene: Scene, thing: Thing, picture: Float, expected: Float) -> Float:
    """Errors around a thing for every shift of the picture: [2 * SHIFT + 1, 2 * SHIFT + 1]."""
    window = _window(scene, thing)
    rows, columns = window
    near = _padded(picture)[rows.start : rows.stop + 2 * SHIFT, columns.start : columns.stop + 2 * SHIFT]
    target = expected[window]
    shifted = np.lib.stride_tricks.sliding_window_view(near, target.shape[:2], axis=(0, 1))
    return np.abs(shifted - target.transpose(2, 0, 1)).mean(axis=(2, 3, 4))


def _overlap(scene: Scene, thing: Thing, picture: Float) -> float:
    """Intersection over union of where the thing changes the scene without it and where the picture does."""
    window = _window(scene, thing)
    behind = _drawn(_put(scene, thing))
    asked = np.abs(_drawn(scene) - behind).mean(axis=2)
    usual = np.median(asked[silhouette(scene, thing)])
    threshold = np.clip(CHANGED_SHARE * usual, *CHANGED_RANGE)
    a = asked[window] > threshold
    b = np.abs(picture - behind).mean(axis=2)[window] > threshold
    return float((a & b).sum() / max((a | b).sum(), 1))


def _solid(scene: Scene, thing: Thing, picture: Float) -> bool:
    """Whether the thing is there rather than a trace of it: nearer to the thing than to what is behind it."""
    place = silhouette(scene, thing)
    drawn, behind = _drawn(scene), _drawn(_put(scene, thing))
    return _error(picture, drawn, place) <= max(SOLID_SHARE * _error(drawn, behind, place), STAY_RANGE[0])


def _colour(scene: Scene, thing: Thing, picture: Float) -> str:
    """The colour that a thing has, by the mean over its coloured area, in the light of this scene.

    Where two read alike, as in black and white, it is the one that the scene says. It may be none: "off".
    """
    drawn = {colour: _drawn(_put(scene, thing, replace(thing, colour=colour))) for colour in COLOURS}
    # Where something stands in front of the thing, its colour makes no difference.
    area = coloured_area(scene, thing) & (drawn["black"] != drawn["white"]).any(axis=2)
    if not area.any():
        return thing.colour
    mean = picture[area].mean(axis=0)
    errors = {colour: _error(image[area].mean(axis=0), mean) for colour, image in drawn.items()}
    nearest = min(errors, key=errors.__getitem__)
    if errors[nearest] < errors[thing.colour] - COLOUR_MARGIN:
        return nearest
    return thing.colour if errors[thing.colour] <= COLOUR_TOLERANCE else "off"


def _leftover_faults(edit: Edit, subject: Thing, picture: Float) -> Iterator[Fault]:
    """Whether the old thing is gone from where nothing new covers it."""
    before, after = _drawn(edit.before), _drawn(edit.after)
    place = silhouette(edit.before, subject) & (before != after).any(axis=2)
    if edit.result is not None:
        place &= ~_grown(silhouette(edit.after, edit.result), SOFT_EDGE)
    if place.sum() < FEWEST_PIXELS:
        return
    error = _error(picture, after, place)
    if error > min(GONE_TOLERANCE, GONE_SHARE * _error(picture, before, place)):
        yield Fault("leftover", f"the {subject.shape} is not gone")


def _stay_faults(scene: Scene, things: Iterable[Thing], picture: Float, where: Mask) -> Iterator[Fault]:
    """Whether things look as the scene has them, as far as they show."""
    drawn = _drawn(scene)
    for thing in things:
        behind = _drawn(_put(scene, thing))
        place = silhouette(scene, thing) & (drawn != behind).any(axis=2) & where
        if place.sum() < FEWEST_PIXELS:
            continue
        allowed = np.clip(STAY_SHARE * _error(drawn, behind, place), *STAY_RANGE)
        if _error(picture, drawn, place) > allowed or _colour(scene, thing, picture) != thing.colour:
            yield Fault("others", f"the {thing.shape} changed")


def _possible_readings(scene: Scene) -> Iterator[tuple[str, Scene]]:
    """The scene, named "", and all that differ in landscape, season, time or look, each named by that."""
    yield "", scene
    for kind in GLOBAL_KINDS:
        field = "landscape" if kind == "background" else kind
        for other in global_changes(scene, kind):
            yield getattr(other, field), other


def _coarse(picture: Float, where: Mask) -> Float:
    """Mean colours over a grid, of the pixels in `where` only: [cells, 3], empty cells left out."""
    height, width = where.shape
    row, column = np.arange(height) * GRID[0] // height, np.arange(width) * GRID[1] // width
    cells = (row[:, None] * GRID[1] + column)[where]
    counts = np.bincount(cells, minlength=GRID[0] * GRID[1])
    sums = np.stack([np.bincount(cells, channel, counts.size) for channel in picture[where].T], axis=1)
    means: Float = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return means


def _window(scene: Scene, thing: Thing) -> tuple[slice, slice]:
    """The square of a thing, with room for a shift, as rows and columns."""
    left, top, side = box_of(scene, thing)
    return (
        slice(max(top - SHIFT, 0), min(top + side + SHIFT, scene.height)),
        slice(max(left - SHIFT, 0), min(left + side + SHIFT, scene.width)),
    )


def _padded(picture: Float) -> Float:
    """The picture with its edges repeated, for shifts."""
    return np.pad(picture, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")


def _grown(mask: Mask, pixels: int) -> Mask:
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def _put(scene: Scene, old: Thing, new: Thing | None = None) -> Scene:
    """The scene with a thing in another's stead, or without it."""
    things = (new if thing == old else thing for thing in scene.things)
    return replace(scene, things=tuple(thing for thing in things if thing is not None))


@lru_cache(maxsize=128)
def _drawn(scene: Scene) -> Float:
    """The picture of a scene in 0..1, shared between calls."""
    return _scaled(render(scene))


def _scaled(picture: Pixels) -> Float:
    return picture.astype(np.float32) / np.float32(255)


def _error(a: Float, b: Float, where: Mask | None = None) -> float:
    difference = np.abs(a - b)
    return float((difference if where is None else difference[where]).mean())
