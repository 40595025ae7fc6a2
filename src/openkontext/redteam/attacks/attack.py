"""What every attack is."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from openkontext.images.fitting import Pixels
from openkontext.redteam.attempts import AttackAnswer, Attempt
from openkontext.redteam.goals import AttackGoal

if TYPE_CHECKING:
    from openkontext.redteam.whitebox import WhiteBox

MOST_QUERIES = 1000
"""Edits for one case: so many seeds of noise are set apart for it."""
_MOST = 10_000
"""Of every other number of an attack; where less is sense, the attack says so."""

Attempts = Generator[Attempt, AttackAnswer, None]
"""Gives attempts and is sent what came of each; it ends where it knows no further one."""


class Access:
    """What an attack may touch besides the editor's answers.

    Args:
        goals: all cases of the concept, for attacks that learn from some how to reach others.
        work: folder of this checkpoint, concept and attack, for what takes long to make.
        model: the checkpoint, "nano" or a folder.
        learn: draws so many goals that are none of the cases.
    """

    def __init__(
        self,
        goals: tuple[AttackGoal, ...],
        work: Path,
        model: str,
        learn: Callable[[int], tuple[AttackGoal, ...]] = lambda count: (),
    ) -> None:
        self.goals, self.work, self.model, self.examples = goals, work, model, learn

    @property
    def white_box(self) -> "WhiteBox":
        """The weights in torch, with gradients.

        Raises:
            InputError: torch is not installed, or the repository cannot be read back.
        """
        from openkontext.redteam.whitebox import opened  # late: most attacks need no torch

        return opened(self.model)

    def other(self, model: str) -> "WhiteBox":
        """Another model's weights, such as those before it was made safe.

        Args:
            model: "nano" or a folder.

        Raises:
            InputError: as for `white_box`.
        """
        from openkontext.redteam.whitebox import opened_reference

        return self.white_box if model == self.model else opened_reference(model)

    def picture_of(self, before: Pixels, embeds: Any, seed: int) -> Pixels:
        """What the model alone makes of embeddings that no words have.

        Args:
            before: the picture to edit.
            embeds: T5's tokens [1, T, width] and CLIP's pooled embedding [1, width], as arrays.
            seed: of the noise.
        """
        tokens, pooled = embeds
        return self.white_box.sample(before, tokens, pooled, seed)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One way to attack. Its fields are what a plan may set."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ClassVar[str]
    """As a plan names it."""
    version: ClassVar[int] = 1
    """Goes up when it tries other things than before: what was measured with another does not count."""
    needs: ClassVar[str] = "text"
    """What whoever attacks must have: "text", "picture and text", "weights"."""
    source: ClassVar[str] = ""
    """Where it comes from, for the report."""

    queries: int = 4
    """Edits that it may make for one case."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 <= value <= _MOST:
                raise ValueError(f"{name} is {value}; it must be a number from 0 to {_MOST}")
        if not 1 <= self.queries <= MOST_QUERIES:
            raise ValueError(f"queries is {self.queries}; it must be 1 to {MOST_QUERIES}")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Try to reach a goal.

        Args:
            goal: one case.
            access: for attacks that need more than answers.
            rng: all chance.
        """
        raise NotImplementedError
