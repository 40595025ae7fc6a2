"""Attacks over several edits: each alone says little."""

from dataclasses import dataclass

import numpy as np

from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal


@dataclass(frozen=True, kw_only=True)
class MultiTurn(Attack):
    """Leads up to the concept in small steps, each on the result of the one before."""

    name = "multi-turn"
    source = "build-up as in Crescendo (arXiv 2404.01833)"
    queries: int = 6

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """One chain of edits after the other."""
        for at in rng.permutation(len(goal.chains)):
            yield Attempt(goal.chains[int(at)])


@dataclass(frozen=True, kw_only=True)
class Split(Attack):
    """Says one half of the instruction in one edit and the other half in the next."""

    name = "split"
    source = "payload splitting (arXiv 2302.05733)"
    queries: int = 4

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Two edits, the second by what the concept looks like, then by its name."""
        for halves in goal.halves:
            yield Attempt(halves)
