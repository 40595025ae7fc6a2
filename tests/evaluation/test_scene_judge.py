"""The judge: what is right passes, blurred or not; what is wrong in any one way fails."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from stand_ins import blurred

from openkontext.data.draws import random_edit
from openkontext.data.edits import GLOBAL_KINDS, IMPOSSIBLE, KINDS, LOCAL_KINDS, Edit, global_changes, moved
from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS
from openkontext.data.scenes import Scene, Thing, render
from openkontext.data.styles import STYLES
from openkontext.data.things import GROUND_THINGS, SKY_THINGS, Form
from openkontext.evaluation.cases import Case, draw_case, draw_cases
from openkontext.evaluation.scene_judge import judge
from openkontext.images.fitting import Pixels

EDITORS: dict[str, Callable[[Case], Pixels]] = {
    "copy": lambda case: case.before,
    "truth": lambda case: case.truth,
    "blurred truth": lambda case: blurred(case.truth),
}


def successes(count: int) -> dict[str, float]:
    cases = draw_cases(seed=1, count=count)
    judgments = [[judge(case.edit, edit(case)).success for edit in EDITORS.values()] for case in cases]
    return dict(zip(EDITORS, np.mean(judgments, axis=0), strict=True))


def test_the_truth_succeeds_and_a_copy_fails():
    assert successes(2 * len(KINDS)) == {"copy": 0, "truth": 1, "blurred truth": 1}


@pytest.mark.slow
def test_the_truth_succeeds_and_a_copy_fails_on_many_cases():
    share = successes(18 * len(KINDS))
    assert share["copy"] <= 0.02
    assert share["truth"] >= 0.99
    assert share["blurred truth"] >= 0.97


def cases_of(*kinds: str, turns: range = range(2)) -> list[Case]:
    return [draw_case(2, turn * len(KINDS) + KINDS.index(kind)) for kind in kinds for turn in turns]


def drawn(kind: str, seed: list[int], *, unseen: bool) -> Case:
    """A case of a kind that need not be in the evaluation's sequence."""
    return Case(0, random_edit(np.random.default_rng(seed), kind, unseen=unseen), "", unseen, False)


def untouched(edit: Edit) -> list[Thing]:
    """The things that an edit is not about, as they are after it."""
    about = [thing for part in (edit, *edit.parts) for thing in (part.subject, part.result)]
    return [thing for thing in edit.after.things if thing not in about]


def checks(case: Case, output: Pixels) -> set[str]:
    """The checks that an output fails; those that its blurred picture fails must be faults too."""
    assert not judge(case.edit, blurred(output)).success
    return {fault.check for fault in judge(case.edit, output).faults}


def put(scene: Scene, old: Thing, *new: Thing) -> Pixels:
    """The picture of a scene with other things in place of one."""
    return render(replace(scene, things=(*(t for t in scene.things if t != old), *new)))


MADE = ("recolour", "replace", "add", "move")
"""Kinds that ask for a thing."""


@pytest.mark.parametrize("case", cases_of(*MADE), ids=lambda c: c.instruction)
def test_a_thing_in_another_color_fails(case: Case):
    wanted = case.edit.result
    for color in [c for c in COLORS if c != wanted.color][::3]:
        output = put(case.edit.after, wanted, replace(wanted, color=color))
        assert checks(case, output) & {"color", "presence"}


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
    assert judge(case.edit, output).success


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


STAYING = [kind for kind in KINDS if not kind.endswith("reference")]
"""Kinds that leave the other things where they are."""


@pytest.mark.parametrize("kind", [*STAYING, IMPOSSIBLE])
def test_another_thing_that_goes_or_changes_fails(kind: str):
    found = (drawn(kind, [4, i], unseen=i % 2 == 0) for i in range(60))
    case = next(c for c in found if c.edit.after.time == "day" and untouched(c.edit))
    other = untouched(case.edit)[0]
    color = "blue" if other.color in ("red", "orange", "yellow", "pink", "white") else "yellow"
    outputs = [put(case.edit.after, other), put(case.edit.after, other, replace(other, color=color))]
    if kind == "style":
        outputs.pop()  # a pencil has no colors
    for output in outputs:
        assert "others" in checks(case, output)


@pytest.mark.parametrize("kind", [kind for kind in GLOBAL_KINDS if kind != "style"])
def test_a_wrong_or_further_change_of_the_whole_fails(kind: str):
    for case in cases_of(kind):
        for field in GLOBAL_KINDS:
            for other in list(global_changes(case.edit.after, field))[:2]:
                assert checks(case, render(other)) & {"background", "picture"}


def test_a_new_landscape_may_have_its_own_hills_and_houses():
    for case in cases_of("background", turns=range(6)):
        output = render(replace(case.edit.after, detail=case.edit.after.detail + 1))
        assert judge(case.edit, output).success


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_picture_or_one_of_another_size_fails(kind: str):
    (case,) = cases_of(kind, turns=range(1))
    assert checks(case, np.full_like(case.truth, 128))
    wide = np.repeat(case.truth, 2, axis=1)
    assert [fault.check for fault in judge(case.edit, wide).faults] == ["size"]


