"""Families: many edits on one scene and between its variants, for training.

Variants of a scene share most of its picture, so a family costs few renderings and encodings for its many
pairs. Nothing in a family is held out.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np

from openkontext.data.draws import drawn_in_style, elsewhere, followed, not_possible
from openkontext.data.edits import (
    BIGGER,
    IMPOSSIBLE,
    KINDS,
    Edit,
    change,
    distinct,
    free_places,
    global_changes,
    moved,
    swapped,
    unseen,
)
from openkontext.data.holdout import (
    count_held_out,
    landscape_held_out,
    robot_held_out,
    style_held_out,
    text_held_out,
    thing_held_out,
)
from openkontext.data.palette import COLORS
from openkontext.data.sampler import (
    choose,
    random_letters,
    random_robot,
    random_scene,
    random_sign,
    random_text,
    random_thing,
)
from openkontext.data.scenes import GROUND_PLACES, PLACES, SKY_PLACES, Scene, Thing
from openkontext.data.styles import STYLES
from openkontext.data.things import GROUND_THINGS, MOST, SKY_THINGS, Form


def family(rng: np.random.Generator, kinds: Collection[str] = (*KINDS, IMPOSSIBLE)) -> list[Edit]:
    """Many edits on one scene and between its variants, none of them held out.

    Args:
        rng: source of chance.
        kinds: the kinds that are wanted. Text alone gives more of it than text among others, and letters
            in any order: words come back so often that a model knows them whole, and never spells.
    """
    base = random_scene(rng)
    edits: list[Edit | None] = []
    for subject in rng.permutation(np.array(base.things, object))[:2]:
        edits += _things(rng, base, subject)
    edits += _whole_pictures(rng, base)
    firsts = [e for e in edits if e is not None and e.before == base and e.kind in _FIRST_OF_TWO]
    for kind, more in (
        ("resize", _sizes),
        ("count", _counts),
        ("text", _spellings if set(kinds) == {"text"} else _texts),
        ("style", _styles),
        ("style reference", _style_references),
        ("character reference", _characters),
        (IMPOSSIBLE, _impossible),
    ):
        if kind in kinds:
            edits += more(rng, base)
    if "two parts" in kinds:
        edits += _two_parts(rng, firsts)
    return [e for e in edits if e is not None and e.kind in kinds and not unseen(e)]


_FIRST_OF_TWO = ("recolour", "remove", "add", "replace")


def _things(rng: np.random.Generator, base: Scene, subject: Thing) -> list[Edit | None]:
    """Edits of one thing: remove, recolor, replace, move; and add."""
    edits: list[Edit | None] = [change("remove", base, subject, None)]
    others = [c for c in COLORS if c != subject.color and not thing_held_out(subject.shape, c)]
    colored = [subject, *(replace(subject, color=others[i]) for i in rng.permutation(len(others))[:3])]
    shapes = [s for s in (SKY_THINGS if subject.in_sky else GROUND_THINGS) if s != subject.shape]
    kept = [replace(subject, shape=shapes[i]) for i in rng.permutation(len(shapes))[:2]]
    shaped = [subject, *kept, replace(kept[0], color=choose(rng, list(COLORS)))]
    shaped = [t for t in dict.fromkeys(shaped) if not thing_held_out(t.shape, t.color)]
    for kind, variants in (("recolour", colored), ("replace", shaped)):
        for a in variants:
            scene = swapped(base, subject, a)
            if not distinct(scene):
                continue
            differs = attrgetter("color" if kind == "recolour" else "shape")
            edits += [change(kind, scene, a, b) for b in variants if differs(a) != differs(b)]
    for place in _some(rng, free_places(base, SKY_PLACES if subject.in_sky else GROUND_PLACES), 2):
        edits.append(change("move", base, subject, moved(subject, place)))
    for place in _some(rng, free_places(base, tuple(PLACES)), 2):
        new = random_thing(rng, place, canonical=True)
        added = change("add", base, None, new)
        if added is not None:
            edits += [added, change("remove", added.after, new, None)]
            edits += [
                change("move", added.after, new, moved(new, place))
                for place in free_places(added.after, SKY_PLACES if new.in_sky else GROUND_PLACES)[:1]
            ]
    return edits


def _whole_pictures(rng: np.random.Generator, base: Scene) -> Iterator[Edit]:
    """Landscapes, seasons, times of day and looks, each way."""
    for kind in ("background", "season", "time"):
        options = [
            s
            for s in global_changes(base, kind)
            if not landscape_held_out(s.landscape, s.season, s.time, s.look)
        ]
        variants = [base, *(options[i] for i in rng.permutation(len(options))[:2])]
        yield from (Edit(kind, a, b) for a in variants for b in variants if a != b)
    yield from (Edit("look", base, s) for s in global_changes(base, "look"))


def _sizes(rng: np.random.Generator, base: Scene) -> Iterator[Edit | None]:
    for small in _some(rng, base.things, 3):
        large = replace(small, size=small.size * BIGGER)
        yield change("resize", base, small, large)
        yield change("resize", swapped(base, small, large), large, small)


def _counts(rng: np.random.Generator, base: Scene) -> Iterator[Edit | None]:
    for one in _some(rng, base.things, 2):
        groups = [
            replace(one, form=Form(count=n)) for n in range(1, MOST + 1) if not count_held_out(one.shape, n)
        ]
        for a in groups:
            yield from (change("count", swapped(base, one, a), a, b) for b in groups if a != b)


def _texts(rng: np.random.Generator, base: Scene) -> Iterator[Edit | None]:
    return _signs(rng, base, random_text, 4)


def _spellings(rng: np.random.Generator, base: Scene) -> Iterator[Edit | None]:
    return _signs(rng, base, random_letters, 8)


def _signs(
    rng: np.random.Generator, base: Scene, say: Callable[[np.random.Generator], str], count: int
) -> Iterator[Edit | None]:
    for old in _some(rng, [t for t in base.things if not t.in_sky], 2):
        sign = random_sign(rng, base, old.place)
        texts = [t for t in dict.fromkeys(say(rng) for _ in range(count)) if not text_held_out(t)]
        signs = [replace(sign, form=Form(text=text)) for text in texts]
        for a in signs:
            yield from (change("text", swapped(base, old, a), a, b) for b in signs if a != b)


def _styles(rng: np.random.Generator, base: Scene) -> Iterator[Edit]:
    styles = [s for s in STYLES[1:] if not style_held_out(base.landscape, s)]
    yield from (Edit("style", base, replace(base, style=style)) for style in _some(rng, styles, 4))


def _style_references(rng: np.random.Generator, base: Scene) -> Iterator[Edit]:
    styles = [s for s in STYLES[1:] if not style_held_out(base.landscape, s)]
    for style in _some(rng, styles, 4):
        yield from (drawn_in_style(replace(base, style=style), rng) for _ in range(2))


def _characters(rng: np.random.Generator, base: Scene) -> Iterator[Edit]:
    for old in _some(rng, [t for t in base.things if not t.in_sky], 2):
        robot = random_robot(rng, old.place)
        while robot.form.robot is None or robot_held_out(robot.form.robot, robot.color):
            robot = random_robot(rng, old.place)
        first = elsewhere(swapped(base, old, robot), robot, rng)
        assert first.result is not None
        yield first
        yield elsewhere(first.before, robot, rng)
        if not unseen(first):
            # From one outcome to the next: a character that is edited again and again stays who it is.
            yield elsewhere(first.after, first.result, rng)


def _impossible(rng: np.random.Generator, base: Scene) -> Iterator[Edit]:
    yield from (not_possible(base, rng) for _ in range(4))


def _two_parts(rng: np.random.Generator, firsts: list[Edit]) -> Iterator[Edit]:
    for first in _some(rng, firsts, 8):
        kind = choose(rng, ("background", "season", "time"))
        yield followed(first, choose(rng, list(global_changes(first.after, kind))), kind)


def _some(rng: np.random.Generator, options: Sequence[Any], count: int) -> list[Any]:
    """So many of the options, or all where there are fewer."""
    return [options[i] for i in rng.permutation(len(options))[:count]]
