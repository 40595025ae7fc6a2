"""Edits: what they change, what they leave, and what training never sees."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from openkontext.data.edits import GLOBAL_KINDS, KINDS, LOCAL_KINDS, Edit, family, random_edit
from openkontext.data.holdout import landscape_held_out, replacement_held_out, thing_held_out
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.palette import COLOURS
from openkontext.data.sampler import random_scene
from openkontext.data.scenes import GROUND_PLACES, LOOKS, PLACES, SIZES, Scene, box_of, render
from openkontext.data.things import GROUND_THINGS, SHAPES, SKY_THINGS


def edits(kind: str, *, count: int = 12, unseen: bool = False) -> list[Edit]:
    return [random_edit(np.random.default_rng([3, i]), kind, unseen=unseen) for i in range(count)]


def held_out(scene: Scene) -> bool:
    return landscape_held_out(scene.landscape, scene.season, scene.time, scene.look) or any(
        thing_held_out(thing.shape, thing.colour) for thing in scene.things
    )


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
        assert edit.subject.colour != edit.result.colour
    for edit in edits("replace"):
        assert edit.subject.shape != edit.result.shape
        assert edit.subject.in_sky == edit.result.in_sky
    for edit in edits("remove"):
        assert Counter(edit.before.things) - Counter(edit.after.things) == Counter([edit.subject])
    for edit in edits("add"):
        assert Counter(edit.after.things) - Counter(edit.before.things) == Counter([edit.result])
    for edit in edits("move"):
        assert edit.result.place not in [thing.place for thing in edit.before.things]
        assert (edit.result.shape, edit.result.colour) == (edit.subject.shape, edit.subject.colour)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_unique_and_things_are_where_they_can_be(kind: str):
    for edit in edits(kind) + edits(kind, unseen=True):
        for scene in (edit.before, edit.after):
            names = [(thing.shape, thing.colour) for thing in scene.things]
            places = [thing.place for thing in scene.things]
            assert len(set(names)) == len(names)
            assert len(set(places)) == len(places)
            assert all((t.shape in GROUND_THINGS) == (t.place in GROUND_PLACES) for t in scene.things)


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_edits_ask_for_something_held_out_and_seen_ones_for_nothing(kind: str):
    for edit in edits(kind):
        assert not held_out(edit.before)
        assert not held_out(edit.after)
        if kind == "replace":
            assert not replacement_held_out(edit.subject.shape, edit.result.shape)
    for edit in edits(kind, unseen=True):
        pair = kind == "replace" and replacement_held_out(edit.subject.shape, edit.result.shape)
        assert held_out(edit.before) or held_out(edit.after) or pair


def test_training_families_hold_nothing_held_out():
    kinds: Counter[str] = Counter()
    for seed in range(60):
        for edit in family(np.random.default_rng([5, seed])):
            kinds[edit.kind] += 1
            assert not held_out(edit.before)
            assert not held_out(edit.after)
            if edit.kind == "replace":
                assert not replacement_held_out(edit.subject.shape, edit.result.shape)
    assert set(kinds) == set(KINDS)


def test_a_family_shares_its_pictures():
    family_edits = family(np.random.default_rng(1))
    scenes = {scene for edit in family_edits for scene in (edit.before, edit.after)}
    assert len(family_edits) > len(scenes) > 5


def test_the_held_out_share_is_what_the_module_says():
    for shape in SHAPES:
        assert sum(thing_held_out(shape, colour) for colour in COLOURS) == 1
    for group in (GROUND_THINGS, SKY_THINGS):
        pairs = [replacement_held_out(a, b) for a in group for b in group if a != b]
        assert 0.08 < np.mean(pairs) < 0.25
    for values, at in ((SEASONS, 1), (TIMES, 2), (LOOKS, 3)):
        count = 0
        for landscape in LANDSCAPES:
            for value in values:
                scene = [landscape, "summer", "day", "colour"]
                scene[at] = value
                count += landscape_held_out(*scene)
        assert count == 4


def test_scenes_vary_and_leave_room():
    scenes = [random_scene(np.random.default_rng([9, i])) for i in range(200)]
    assert {(s.width, s.height) for s in scenes} == set(SIZES)
    assert {s.landscape for s in scenes} == set(LANDSCAPES)
    assert {t.shape for s in scenes for t in s.things} == set(SHAPES)
    assert len({s.detail for s in scenes}) > 190
    assert all(1 <= len(s.things) < len(PLACES) for s in scenes)
