"""Edits: a scene before, the scene after, and what was asked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from openkontext.data import holdout
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.scenes import LOOKS, Scene, Thing, silhouette
from openkontext.data.styles import STYLES

TASKS: dict[str, tuple[str, ...]] = {
    "local": ("recolour", "replace", "remove", "add", "move", "resize", "count"),
    "global": ("background", "season", "time", "look", "style", "two parts"),
    "text": ("text",),
    "style reference": ("style reference",),
    "character reference": ("character reference",),
}
"""The five tasks of KontextBench (arXiv 2506.15742), and the kinds of edit of each."""

GLOBAL_KINDS = ("background", "season", "time", "look", "style")
"""Kinds that change one word about the scene."""
LOCAL_KINDS = (*TASKS["local"], *TASKS["text"])
"""Kinds that change one thing and leave the rest."""
KINDS = tuple(kind for kinds in TASKS.values() for kind in kinds)
IMPOSSIBLE = "impossible"
"""The kind of an edit that asks for what cannot be: nothing may change. Belongs to no task."""

FIRST_KINDS = ("recolour", "replace", "remove", "add", "move", "background", "season", "time", "look")
"""The kinds that the first nano was taught."""

BIGGER = 1.4
"""Factor on the side of a thing that is made bigger; a smaller one is divided by it."""


@dataclass(frozen=True)
class Edit:
    """One edit."""

    kind: str
    before: Scene
    after: Scene
    subject: Thing | None = None
    """The thing that the instruction names, as it is before; None where it names none."""
    result: Thing | None = None
    """The thing that the instruction asks for, as it is after; None where it asks for none."""
    parts: tuple["Edit", ...] = ()
    """Two edits in one instruction, one after the other; or the one edit that is not possible."""

    def region(self) -> np.ndarray:
        """What the edit may change: bool [height, width]; everything for an edit of the whole picture.

        Nothing for one that is not possible.

        For a thing, its outline before and after, widened by 5 pixels for its shadow and its soft edge.
        """
        if self.kind not in (*LOCAL_KINDS, IMPOSSIBLE):
            return np.ones((self.before.height, self.before.width), bool)
        mask = np.zeros((self.before.height, self.before.width), bool)
        for scene, thing in ((self.before, self.subject), (self.after, self.result)):
            if thing is not None:
                mask |= silhouette(scene, thing)
        return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(11))) > 0


def swapped(scene: Scene, subject: Thing | None, result: Thing | None) -> Scene:
    """The scene with one thing in another's stead; None stands for none."""
    things = [t for t in scene.things if t != subject]
    return replace(scene, things=(*things, *([] if result is None else [result])))


def distinct(scene: Scene) -> bool:
    """Whether no two things have one name."""
    names = [(t.shape, t.color) for t in scene.things]
    return len(set(names)) == len(names)


def free_places(scene: Scene, among: tuple[str, ...]) -> list[str]:
    """The places where nothing is."""
    taken = {t.place for t in scene.things}
    return [p for p in among if p not in taken]


def change(kind: str, scene: Scene, subject: Thing | None, result: Thing | None) -> Edit | None:
    """The edit that swaps one thing for another; None where the outcome has two things of one name."""
    after = swapped(scene, subject, result)
    return Edit(kind, scene, after, subject, result) if distinct(after) else None


def moved(thing: Thing, place: str) -> Thing:
    """The same thing in another place, in its middle."""
    return replace(thing, place=place, dx=0.0, dy=0.0)


def unseen(edit: Edit) -> bool:
    """Whether the edit asks for a combination that training never saw."""
    if edit.parts:
        return any(unseen(part) for part in edit.parts)
    before, after, subject, result = edit.before, edit.after, edit.subject, edit.result
    things = [thing for thing in (subject, result) if thing is not None]
    return (
        any(_thing_unseen(thing) for thing in things)
        or (edit.kind == "replace" and holdout.replacement_held_out(subject.shape, result.shape))  # type: ignore[union-attr]
        or (edit.kind == "style reference" and holdout.styled_thing_held_out(result.shape, after.style))  # type: ignore[union-attr]
        or holdout.landscape_held_out(after.landscape, after.season, after.time, after.look)
        or any(holdout.style_held_out(s.landscape, s.style) for s in (before, after))
    )


def _thing_unseen(thing: Thing) -> bool:
    form = thing.form
    return (
        holdout.thing_held_out(thing.shape, thing.color)
        or holdout.count_held_out(thing.shape, form.count)
        or (form.text != "" and holdout.text_held_out(form.text))
        or (form.robot is not None and holdout.robot_held_out(form.robot, thing.color))
    )


def global_changes(scene: Scene, kind: str) -> Iterator[Scene]:
    """The scene with every other landscape, season, time of day or look."""
    field, values = {
        "background": ("landscape", LANDSCAPES),
        "season": ("season", SEASONS),
        "time": ("time", tuple(TIMES)),
        "look": ("look", LOOKS),
        # What a drawing was made from cannot be told from it.
        "style": ("style", STYLES if scene.style == "plain" else ()),
    }[kind]
    for value in values:
        if value != getattr(scene, field):
            yield replace(scene, **{field: value})  # type: ignore[arg-type]
