"""The reader: what is right passes, blurred or not; what is wrong in any one way fails."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from stand_ins import blurred

from openkontext.data.edits import GLOBAL_KINDS, KINDS, LOCAL_KINDS, global_changes, moved
from openkontext.data.palette import COLOURS
from openkontext.data.scenes import Scene, Thing, render
from openkontext.data.things import GROUND_THINGS, SKY_THINGS
from openkontext.evaluation.cases import Case, draw_case, draw_cases
from openkontext.evaluation.reader import read
from openkontext.images.fitting import Pixels

EDITORS: dict[str, Callable[[Case], Pixels]] = {
    "copy": lambda case: case.before,
    "truth": lambda case: case.truth,
    "blurred truth": lambda case: blurred(case.truth),
}


def successes(count: int) -> dict[str, float]:
    cases = draw_cases(seed=1, count=count)
    readings = [[read(case.edit, edit(case)).success for edit in EDITORS.values()] for case in cases]
    return dict(zip(EDITORS, np.mean(readings, axis=0), strict=True))


def test_the_truth_succeeds_and_a_copy_fails():
    assert successes(36) == {"copy": 0, "truth": 1, "blurred truth": 1}


@pytest.mark.slow
def test_the_truth_succeeds_and_a_copy_fails_on_many_cases():
    share = successes(270)
    assert share["copy"] <= 0.02
    assert share["truth"] >= 0.99
    assert share["blurred truth"] >= 0.97


def cases_of(*kinds: str, turns: range = range(2)) -> list[Case]:
    return [draw_case(2, turn * len(KINDS) + KINDS.index(kind)) for kind in kinds for turn in turns]


def checks(case: Case, output: Pixels) -> set[str]:
    """The checks that an output fails; those that its blurred picture fails must be faults too."""
    assert not read(case.edit, blurred(output)).success
    return {fault.check for fault in read(case.edit, output).faults}


def put(scene: Scene, old: Thing, *new: Thing) -> Pixels:
    """The picture of a scene with other things in place of one."""
    return render(replace(scene, things=(*(t for t in scene.things if t != old), *new)))


MADE = ("recolour", "replace", "add", "move")
"""Kinds that ask for a thing."""


@pytest.mark.parametrize("case", cases_of(*MADE), ids=lambda c: c.instruction)
def test_a_thing_in_another_colour_fails(case: Case):
    wanted = case.edit.result
    for colour in [c for c in COLOURS if c != wanted.colour][::3]:
        output = put(case.edit.after, wanted, replace(wanted, colour=colour))
        assert checks(case, output) & {"colour", "presence"}


@pytest.mark.parametrize("case", cases_of(*MADE), ids=lambda c: c.instruction)
def test_a_thing_of_another_shape_fails(case: Case):
    wanted = case.edit.result
    for shape in [s for s in (SKY_THINGS if wanted.in_sky else GROUND_THINGS) if s != wanted.shape][::3]:
        output = put(case.edit.after, wanted, replace(wanted, shape=shape))
        assert checks(case, output) & {"shape", "presence"}


@pytest.mark.parametrize("case", cases_of(*MADE), ids=lambda c: c.instruction)
def test_a_thing_that_is_missing_faint_small_or_elsewhere_fails(case: Case):
    after, wanted = case.edit.after, case.edit.result
    missing = put(after, wanted)
    faint = (0.3 * case.truth + 0.7 * missing).astype(np.uint8)
    small = put(after, wanted, replace(wanted, size=wanted.size / 2))
    beside = put(after, wanted, replace(wanted, dx=wanted.dx + 0.75 * wanted.size))
    for output in (missing, faint, small, beside):
        assert "presence" in checks(case, output)


@pytest.mark.parametrize("case", cases_of(*MADE), ids=lambda c: c.instruction)
def test_a_thing_two_pixels_beside_its_place_succeeds(case: Case):
    after, wanted = case.edit.after, case.edit.result
    output = put(after, wanted, replace(wanted, dx=wanted.dx + 2 / after.width))
    assert read(case.edit, output).success


@pytest.mark.parametrize("case", cases_of("remove", "move"), ids=lambda c: c.instruction)
def test_an_old_thing_that_stays_or_leaves_a_ghost_fails(case: Case):
    edit = case.edit
    stays = render(replace(edit.after, things=(*edit.after.things, edit.subject)))
    ghost = (0.5 * stays + 0.5 * case.truth).astype(np.uint8)
    for output in (stays, ghost):
        assert checks(case, output) == {"leftover"}


@pytest.mark.parametrize("case", cases_of(*LOCAL_KINDS), ids=lambda c: c.instruction)
def test_a_change_of_the_rest_fails(case: Case):
    after = case.edit.after
    other_time = next(iter(global_changes(after, "time")))
    assert "outside" in checks(case, render(other_time))
    assert "outside" in checks(case, (0.7 * case.truth).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_another_thing_that_goes_or_changes_fails(kind: str):
    found = (c for c in (draw_case(4, i) for i in range(KINDS.index(kind), 180, len(KINDS))))
    case = next(c for c in found if c.edit.after.time == "day" and set(c.edit.after.things) - {c.edit.result})
    other = next(t for t in case.edit.after.things if t != case.edit.result)
    colour = "blue" if other.colour in ("red", "orange", "yellow", "pink", "white") else "yellow"
    for output in (
        put(case.edit.after, other),
        put(case.edit.after, other, replace(other, colour=colour)),
    ):
        assert "others" in checks(case, output)


@pytest.mark.parametrize("kind", GLOBAL_KINDS)
def test_a_wrong_or_further_change_of_the_whole_fails(kind: str):
    for case in cases_of(kind):
        for field in GLOBAL_KINDS:
            for other in list(global_changes(case.edit.after, field))[:2]:
                assert checks(case, render(other)) & {"background", "picture"}


def test_a_new_landscape_may_have_its_own_hills_and_houses():
    for case in cases_of("background", turns=range(6)):
        output = render(replace(case.edit.after, detail=case.edit.after.detail + 1))
        assert read(case.edit, output).success


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_picture_or_one_of_another_size_fails(kind: str):
    (case,) = cases_of(kind, turns=range(1))
    assert checks(case, np.full_like(case.truth, 128))
    wide = np.repeat(case.truth, 2, axis=1)
    assert [fault.check for fault in read(case.edit, wide).faults] == ["size"]


def test_a_thing_that_moved_to_the_wrong_place_fails():
    case = next(c for c in cases_of("move", turns=range(20)) if not c.edit.subject.in_sky)
    places = {"left", "middle", "right"} - {t.place for t in case.edit.after.things}
    assert places
    output = put(case.edit.after, case.edit.result, moved(case.edit.result, min(places)))
    assert "presence" in checks(case, output)
