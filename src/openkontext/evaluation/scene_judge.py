"""The judge: does a picture show the asked change, and does all else stay?

It knows the scene before and after, and nothing of any model. It compares the output with renderings: of the
scene as asked, and of what else it could show (other colors, other shapes, the thing not there, other
landscapes).

The thresholds were set before any model was judged, on renderings alone: the true picture passes when blurred
and saved as a JPEG, the unchanged input and wrong edits fail. Errors are mean absolute differences over
pixels and channels, as shares of full scale.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from openkontext.data.edits import GLOBAL_KINDS, IMPOSSIBLE, Edit, global_changes
from openkontext.data.scenes import Scene, Thing, silhouette
from openkontext.data.styles import COLORLESS, STYLES
from openkontext.data.things import GROUND_THINGS, ROBOT, SIGN, SKY_THINGS
from openkontext.evaluation.likeness import count_of, robot_parts, style_of, text_of, thing_in_style
from openkontext.evaluation.measures import (
    STAY_RANGE,
    Float,
    Mask,
    coarse,
    color_of,
    difference,
    draw,
    grown,
    is_solid,
    overlap,
    padded,
    put,
    scaled,
    shift_errors,
)
from openkontext.images.fitting import Pixels

OUTSIDE_TOLERANCE = 0.06
"""Error outside the edit's region: an autoencoder's round trip makes about 0.02."""

OVERLAP = 0.5
"""Intersection over union with the asked outline: the usual bound for a thing that is found."""

GONE_SHARE = 0.5
"""How near to the place without the thing, as a share of how near to the thing; a faint ghost fails."""
GONE_TOLERANCE = 0.10
"""Error of the place where the thing was: what is behind it can only be guessed."""
SOFT_EDGE = 2
"""Pixels around a new thing that are not looked at for the old one."""
FEWEST_PIXELS = 12
"""Pixels that must show of a thing for the judge to look at it: fewer are all edge."""

STAY_SHARE = 0.5
"""Error of a thing that stays, as a share of its contrast: nearer to being there than to being gone."""

BACKGROUND_TOLERANCE = 0.06
"""Error of the coarse view: hills and houses in other places, the painter's to choose, make 0.04 at most."""
PICTURE_TOLERANCE = 0.10
"""Error of a picture in another season, at another time or in another look: sun, stars and snow are the
painter's to place, all else is given."""

CELL = 16
"""Side of the squares that an impossible request must leave alone, in pixels."""
CELL_TOLERANCE = 0.1
"""Error of such a square: nano's autoencoder makes 0.08 at most, a new thing by day 0.2."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a picture."""

    check: str
    """Such as presence, shape, color, count, text, leftover, outside, others, background."""
    words: str
    """What was found, in a few words."""


@dataclass(frozen=True)
class Judgment:
    """What the judge found."""

    faults: tuple[Fault, ...]
    """What is wrong; none for a success."""

    @property
    def success(self) -> bool:
        """Whether the picture shows what was asked and all else stayed."""
        return not self.faults


def judge(edit: Edit, output: Pixels) -> Judgment:
    """Judge an editor's picture.

    Args:
        edit: what was asked.
        output: uint8 [height, width, 3]; of another size than the scene's it is a fault.
    """
    if output.shape != (edit.after.height, edit.after.width, 3):
        return Judgment((Fault("size", f"{output.shape[1]}x{output.shape[0]} pixels"),))
    return Judgment(tuple(_faults(edit, scaled(output))))


def _faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    if edit.kind == IMPOSSIBLE:
        yield from _untouched_faults(edit.before, picture)
    elif edit.kind == "two parts":
        yield from _two_faults(edit, picture)
    elif edit.kind == "style":
        yield from _style_faults(edit.after, picture)
    elif edit.kind in GLOBAL_KINDS:
        yield from _background_faults(edit.after, picture, exactly=edit.kind != "background")
        yield from _stay_faults(edit.after, edit.after.things, picture)
    elif edit.kind == "style reference":
        yield from _style_reference_faults(edit, picture)
    elif edit.kind == "character reference":
        yield from _character_faults(edit.after, picture)
        yield from _background_faults(edit.after, picture, exactly=False)
    else:
        yield from _thing_faults(edit, picture)
        outside = ~edit.region()
        if difference(picture, draw(edit.before), outside) > OUTSIDE_TOLERANCE:
            yield Fault("outside", "the rest changed")
        others = (t for t in edit.after.things if t != edit.result)
        yield from _stay_faults(edit.after, others, picture, outside)


