"""Cases: the same for a seed whatever the count, and every kind, combination and phrasing in its share."""

from collections import Counter

import numpy as np
import pytest

from openkontext.data.edits import KINDS
from openkontext.data.holdout import landscape_held_out, replacement_held_out, thing_held_out
from openkontext.data.scenes import SIZES
from openkontext.evaluation.cases import Case, draw_case, draw_cases


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return draw_cases(seed=5, count=144)


def test_a_seed_gives_the_same_cases_whatever_the_count(cases: list[Case]):
    assert draw_cases(seed=5, count=20) == cases[:20]
    assert draw_case(5, 100) == cases[100]
    assert draw_cases(seed=6, count=20) != cases[:20]


def test_kinds_combinations_and_phrasings_have_equal_shares(cases: list[Case]):
    shares = Counter((c.edit.kind, c.unseen, c.held_out_phrasing) for c in cases)
    assert shares == {(kind, u, p): 4 for kind in KINDS for u in (False, True) for p in (False, True)}


def test_unseen_means_held_out_of_training(cases: list[Case]):
    for case in cases:
        edit, held_out = case.edit, False
        for scene in (edit.before, edit.after):
            held_out |= landscape_held_out(scene.landscape, scene.season, scene.time, scene.look)
            held_out |= any(thing_held_out(thing.shape, thing.colour) for thing in scene.things)
        if edit.kind == "replace":
            held_out |= replacement_held_out(edit.subject.shape, edit.result.shape)
        assert held_out == case.unseen


def test_pictures_show_the_scenes_at_nanos_sizes(cases: list[Case]):
    for case in cases[:18]:
        assert case.before.shape == case.truth.shape == (case.edit.before.height, case.edit.before.width, 3)
        assert (case.edit.before.width, case.edit.before.height) in SIZES
        assert case.before.dtype == np.uint8
        assert (case.before != case.truth).any()
