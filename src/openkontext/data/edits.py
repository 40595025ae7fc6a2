"""Edits: a scene before, the scene after, and what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from PIL import Image, ImageFilter

from openkontext.data.holdout import landscape_held_out, replacement_held_out, thing_held_out
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.palette import COLOURS
from openkontext.data.sampler import choose, random_scene, random_thing
from openkontext.data.scenes import GROUND_PLACES, LOOKS, PLACES, SKY_PLACES, Scene, Thing, silhouette
from openkontext.data.things import GROUND_THINGS, SKY_THINGS

LOCAL_KINDS = ("recolour", "replace", "remove", "add", "move")
GLOBAL_KINDS = ("background", "season", "time", "look")
KINDS = LOCAL_KINDS + GLOBAL_KINDS


@dataclass(frozen=True)
class Edit:
    """One edit."""

    kind: str
    before: Scene
    after: Scene
    #: The thing that the instruction names, as it is before; None where it names none.
    subject: Thing | None = None
    #: The thing that the instruction asks for, as it is after; None where it asks for none.
    result: Thing | None = None

    def region(self) -> np.ndarray:
        """What the edit may change: bool [height, width]; everything for an edit of the whole picture.

        For a thing, its outline before and after, widened by 5 pixels for its shadow and its soft edge.
        """
        if self.kind in GLOBAL_KINDS:
            return np.ones((self.before.height, self.before.width), bool)
        mask = np.zeros((self.before.height, self.before.width), bool)
        for scene, thing in ((self.before, self.subject), (self.after, self.result)):
            if thing is not None:
                mask |= silhouette(scene, thing)
        return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(11))) > 0


def _with(scene: Scene, subject: Thing | None, result: Thing | None) -> Scene:
    things = [t for t in scene.things if t != subject]
    return replace(scene, things=(*things, *([] if result is None else [result])))


def _distinct(scene: Scene) -> bool:
    names = [(t.shape, t.colour) for t in scene.things]
    return len(set(names)) == len(names)


def free_places(scene: Scene, among: tuple[str, ...]) -> list[str]:
    """The places where nothing is."""
    taken = {t.place for t in scene.things}
    return [p for p in among if p not in taken]


def change(kind: str, scene: Scene, subject: Thing | None, result: Thing | None) -> Edit | None:
    """The edit that swaps one thing for another; None where the outcome has two things of one name."""
    after = _with(scene, subject, result)
    return Edit(kind, scene, after, subject, result) if _distinct(after) else None


def moved(thing: Thing, place: str) -> Thing:
    """The same thing in another place, in its middle."""
    return replace(thing, place=place, dx=0.0, dy=0.0)


def _unseen(edit: Edit) -> bool:
    """Whether the edit asks for a combination that training never saw."""
    result, after = edit.result, edit.after
    return (
        (result is not None and thing_held_out(result.shape, result.colour))
        or (edit.subject is not None and thing_held_out(edit.subject.shape, edit.subject.colour))
        or (edit.kind == "replace" and replacement_held_out(edit.subject.shape, result.shape))  # type: ignore[union-attr]
        or landscape_held_out(after.landscape, after.season, after.time, after.look)
    )


def _candidate(rng: np.random.Generator, kind: str) -> Edit | None:
    """Any edit of a kind on a random scene, held out or not; None where the scene does not allow it."""
    scene = random_scene(rng)
    if kind in GLOBAL_KINDS:
        return Edit(kind, scene, choose(rng, list(global_changes(scene, kind))))
    if kind == "add":
        place = choose(rng, free_places(scene, tuple(PLACES)))
        thing = random_thing(rng, place, canonical=True)
        return change("add", scene, None, replace(thing, colour=choose(rng, list(COLOURS))))
    subject = choose(rng, scene.things)
    if kind in ("remove", "move") and rng.random() < 0.5:
        # Half of these name a thing in any colour, so that held-out names come up.
        recoloured = replace(subject, colour=choose(rng, list(COLOURS)))
        scene, subject = _with(scene, subject, recoloured), recoloured
        if not _distinct(scene):
            return None
    if kind == "remove":
        return change("remove", scene, subject, None)
    if kind == "move":
        places = free_places(scene, SKY_PLACES if subject.in_sky else GROUND_PLACES)
        return change("move", scene, subject, moved(subject, choose(rng, places))) if places else None
    if kind == "recolour":
        colours = [c for c in COLOURS if c != subject.colour]
        return change("recolour", scene, subject, replace(subject, colour=choose(rng, colours)))
    shapes = [s for s in (SKY_THINGS if subject.in_sky else GROUND_THINGS) if s != subject.shape]
    result = replace(subject, shape=choose(rng, shapes))
    if rng.random() < 0.5:
        result = replace(result, colour=choose(rng, list(COLOURS)))
    return change("replace", scene, subject, result)


def random_edit(rng: np.random.Generator, kind: str, *, unseen: bool) -> Edit:
    """An edit of a kind on a scene of its own.

    Args:
        rng: Source of chance.
        kind: One of KINDS.
        unseen: Whether it asks for a combination held out of training, or for none that is.
    """
    while True:
        edit = _candidate(rng, kind)
        if edit is not None and _unseen(edit) == unseen:
            return edit


def global_changes(scene: Scene, kind: str) -> Iterator[Scene]:
    """The scene with every other landscape, season, time of day or look."""
    field, values = {
        "background": ("landscape", LANDSCAPES),
        "season": ("season", SEASONS),
        "time": ("time", tuple(TIMES)),
        "look": ("look", LOOKS),
    }[kind]
    for value in values:
        if value != getattr(scene, field):
            yield replace(scene, **{field: value})  # type: ignore[arg-type]


def family(rng: np.random.Generator) -> list[Edit]:
    """Many edits on one scene and between its variants, none of them held out.

    Variants of a scene share most of its picture, so a family costs few renderings and encodings for its many
    pairs.
    """
    base = random_scene(rng)
    edits: list[Edit | None] = []
    for subject in rng.permutation(np.array(base.things, object))[:2]:
        edits += _thing_family(rng, base, subject)
    for kind in ("background", "season", "time"):
        options = [
            s
            for s in global_changes(base, kind)
            if not landscape_held_out(s.landscape, s.season, s.time, s.look)
        ]
        variants = [base, *(options[i] for i in rng.permutation(len(options))[:2])]
        edits += [Edit(kind, a, b) for a in variants for b in variants if a != b]
    edits += [Edit("look", base, s) for s in global_changes(base, "look")]
    return [e for e in edits if e is not None and not _unseen(e)]


def _thing_family(rng: np.random.Generator, base: Scene, subject: Thing) -> list[Edit | None]:
    edits: list[Edit | None] = [change("remove", base, subject, None)]
    others = [c for c in COLOURS if c != subject.colour and not thing_held_out(subject.shape, c)]
    coloured = [subject, *(replace(subject, colour=others[i]) for i in rng.permutation(len(others))[:3])]
    shapes = [s for s in (SKY_THINGS if subject.in_sky else GROUND_THINGS) if s != subject.shape]
    kept = [replace(subject, shape=shapes[i]) for i in rng.permutation(len(shapes))[:2]]
    shaped = [subject, *kept, replace(kept[0], colour=choose(rng, list(COLOURS)))]
    shaped = [t for t in dict.fromkeys(shaped) if not thing_held_out(t.shape, t.colour)]
    for kind, variants in (("recolour", coloured), ("replace", shaped)):
        for a in variants:
            scene = _with(base, subject, a)
            if not _distinct(scene):
                continue
            differs = attrgetter("colour" if kind == "recolour" else "shape")
            edits += [change(kind, scene, a, b) for b in variants if differs(a) != differs(b)]
    places = free_places(base, SKY_PLACES if subject.in_sky else GROUND_PLACES)
    if places:
        edits.append(change("move", base, subject, moved(subject, choose(rng, places))))
    free = free_places(base, tuple(PLACES))
    if free:
        new = random_thing(rng, choose(rng, free), canonical=True)
        added = change("add", base, None, new)
        if added is not None:
            edits += [added, change("remove", added.after, new, None)]
            edits += [
                change("move", added.after, new, moved(new, place))
                for place in free_places(added.after, SKY_PLACES if new.in_sky else GROUND_PLACES)[:1]
            ]
    return edits