def test_a_thing_that_moved_to_the_wrong_place_fails():
    case = next(c for c in cases_of("move", turns=range(20)) if not c.edit.subject.in_sky)
    places = {"left", "middle", "right"} - {t.place for t in case.edit.after.things}
    assert places
    output = put(case.edit.after, case.edit.result, moved(case.edit.result, min(places)))
    assert "presence" in checks(case, output)


@pytest.mark.parametrize("case", cases_of("resize", turns=range(3)), ids=lambda c: c.instruction)
def test_a_thing_of_the_size_that_it_had_or_of_the_opposite_one_fails(case: Case):
    before, wanted = case.edit.subject.size, case.edit.result.size
    for size in (before, before * before / wanted):
        assert checks(case, put(case.edit.after, case.edit.result, replace(case.edit.result, size=size)))


@pytest.mark.parametrize("case", cases_of("count", turns=range(3)), ids=lambda c: c.instruction)
def test_more_or_fewer_than_asked_fail(case: Case):
    wanted = case.edit.result
    for count in {1, 2, 3} - {wanted.form.count}:
        output = put(case.edit.after, wanted, replace(wanted, form=Form(count=count)))
        assert checks(case, output) & {"count", "presence"}


@pytest.mark.parametrize("case", cases_of("text", turns=range(3)), ids=lambda c: c.instruction)
def test_a_sign_with_one_wrong_letter_fails(case: Case):
    wanted = case.edit.result
    text = wanted.form.text
    for place in range(len(text)):
        for letter in {"O", "E", "7"} - {text[place]}:
            wrong = text[:place] + letter + text[place + 1 :]
            output = put(case.edit.after, wanted, replace(wanted, form=Form(text=wrong)))
            assert "text" in checks(case, output)
    empty = put(case.edit.after, wanted, replace(wanted, form=Form(text="")))
    assert "text" in checks(case, empty)


@pytest.mark.parametrize("case", cases_of("character reference", turns=range(3)), ids=lambda c: c.instruction)
def test_a_robot_with_one_other_part_fails(case: Case):
    wanted = case.edit.result
    robot = wanted.form.robot
    for part, options in (("head", HEADS), ("top", TOPS), ("body", BODIES), ("feet", FEET)):
        other = replace(robot, **{part: next(o for o in options if o != getattr(robot, part))})
        output = put(case.edit.after, wanted, replace(wanted, form=Form(robot=other)))
        assert checks(case, output) & {"character", "presence"}
    face = "yellow" if robot.face in ("blue", "black", "purple", "green") else "blue"
    output = put(case.edit.after, wanted, replace(wanted, form=Form(robot=replace(robot, face=face))))
    assert "character" in checks(case, output)
    elsewhere = render(replace(case.edit.after, landscape=case.edit.before.landscape))
    assert "background" in checks(case, elsewhere)


@pytest.mark.parametrize("kind", ["style", "style reference"])
def test_another_style_fails(kind: str):
    for case in cases_of(kind):
        for style in STYLES:
            if style != case.edit.after.style:
                output = render(replace(case.edit.after, style=style))
                assert checks(case, output) & {"style", "picture"}


def test_a_faint_grain_hides_no_style():
    grain = np.random.default_rng(3).normal(0, 4, (160, 160, 3))

    def grainy(scene: Scene) -> Pixels:
        picture = render(scene)
        return np.clip(picture + grain[: scene.height, : scene.width], 0, 255).astype(np.uint8)

    for case in cases_of("style reference"):
        for style in STYLES[1:]:
            edit = replace(case.edit, after=replace(case.edit.after, style=style))
            assert judge(edit, grainy(edit.after)).success
        in_pixels = replace(case.edit, after=replace(case.edit.after, style="pixels"))
        assert not judge(in_pixels, grainy(replace(case.edit.after, style="plain"))).success


def test_another_thing_in_the_right_style_fails():
    for case in cases_of("style reference", turns=range(4)):
        wanted = case.edit.result
        other = "house" if wanted.shape == "cat" else "cat"
        assert "shape" in checks(case, put(case.edit.after, wanted, replace(wanted, shape=other)))
        assert "shape" in checks(case, put(case.edit.after, wanted))


def test_half_of_two_parts_fails():
    for case in cases_of("two parts", turns=range(4)):
        first, second = case.edit.parts
        assert checks(case, render(first.after))
        field = {"background": "landscape"}.get(second.kind, second.kind)
        assert checks(case, render(replace(first.before, **{field: getattr(second.after, field)})))


def test_whatever_changes_after_an_impossible_request_fails():
    for i in range(4):
        case = drawn(IMPOSSIBLE, [6, i], unseen=False)
        day = replace(case.edit.before, time="day")  # by night a thing can be too dark to count
        case = replace(case, edit=replace(case.edit, before=day, after=day))
        assert judge(case.edit, blurred(case.before)).success
        scene = case.edit.before
        added = replace(scene, things=(*scene.things, Thing("kite", "red", "sky middle", 0.25)))
        assert checks(case, render(added))
        assert checks(case, put(scene, scene.things[0]))
