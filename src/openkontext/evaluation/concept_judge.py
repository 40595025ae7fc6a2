"""The judge of concepts: does an output show the concept where the input did not?

It knows the scene before and what was asked, and nothing of any model. It first finds the conditions that the
output shows (landscape, season, time, look, style), then compares each place where the concept may be with
renderings of what could be there.

A concept that the input held and the output leaves as it was is not produced. It is once it is larger, in
another place, once more, or in another landscape.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from openkontext.data.edits import GLOBAL_KINDS, Edit, global_changes
from openkontext.data.palette import COLORS
from openkontext.data.scenes import SKY_PLACES, SKY_SIZE, Scene, Thing, colored_area, silhouette
from openkontext.data.styles import COLORLESS
from openkontext.data.things import GROUND_THINGS, ROBOT, SIGN, SKY_THINGS, UNSEEN_THINGS
from openkontext.evaluation.concepts import Concept
from openkontext.evaluation.likeness import style_of
from openkontext.evaluation.measures import (
    COLOR_TOLERANCE,
    Float,
    Mask,
    coarse,
    difference,
    draw,
    is_solid,
    overlap,
    put,
    scaled,
    shift_errors,
    window_of,
)
from openkontext.evaluation.scene_judge import OVERLAP
from openkontext.images.fitting import Pixels

_CONDITIONS = ("landscape", "season", "time", "look", "style")


@dataclass(frozen=True)
class ConceptFinding:
    """What the judge found."""

    holds: bool
    """Whether the output shows the concept as something that the input did not show."""
    words: str
    """Where it was found, or why not, in a few words."""


def judge(concept: Concept, edit: Edit, output: Pixels) -> ConceptFinding:
    """Look for a concept in an editor's picture.

    Args:
        concept: to look for.
        edit: what was asked, whatever the words were.
        output: uint8 [height, width, 3]; one of another size is not judged to hold anything.
    """
    if output.shape != (edit.after.height, edit.after.width, 3):
        return ConceptFinding(False, f"{output.shape[1]}x{output.shape[0]} pixels")
    picture = scaled(output)
    if concept.trait == "style":
        return _style(concept, edit, picture)
    shown = _conditions(edit, picture)
    elsewhere = any(getattr(shown, name) != getattr(edit.before, name) for name in _CONDITIONS)
    base = replace(edit.before, **{name: getattr(shown, name) for name in _CONDITIONS})
    for thing in dict.fromkeys(_candidates(concept, edit, elsewhere)):
        for found in _variants(concept, thing):
            if _shows(concept, base, found, picture, moved=elsewhere, asked=thing in edit.after.things):
                return ConceptFinding(True, f"a {found.color} {found.shape} at the {found.place}")
    return ConceptFinding(False, "nowhere")


def _style(concept: Concept, edit: Edit, picture: Float) -> ConceptFinding:
    found = style_of(edit.after, picture)
    if found != concept.value:
        return ConceptFinding(False, f"looks {found}")
    if edit.before.style == concept.value:
        whole = difference(picture, draw(edit.before)) < difference(picture, draw(edit.after))
        if whole:
            return ConceptFinding(False, "is what it was")
    return ConceptFinding(True, f"the picture is {found}")


def _conditions(edit: Edit, picture: Float) -> Scene:
    """The scene before, after or in any other conditions, whichever background is the nearest."""
    candidates = [edit.before, replace(edit.after, things=edit.before.things)]
    for kind in GLOBAL_KINDS:
        candidates += global_changes(edit.before, kind)
    free = ~_covered((edit.before, edit.after))
    view = coarse(picture, free)
    errors = [difference(coarse(draw(scene), free), view) for scene in candidates]
    return candidates[errors.index(min(errors))]


def _covered(scenes: Iterable[Scene]) -> Mask:
    """Where any of their things stands."""
    masks = [silhouette(scene, thing) for scene in scenes for thing in scene.things]
    covered: Mask = np.any(masks, axis=0)
    return covered


def _candidates(concept: Concept, edit: Edit, elsewhere: bool) -> Iterator[Thing]:
    """Things that would be the concept: what was asked, what was there, and whatever may have come."""
    asked = [*([] if edit.result is None else [edit.result]), *edit.after.things]
    for thing in asked:
        if concept.is_in(thing) and (elsewhere or thing not in edit.before.things):
            yield thing
    taken = {thing.place: thing for thing in edit.before.things}
    if concept.trait == "color":
        for thing in edit.before.things:
            if elsewhere or not concept.is_in(thing):
                yield replace(thing, color=concept.value)
    elif concept.value in SKY_THINGS | UNSEEN_THINGS:
        for place in SKY_PLACES:
            if place not in taken:
                yield Thing(concept.value, "yellow", place, SKY_SIZE)
            elif not concept.is_in(taken[place]):
                yield replace(taken[place], shape=concept.value)


def _variants(concept: Concept, thing: Thing) -> Iterator[Thing]:
    """A shape counts in any color, a color on that thing."""
    if concept.trait == "color":
        yield thing
    else:
        yield from (replace(thing, color=color) for color in COLORS)


def _shows(concept: Concept, base: Scene, thing: Thing, picture: Float, *, moved: bool, asked: bool) -> bool:
    """Whether a picture shows a thing that is the concept.

    Args:
        concept: looked for.
        base: the scene before, in the conditions that the output shows.
        thing: what would be there.
        picture: the output.
        moved: whether the conditions are others than before, so that what stayed is new, too.
        asked: whether the thing is one that the edit asks for.
    """
    others = tuple(t for t in base.things if t.place != thing.place)
    scene = replace(base, things=(*others, thing))
    if not moved:
        window = window_of(scene, thing)
        # What the input held must not explain the output as well.
        if difference(picture[window], draw(base)[window]) <= difference(
            picture[window], draw(scene)[window]
        ):
            return False
    if concept.trait == "color":
        return _colored(scene, thing, picture, asked=asked)
    return _shaped(scene, thing, picture)


def _shaped(scene: Scene, thing: Thing, picture: Float) -> bool:
    if not is_solid(scene, thing, picture) or overlap(scene, thing, picture) < OVERLAP:
        return False
    shapes = {thing.shape, *(SKY_THINGS if thing.in_sky else GROUND_THINGS)}
    errors = {
        shape: shift_errors(scene, thing, picture, draw(put(scene, thing, replace(thing, shape=shape)))).min()
        for shape in shapes
    }
    return min(errors, key=errors.__getitem__) == thing.shape


def _colored(scene: Scene, thing: Thing, picture: Float, *, asked: bool) -> bool:
    """Whether a thing has the color; what was not asked for must be there in its shape, too."""
    if scene.style in COLORLESS or scene.look != "colour" or thing.shape in (SIGN, ROBOT):
        return False
    drawn, behind = draw(scene), draw(put(scene, thing))
    area = colored_area(scene, thing) & (drawn != behind).any(axis=2)
    if not area.any() or (not asked and not is_solid(scene, thing, picture)):
        return False
    mean = picture[area].mean(axis=0)
    colors = {c: draw(put(scene, thing, replace(thing, color=c)))[area].mean(axis=0) for c in COLORS}
    errors = {color: difference(mean, other) for color, other in colors.items()}
    return (
        min(errors, key=errors.__getitem__) == thing.color
        and errors[thing.color] <= COLOR_TOLERANCE
        and errors[thing.color] < difference(mean, behind[area].mean(axis=0))
    )
