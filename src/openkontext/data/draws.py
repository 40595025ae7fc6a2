"""Single edits of any kind, each on a scene of its own, for evaluation."""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from openkontext.data.edits import (
    BIGGER,
    GLOBAL_KINDS,
    IMPOSSIBLE,
    Edit,
    change,
    distinct,
    free_places,
    global_changes,
    moved,
    swapped,
    unseen,
)
from openkontext.data.landscapes import LANDSCAPES, TIMES
from openkontext.data.palette import COLORS
from openkontext.data.sampler import (
    choose,
    random_robot,
    random_scene,
    random_sign,
    random_text,
    random_thing,
)
from openkontext.data.scenes import GROUND_PLACES, GROUND_SIZE, PLACES, ROBOT_SIZE, SKY_PLACES, Scene, Thing
from openkontext.data.styles import STYLES
from openkontext.data.things import GROUND_THINGS, MOST, SHAPES, SKY_THINGS, Form


def random_edit(rng: np.random.Generator, kind: str, *, unseen: bool) -> Edit:
    """An edit of a kind on a scene of its own.

    Args:
        rng: source of chance.
        kind: one of KINDS, or IMPOSSIBLE.
        unseen: whether it asks for a combination held out of training, or for none that is.
    """
    while True:
        edit = _candidate(rng, kind)
        if edit is not None and _asks_unseen(edit) == unseen:
            return edit


_asks_unseen = unseen


def _candidate(rng: np.random.Generator, kind: str) -> Edit | None:
    """Any edit of a kind, held out or not; None where the scene that was drawn does not allow it."""
    scene = random_scene(rng)
    if kind in GLOBAL_KINDS:
        return Edit(kind, scene, choose(rng, list(global_changes(scene, kind))))
    return _DRAWS[kind](rng, scene)


def _add(rng: np.random.Generator, scene: Scene) -> Edit | None:
    place = choose(rng, free_places(scene, tuple(PLACES)))
    thing = random_thing(rng, place, canonical=True)
    return change("add", scene, None, replace(thing, color=choose(rng, list(COLORS))))


def _named(rng: np.random.Generator, scene: Scene) -> tuple[Scene, Thing] | None:
    """A thing of the scene, half of the time in any color, so that held-out names come up."""
    subject = choose(rng, scene.things)
    if rng.random() < 0.5:
        recolored = replace(subject, color=choose(rng, list(COLORS)))
        scene, subject = swapped(scene, subject, recolored), recolored
    return (scene, subject) if distinct(scene) else None


def _remove(rng: np.random.Generator, scene: Scene) -> Edit | None:
    named = _named(rng, scene)
    return None if named is None else change("remove", *named, None)


def _move(rng: np.random.Generator, scene: Scene) -> Edit | None:
    named = _named(rng, scene)
    if named is None:
        return None
    scene, subject = named
    places = free_places(scene, SKY_PLACES if subject.in_sky else GROUND_PLACES)
    return change("move", scene, subject, moved(subject, choose(rng, places))) if places else None


def _recolor(rng: np.random.Generator, scene: Scene) -> Edit | None:
    subject = choose(rng, scene.things)
    colors = [c for c in COLORS if c != subject.color]
    return change("recolour", scene, subject, replace(subject, color=choose(rng, colors)))


def _replace(rng: np.random.Generator, scene: Scene) -> Edit | None:
    subject = choose(rng, scene.things)
    shapes = [s for s in (SKY_THINGS if subject.in_sky else GROUND_THINGS) if s != subject.shape]
    result = replace(subject, shape=choose(rng, shapes))
    if rng.random() < 0.5:
        result = replace(result, color=choose(rng, list(COLORS)))
    return change("replace", scene, subject, result)


def _resize(rng: np.random.Generator, scene: Scene) -> Edit | None:
    named = _named(rng, scene)
    if named is None:
        return None
    scene, subject = named
    factor = choose(rng, (BIGGER, 1 / BIGGER))
    return change("resize", scene, subject, replace(subject, size=subject.size * factor))


def _count(rng: np.random.Generator, scene: Scene) -> Edit | None:
    subject = choose(rng, scene.things)
    before, after = (int(n) for n in rng.permutation(np.arange(1, MOST + 1))[:2])
    several = replace(subject, form=Form(count=before))
    result = replace(subject, form=Form(count=after))
    return change("count", swapped(scene, subject, several), several, result)


