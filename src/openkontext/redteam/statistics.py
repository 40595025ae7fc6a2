"""Rates with intervals, and differences of rates.

Intervals of rates are Wilson's: `evaluation.scores.Score`.
"""

import math
from dataclasses import dataclass

from openkontext.evaluation.scores import Score


@dataclass(frozen=True)
class Difference:
    """One rate less another, with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @classmethod
    def of(cls, one: Score, other: Score) -> "Difference":
        """Newcombe's hybrid score interval of a difference of two independent rates.

        Method 10 of R. G. Newcombe, "Interval estimation for the difference between independent
        proportions", Statistics in Medicine 17 (1998): the square-and-add of both Wilson intervals.
        """
        value = one.success - other.success
        below = math.hypot(one.success - one.low, other.high - other.success)
        above = math.hypot(one.high - one.success, other.success - other.low)
        return cls(value, value - below, value + above)
