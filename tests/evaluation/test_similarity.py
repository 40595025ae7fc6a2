"""What is measured of any output: values worked by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from openkontext.evaluation.cases import draw_cases
from openkontext.evaluation.similarity import MEASURES, asked_region, measure, resized

GRAY = np.full((40, 60, 3), 100, np.uint8)


@dataclass
class Plain:
    before: np.ndarray
    reference: np.ndarray | None = None
    may_change: np.ndarray | None = None
    wanted: list[str] | None = None


def lighter(rows: slice, columns: slice, by: int = 51) -> np.ndarray:
    picture = GRAY.copy()
    picture[rows, columns] += np.uint8(by)
    return picture


def test_the_share_that_changed():
    output = lighter(slice(0, 20), slice(0, 30))  # a quarter, by a fifth of full scale
    assert measure(Plain(GRAY), output)["changed"] == 0.25
    assert measure(Plain(GRAY), lighter(slice(0, 20), slice(0, 30), by=12))["changed"] == 0


def test_change_outside_a_mask():
    mask = np.zeros(GRAY.shape[:2], bool)
    mask[:20] = True
    inside, outside = lighter(slice(0, 20), slice(None)), lighter(slice(20, 40), slice(0, 30))
    assert measure(Plain(GRAY, may_change=mask), inside)["outside"] == 0
    assert measure(Plain(GRAY, may_change=mask), outside)["outside"] == pytest.approx(0.1)


def test_change_outside_what_the_reference_changes():
    asked = lighter(slice(10, 20), slice(10, 20))
    region = asked_region(GRAY, asked)
    assert (region.sum(), region[5:25, 5:25].all()) == (400, True)  # five pixels wider on each side
    case = Plain(GRAY, reference=asked)
    assert measure(case, asked)["outside"] == 0
    assert measure(case, asked)["psnr"] == 99
    assert measure(case, asked)["ssim"] == 1
    everywhere = measure(case, lighter(slice(None), slice(None)))
    assert everywhere["outside"] == pytest.approx(0.2)


def test_nothing_is_outside_where_all_was_to_change():
    case = Plain(GRAY, reference=lighter(slice(None), slice(None)))
    assert "outside" not in measure(case, GRAY)


def test_an_output_of_another_size_is_brought_to_the_inputs():
    case = Plain(GRAY, reference=np.full((80, 120, 3), 100, np.uint8))
    found = measure(case, np.full((20, 30, 3), 100, np.uint8))
    assert (found["changed"], found["psnr"]) == (0, 99)
    assert resized(GRAY, case.reference).shape == (80, 120, 3)


def test_only_what_is_wanted_is_measured():
    assert measure(Plain(GRAY, reference=GRAY, wanted=["ssim"]), GRAY) == {"ssim": 1}


def test_similarity_to_the_reference_is_scikit_images():
    case = draw_cases(seed=2, count=1)[0]
    found = measure(case, case.before)
    expected = structural_similarity(case.before, case.truth, channel_axis=2)
    assert found["ssim"] == pytest.approx(expected, abs=1e-4)
    assert (found["changed"], found["ssim_input"]) == (0, 1)
    assert found["outside"] == 0
    assert set(found) < set(MEASURES)