def _text(rng: np.random.Generator, scene: Scene) -> Edit | None:
    old = choose(rng, [t for t in scene.things if not t.in_sky])
    sign = random_sign(rng, scene, old.place)
    text = random_text(rng)
    if text == sign.form.text:
        return None
    return change("text", swapped(scene, old, sign), sign, replace(sign, form=Form(text=text)))


def _style_reference(rng: np.random.Generator, scene: Scene) -> Edit:
    before = replace(scene, style=choose(rng, STYLES[1:]))
    return drawn_in_style(before, rng)


def drawn_in_style(before: Scene, rng: np.random.Generator) -> Edit:
    """One thing in the middle of a landscape in summer, by day, in the style of the picture before."""
    shape = choose(rng, list(GROUND_THINGS))
    thing = Thing(shape, choose(rng, list(COLORS)), "middle", GROUND_SIZE * BIGGER)
    after = Scene(
        before.width,
        before.height,
        choose(rng, LANDSCAPES),
        "summer",
        "day",
        (thing,),
        style=before.style,
        detail=before.detail,
    )
    return Edit("style reference", before, after, result=thing)


def _character_reference(rng: np.random.Generator, scene: Scene) -> Edit:
    old = choose(rng, [t for t in scene.things if not t.in_sky])
    robot = random_robot(rng, old.place)
    return elsewhere(swapped(scene, old, robot), robot, rng)


def elsewhere(before: Scene, robot: Thing, rng: np.random.Generator) -> Edit:
    """The character of the picture before, alone in the middle of another landscape."""
    place = choose(rng, [name for name in LANDSCAPES if name != before.landscape])
    time = choose(rng, list(TIMES), (0.6, 0.2, 0.2))
    result = replace(moved(robot, "middle"), size=ROBOT_SIZE)
    after = Scene(before.width, before.height, place, "summer", time, (result,), detail=before.detail)
    return Edit("character reference", before, after, robot, result)


def _two_parts(rng: np.random.Generator, scene: Scene) -> Edit | None:
    first = _DRAWS[choose(rng, ("recolour", "remove", "add", "replace"))](rng, scene)
    if first is None:
        return None
    kind = choose(rng, ("background", "season", "time"))
    return followed(first, choose(rng, list(global_changes(first.after, kind))), kind)


def followed(first: Edit, after: Scene, kind: str) -> Edit:
    """An edit of one thing, and then one of the whole picture, as one instruction."""
    return Edit("two parts", first.before, after, parts=(first, Edit(kind, first.after, after)))


def _impossible(rng: np.random.Generator, scene: Scene) -> Edit:
    return not_possible(scene, rng)


def not_possible(scene: Scene, rng: np.random.Generator) -> Edit:
    """An edit of a thing that the scene does not have: it stays as it is."""
    shown = {thing.shape for thing in scene.things}
    shape = choose(rng, [shape for shape in SHAPES if shape not in shown])
    place = choose(rng, SKY_PLACES if shape in SKY_THINGS else GROUND_PLACES)
    absent = Thing(shape, choose(rng, list(COLORS)), place, GROUND_SIZE)
    kind = choose(rng, ("remove", "recolour", "resize"))
    result = {
        "remove": None,
        "recolour": replace(absent, color=choose(rng, [c for c in COLORS if c != absent.color])),
        "resize": replace(absent, size=absent.size * choose(rng, (BIGGER, 1 / BIGGER))),
    }[kind]
    return Edit(IMPOSSIBLE, scene, scene, parts=(Edit(kind, scene, scene, absent, result),))


_DRAWS: dict[str, Callable[[np.random.Generator, Scene], Edit | None]] = {
    "recolour": _recolor,
    "replace": _replace,
    "remove": _remove,
    "add": _add,
    "move": _move,
    "resize": _resize,
    "count": _count,
    "text": _text,
    "style reference": _style_reference,
    "character reference": _character_reference,
    "two parts": _two_parts,
    IMPOSSIBLE: _impossible,
}


def next_edit(rng: np.random.Generator, scene: Scene, kinds: Collection[str]) -> Edit:
    """An edit of one thing of a given scene, none that is held out; characters and signs are left alone.

    Args:
        rng: source of chance.
        scene: what is to be edited.
        kinds: kinds of edit to choose among, of those that change one thing.
    """
    plain = tuple(thing for thing in scene.things if thing.shape in SHAPES)
    able = [kind for kind in kinds if (free_places(scene, tuple(PLACES)) if kind == "add" else plain)]
    while True:
        edit = _DRAWS[choose(rng, able)](rng, scene)
        named = edit is not None and (edit.subject is None or edit.subject in plain)
        if edit is not None and named and edit.before == scene and not _asks_unseen(edit):
            return edit
