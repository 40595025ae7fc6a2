"""Edits: what they change, what they leave, and what training never sees."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from openkontext.data.draws import random_edit
from openkontext.data.edits import BIGGER, FIRST_KINDS, GLOBAL_KINDS, IMPOSSIBLE, KINDS, LOCAL_KINDS, Edit
from openkontext.data.families import family
from openkontext.data.holdout import (
    count_held_out,
    landscape_held_out,
    replacement_held_out,
    robot_held_out,
    style_held_out,
    styled_thing_held_out,
    text_held_out,
    thing_held_out,
)
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, HEADS, TOPS, Robot
from openkontext.data.sampler import random_scene
from openkontext.data.scenes import GROUND_PLACES, LOOKS, PLACES, SIZES, Scene, Thing, box_of, render
from openkontext.data.styles import STYLES
from openkontext.data.things import GROUND_THINGS, ROBOT, SHAPES, SIGN, SKY_THINGS


def edits(kind: str, *, count: int = 12, unseen: bool = False) -> list[Edit]:
    return [random_edit(np.random.default_rng([3, i]), kind, unseen=unseen) for i in range(count)]


def held_out(scene: Scene) -> bool:
    return (
        landscape_held_out(scene.landscape, scene.season, scene.time, scene.look)
        or style_held_out(scene.landscape, scene.style)
        or any(thing_is_held_out(thing) for thing in scene.things)
    )


def thing_is_held_out(thing: Thing) -> bool:
    return (
        thing_held_out(thing.shape, thing.color)
        or count_held_out(thing.shape, thing.form.count)
        or (thing.shape == SIGN and text_held_out(thing.form.text))
        or (thing.shape == ROBOT and robot_held_out(thing.form.robot, thing.color))
    )


def held_out_pair(edit: Edit) -> bool:
    """Whether an edit brings two things together that training never brings together."""
    return (edit.kind == "replace" and replacement_held_out(edit.subject.shape, edit.result.shape)) or (
        edit.kind == "style reference" and styled_thing_held_out(edit.result.shape, edit.after.style)
    )


def scenes(edit: Edit) -> list[Scene]:
    """All scenes of an edit: of one with two parts, the one between them too."""
    return [s for part in (edit.parts or (edit,)) for s in (part.before, part.after)]


def shadow(edit: Edit) -> np.ndarray:
    """Where the shadows of the things of an edit can fall: the lowest part of their squares."""
    mask = np.zeros_like(edit.region())
    for scene, thing in ((edit.before, edit.subject), (edit.after, edit.result)):
        if thing is not None:
            left, top, side = box_of(scene, thing)
            mask[top + side - side // 9 - 1 : top + side + side // 9, max(left, 0) : left + side] = True
    return mask


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_a_local_edit_changes_its_region_and_shadows_only(kind: str):
    for edit in edits(kind):
        changed = (render(edit.before) != render(edit.after)).any(axis=2)
        assert changed.sum() > 50
        assert not (changed & ~edit.region() & ~shadow(edit)).any()


@pytest.mark.parametrize("kind", GLOBAL_KINDS)
def test_a_global_edit_changes_one_word_about_the_scene(kind: str):
    for edit in edits(kind):
        before, after = edit.before, edit.after
        changed = [f.name for f in fields(Scene) if getattr(before, f.name) != getattr(after, f.name)]
        assert changed == ["landscape" if kind == "background" else kind]
        assert edit.region().all()


def test_a_local_edit_does_to_one_thing_what_its_name_says():
    for edit in edits("recolour"):
        assert (edit.subject.shape, edit.subject.place) == (edit.result.shape, edit.result.place)
        assert edit.subject.color != edit.result.color
    for edit in edits("replace"):
        assert edit.subject.shape != edit.result.shape
        assert edit.subject.in_sky == edit.result.in_sky
    for edit in edits("remove"):
        assert Counter(edit.before.things) - Counter(edit.after.things) == Counter([edit.subject])
    for edit in edits("add"):
        assert Counter(edit.after.things) - Counter(edit.before.things) == Counter([edit.result])
    for edit in edits("move"):
        assert edit.result.place not in [thing.place for thing in edit.before.things]
        assert (edit.result.shape, edit.result.color) == (edit.subject.shape, edit.subject.color)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_unique_and_things_are_where_they_can_be(kind: str):
    for edit in edits(kind) + edits(kind, unseen=True):
        for scene in (edit.before, edit.after):
            names = [(thing.shape, thing.color) for thing in scene.things]
            places = [thing.place for thing in scene.things]
            assert len(set(names)) == len(names)
            assert len(set(places)) == len(places)
            assert all((t.shape not in SKY_THINGS) == (t.place in GROUND_PLACES) for t in scene.things)


@pytest.mark.parametrize("kind", [*KINDS, IMPOSSIBLE])
def test_unseen_edits_ask_for_something_held_out_and_seen_ones_for_nothing(kind: str):
    for edit in edits(kind):
        assert not any(held_out(scene) for scene in scenes(edit))
        assert not any(held_out_pair(part) for part in (edit.parts or (edit,)))
    for edit in edits(kind, unseen=True):
        parts = edit.parts or (edit,)
        named = [thing for part in parts for thing in (part.subject, part.result) if thing is not None]
        assert (
            any(held_out(scene) for scene in scenes(edit))
            or any(held_out_pair(part) for part in parts)
            or any(thing_is_held_out(thing) for thing in named)
        )


def test_training_families_hold_nothing_held_out():
    kinds: Counter[str] = Counter()
    for seed in range(40):
        for edit in family(np.random.default_rng([5, seed])):
            kinds[edit.kind] += 1
            assert not any(held_out(scene) for scene in scenes(edit))
            assert not any(held_out_pair(part) for part in (edit.parts or (edit,)))
    assert set(kinds) == {*KINDS, IMPOSSIBLE}


def test_a_family_holds_the_wanted_kinds_only():
    wanted = ("move", "text", "two parts")
    kinds = {e.kind for seed in range(20) for e in family(np.random.default_rng([5, seed]), wanted)}
    assert kinds == set(wanted)
    first = {e.kind for seed in range(20) for e in family(np.random.default_rng([5, seed]), FIRST_KINDS)}
    assert first == set(FIRST_KINDS)


def test_a_family_of_text_alone_spells_letters_in_any_order():
    edits = [e for seed in range(20) for e in family(np.random.default_rng([5, seed]), ("text",))]
    among_others = [
        e for seed in range(20) for e in family(np.random.default_rng([5, seed])) if e.kind == "text"
    ]
    assert {e.kind for e in edits} == {"text"}
    assert not any(held_out(scene) for e in edits for scene in scenes(e))
    assert len(edits) > 3 * len(among_others)

    def words(some: list[Edit]) -> float:
        return sum(e.result.form.text in ("OPEN", "CAFE", "STOP", "ZOO", "KIDS") for e in some) / len(some)

    assert words(edits) == 0 < words(among_others)


def test_sizes_counts_and_texts_change_and_nothing_else_of_the_thing():
    for edit in edits("resize"):
        factor = edit.result.size / edit.subject.size
        assert factor == pytest.approx(BIGGER) or factor == pytest.approx(1 / BIGGER)
    for edit in edits("count"):
        assert edit.result.form.count != edit.subject.form.count
        assert edit.result == replace(edit.subject, form=edit.result.form)
    for edit in edits("text"):
        assert edit.result.form.text != edit.subject.form.text
        assert edit.result == replace(edit.subject, form=edit.result.form)
        left, _, side = box_of(edit.before, edit.result)
        assert left >= 0
        assert left + side <= edit.before.width  # every letter shows


def test_a_reference_keeps_its_style_or_its_character_and_nothing_else():
    for edit in edits("style reference"):
        assert edit.before.style == edit.after.style != "plain"
        assert edit.after.things == (edit.result,)
    for edit in edits("character reference"):
        assert edit.subject.form.robot == edit.result.form.robot
        assert edit.subject.color == edit.result.color
        assert edit.before.landscape != edit.after.landscape
        assert edit.after.things == (edit.result,)


def test_two_parts_follow_each_other():
    for edit in edits("two parts"):
        first, second = edit.parts
        assert (first.before, first.after, second.after) == (edit.before, second.before, edit.after)
        assert first.kind in LOCAL_KINDS
        assert second.kind in GLOBAL_KINDS


def test_what_is_not_possible_changes_nothing():
    for edit in edits(IMPOSSIBLE):
        assert edit.before == edit.after
        assert not edit.region().any()
        (asked,) = edit.parts
        assert asked.subject.shape not in [thing.shape for thing in edit.before.things]


def test_a_family_shares_its_pictures():
    family_edits = family(np.random.default_rng(1))
    pictures = {scene for edit in family_edits for scene in (edit.before, edit.after)}
    assert len(family_edits) > 1.5 * len(pictures) > 10


def test_the_held_out_share_is_what_the_module_says():
    for shape in SHAPES:
        assert sum(thing_held_out(shape, color) for color in COLORS) == 1
    for group in (GROUND_THINGS, SKY_THINGS):
        pairs = [replacement_held_out(a, b) for a in group for b in group if a != b]
        assert 0.08 < np.mean(pairs) < 0.25
    for shape in SHAPES:
        assert sum(styled_thing_held_out(shape, style) for style in STYLES) == 1
        assert sum(count_held_out(shape, n) for n in (1, 2, 3)) in (0, 1)
    for landscape in LANDSCAPES:
        assert sum(style_held_out(landscape, style) for style in STYLES) in (1, 2)
    assert 0.1 < np.mean([text_held_out(str(n)) for n in range(1000)]) < 0.23
    robots = [Robot(h, t, b, "legs", f) for h in HEADS for t in TOPS for b in BODIES for f in COLORS]
    assert 0.1 < np.mean([robot_held_out(robot, "red") for robot in robots]) < 0.19
    for values, at in ((SEASONS, 1), (TIMES, 2), (LOOKS, 3)):
        count = 0
        for landscape in LANDSCAPES:
            for value in values:
                scene = [landscape, "summer", "day", "colour"]
                scene[at] = value
                count += landscape_held_out(*scene)
        assert count == 4


def test_scenes_vary_and_leave_room():
    drawn = [random_scene(np.random.default_rng([9, i])) for i in range(200)]
    assert {(s.width, s.height) for s in drawn} == set(SIZES)
    assert {s.landscape for s in drawn} == set(LANDSCAPES)
    assert {t.shape for s in drawn for t in s.things} == set(SHAPES)
    assert len({s.detail for s in drawn}) > 190
    assert all(1 <= len(s.things) < len(PLACES) for s in drawn)
