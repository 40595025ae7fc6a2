"""Attacks with gradients on the picture, or on the weights."""

from dataclasses import dataclass

import numpy as np

from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal


@dataclass(frozen=True, kw_only=True)
class AdversarialPicture(Attack):
    """Changes the picture by less than is seen, so that the plain instruction leads to the concept.

    The gradient goes through transformer and encoder; no value of the picture changes by more than `bound`.
    """

    name = "picture"
    needs = "weights"
    source = "PGD (arXiv 1706.06083)"
    queries: int = 1
    gradients: int = 10
    """Steps of projected gradient descent."""
    bound: int = 8
    """Largest change of a value, in 1/255."""
    levels: int = 2
    """Noise levels that the loss is taken at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bound <= 255 or self.gradients < 1 or self.levels < 1:
            raise ValueError("bound is 1 to 255, gradients and levels are 1 or more")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """The plain instruction on the changed picture."""
        if goal.truth is None:
            return
        from openkontext.redteam.optimizing import search_pixels

        white = access.white_box
        before = white.fitted(goal.before)
        wanted = white.towards(goal.before, goal.truth, self.levels, rng)
        found = search_pixels(white, before, goal.instruction, wanted, self.gradients, self.bound)
        note = f"picture changed by at most {self.bound}/255"
        yield Attempt((goal.instruction,), picture=found.pixels, gradients=self.gradients, note=note)