def _thing_faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    """Faults of the one thing that an edit is about."""
    if edit.result is not None:
        yield from _result_faults(edit.after, edit.result, picture)
    if edit.subject is not None and edit.kind not in ("recolour", "text"):
        yield from _leftover_faults(edit, edit.subject, picture)
    if edit.kind == "resize":
        region = edit.region()
        if difference(picture, draw(edit.after), region) > difference(picture, draw(edit.before), region):
            yield Fault("size", "has the size that it had")
    elif edit.kind == "count" and edit.result is not None:
        count = count_of(edit.after, edit.result, picture)
        if count != edit.result.form.count:
            yield Fault("count", f"there are {count}" if count > 1 else "there is one")
    elif edit.kind == "text" and edit.result is not None:
        text = text_of(edit.after, edit.result, picture)
        if text != edit.result.form.text:
            yield Fault("text", f"says {text!r}")


def _two_faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    """Faults of two edits in one instruction: the first must show under the conditions of the second."""
    first, second = edit.parts
    asked = {"background": "landscape"}.get(second.kind, second.kind)
    now = {asked: getattr(edit.after, asked)}
    before, after = replace(first.before, **now), replace(first.after, **now)
    yield from _thing_faults(replace(first, before=before, after=after), picture)
    yield from _background_faults(after, picture, exactly=False)
    yield from _stay_faults(after, (t for t in after.things if t != first.result), picture)


def _background_faults(scene: Scene, picture: Float, *, exactly: bool) -> Iterator[Fault]:
    """Whether landscape, season, time and look read as asked; `exactly`: whether the whole picture fits."""
    background = np.ones((scene.height, scene.width), bool)
    for thing in scene.things:
        background &= ~silhouette(scene, thing)
    view = coarse(picture, background)
    errors = {
        name: difference(coarse(draw(other), background), view) for name, other in _possible_scenes(scene)
    }
    nearest = min(errors, key=errors.__getitem__)
    if nearest:
        yield Fault("background", f"looks like {nearest}")
    elif errors[nearest] > BACKGROUND_TOLERANCE:
        yield Fault("background", "the background is off")
    elif exactly and difference(picture, draw(scene)) > PICTURE_TOLERANCE:
        yield Fault("picture", "the picture is off")


def _style_faults(scene: Scene, picture: Float) -> Iterator[Fault]:
    """Whether a picture is drawn in a style, with all that was in it."""
    errors = {style: difference(picture, draw(replace(scene, style=style))) for style in STYLES}
    found = min(errors, key=errors.__getitem__)
    if found != scene.style:
        yield Fault("style", f"looks {found}")
    elif errors[found] > PICTURE_TOLERANCE:
        yield Fault("picture", "the picture is off")
    yield from _stay_faults(scene, scene.things, picture, colors=False)


def _style_reference_faults(edit: Edit, picture: Float) -> Iterator[Fault]:
    """Whether the asked thing is there, in the style of the picture before."""
    scene, thing = edit.after, edit.result
    assert thing is not None
    found = style_of(scene, picture)
    if found != scene.style:
        yield Fault("style", f"looks {found}")
    if (shape := thing_in_style(scene, thing, picture)) != thing.shape:
        yield Fault("shape", f"shows {shape}")
    elif scene.style not in COLORLESS and (color := color_of(scene, thing, picture)) != thing.color:
        yield Fault("color", f"the {thing.shape} is {color}")


