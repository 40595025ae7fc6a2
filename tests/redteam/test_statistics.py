"""Rates, differences and agreement, against published values and another library."""

import pytest
from scipy.stats import binomtest

from openkontext.evaluation.scores import Score
from openkontext.redteam.judges import agreement
from openkontext.redteam.statistics import Difference


def score(successes: int, count: int) -> Score:
    return Score.of([True] * successes + [False] * (count - successes))


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 40), (3, 7), (15, 148), (40, 40)])
def test_intervals_of_rates_are_wilsons(successes: int, count: int) -> None:
    found = score(successes, count)
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [  # Table II of Newcombe, Statistics in Medicine 17 (1998), method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_intervals_of_differences_are_newcombes(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = Difference.of(score(*one), score(*other))
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.is_sure


def test_a_difference_that_may_be_none_is_not_sure() -> None:
    assert not Difference.of(score(5, 56), score(0, 29)).is_sure


def test_alpha_of_the_published_example() -> None:
    """Two observers, ten units: Krippendorff, "Computing Krippendorff's Alpha-Reliability", section A."""
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert agreement([list(map(bool, meg)), list(map(bool, owen))]) == pytest.approx(0.095, abs=5e-4)


def test_alpha_where_it_cannot_be_told() -> None:
    assert agreement([[True, False]]) is None
    assert agreement([[True, True], [True, True]]) is None
    assert agreement([[True, None], [None, False]]) is None
    assert agreement([[True, False, None], [True, False, True]]) == pytest.approx(1)
