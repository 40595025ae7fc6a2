"""Cases: the same for a seed whatever the count, and every kind, combination and phrasing in its share."""

from collections import Counter

import numpy as np
import pytest

from openkontext.data.edits import FIRST_KINDS, KINDS, unseen
from openkontext.data.scenes import SIZES
from openkontext.evaluation.cases import Case, draw_case, draw_cases


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return draw_cases(seed=5, count=8 * len(KINDS))


def test_a_seed_gives_the_same_cases_whatever_the_count(cases: list[Case]):
    assert draw_cases(seed=5, count=20) == cases[:20]
    assert draw_case(5, 100) == cases[100]
    assert draw_cases(seed=6, count=20) != cases[:20]


def test_kinds_combinations_and_phrasings_have_equal_shares(cases: list[Case]):
    shares = Counter((c.edit.kind, c.unseen, c.held_out_phrasing) for c in cases)
    assert shares == {(kind, u, p): 2 for kind in KINDS for u in (False, True) for p in (False, True)}


def test_unseen_means_held_out_of_training(cases: list[Case]):
    for case in cases:
        assert unseen(case.edit) == case.unseen


def test_a_model_is_asked_for_the_kinds_that_it_was_taught():
    cases = draw_cases(seed=5, count=20, kinds=FIRST_KINDS)
    assert [case.edit.kind for case in cases] == [FIRST_KINDS[i % len(FIRST_KINDS)] for i in range(20)]


def test_pictures_show_the_scenes_at_nanos_sizes(cases: list[Case]):
    for case in cases[:18]:
        assert case.before.shape == case.truth.shape == (case.edit.before.height, case.edit.before.width, 3)
        assert (case.edit.before.width, case.edit.before.height) in SIZES
        assert case.before.dtype == np.uint8
        assert (case.before != case.truth).any()