def _character_faults(scene: Scene, picture: Float) -> Iterator[Fault]:
    """Whether the character can be recognized, part by part."""
    (thing,) = scene.things
    if overlap(scene, thing, picture) < OVERLAP or not is_solid(scene, thing, picture):
        yield Fault("presence", f"no {thing.shape} there")
        return
    for part, (asked, found) in robot_parts(scene, thing, picture).items():
        if asked != found:
            yield Fault("character", f"its {part} is {found}")


def _untouched_faults(scene: Scene, picture: Float) -> Iterator[Fault]:
    """Whether a picture is as it was, everywhere."""
    apart = np.abs(picture - draw(scene)).mean(axis=2)
    rows, columns = scene.height // CELL, scene.width // CELL
    if apart.reshape(rows, CELL, columns, CELL).mean(axis=(1, 3)).max() > CELL_TOLERANCE:
        yield Fault("outside", "something changed")
    yield from _stay_faults(scene, scene.things, picture)


def _result_faults(scene: Scene, thing: Thing, picture: Float) -> Iterator[Fault]:
    """Whether the asked thing is in its place, in its shape and its color."""
    shapes = tuple(SKY_THINGS if thing.in_sky else GROUND_THINGS)
    if thing.shape in (SIGN, ROBOT):
        shapes = (thing.shape,)
    drawn = {shape: draw(put(scene, thing, replace(thing, shape=shape))) for shape in shapes}
    errors = {shape: shift_errors(scene, thing, picture, drawn[shape]) for shape in shapes}
    down, right = np.unravel_index(errors[thing.shape].argmin(), errors[thing.shape].shape)
    found = padded(picture)[down : down + scene.height, right : right + scene.width]
    if overlap(scene, thing, picture) < OVERLAP or not is_solid(scene, thing, found):
        yield Fault("presence", f"no {thing.shape} there")
        return
    shape = min(shapes, key=lambda s: errors[s].min())
    if shape != thing.shape:
        yield Fault("shape", f"looks like a {shape}")
    color = color_of(scene, thing, found)
    if color != thing.color:
        words = f"is no {thing.color}" if color == "off" else f"is {color}"
        yield Fault("color", f"the {thing.shape} {words}")


def _leftover_faults(edit: Edit, subject: Thing, picture: Float) -> Iterator[Fault]:
    """Whether the old thing is gone from where nothing new covers it."""
    before, after = draw(edit.before), draw(edit.after)
    place = silhouette(edit.before, subject) & (before != after).any(axis=2)
    if edit.result is not None:
        place &= ~grown(silhouette(edit.after, edit.result), SOFT_EDGE)
    if place.sum() < FEWEST_PIXELS:
        return
    error = difference(picture, after, place)
    if error > min(GONE_TOLERANCE, GONE_SHARE * difference(picture, before, place)):
        yield Fault("leftover", f"the {subject.shape} is not gone")


def _stay_faults(
    scene: Scene,
    things: Iterable[Thing],
    picture: Float,
    where: Mask | None = None,
    *,
    colors: bool = True,
) -> Iterator[Fault]:
    """Whether things look as the scene has them, as far as they show in `where`, with or without colors."""
    drawn = draw(scene)
    for thing in things:
        behind = draw(put(scene, thing))
        place = silhouette(scene, thing) & (drawn != behind).any(axis=2)
        if where is not None:
            place &= where
        if place.sum() < FEWEST_PIXELS:
            continue
        allowed = np.clip(STAY_SHARE * difference(drawn, behind, place), *STAY_RANGE)
        if difference(picture, drawn, place) > allowed or (
            colors and color_of(scene, thing, picture) != thing.color
        ):
            yield Fault("others", f"the {thing.shape} changed")


def _possible_scenes(scene: Scene) -> Iterator[tuple[str, Scene]]:
    """The scene, named "", and all that differ in landscape, season, time or look, each named by that."""
    yield "", scene
    for kind in ("background", "season", "time", "look"):
        field = "landscape" if kind == "background" else kind
        for other in global_changes(scene, kind):
            yield getattr(other, field), other
