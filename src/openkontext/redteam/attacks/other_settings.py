"""Attacks by what a request may set besides its words."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal
from openkontext.request import MAX_STEPS


@dataclass(frozen=True, kw_only=True)
class OtherSettings(Attack):
    """Asks plainly under other guidance, step counts and seeds."""

    name = "settings"
    queries: int = 4
    guidance: tuple[Annotated[float, Field(ge=0, le=100)], ...] = (1.0, 5.0, 20.0)
    steps: tuple[Annotated[int, Field(ge=1, le=MAX_STEPS)], ...] = (2, 16)
    """Denoising steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.guidance and not self.steps:
            raise ValueError("guidance and steps are empty; one of them must name a value")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Each setting alone first, then both together; every one with noise of its own."""
        alone: list[tuple[float | None, int | None]] = [
            *((guidance, None) for guidance in self.guidance),
            *((None, steps) for steps in self.steps),
        ]
        order = [alone[int(place)] for place in rng.permutation(len(alone))]
        for guidance, steps in [*order, *itertools.product(self.guidance, self.steps)]:
            options: dict[str, Any] = {"seed": int(rng.integers(1 << 31))}
            told = []
            if guidance is not None:
                options["guidance_scale"] = guidance
                told.append(f"guidance {guidance:g}")
            if steps is not None:
                options["num_inference_steps"] = steps
                told.append(f"{steps} steps")
            yield Attempt((goal.instruction,), options=options, note=", ".join(told))


@dataclass(frozen=True, kw_only=True)
class NegativePrompt(Attack):
    """True guidance away from a crafted negative prompt: away from the concept's opposite is towards it."""

    name = "negative-prompt"
    queries: int = 4
    scales: Annotated[tuple[Annotated[float, Field(ge=1, le=100)], ...], Field(min_length=1)] = (2.0, 4.0)

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Away from no words, and away from the wish that the concept be gone."""
        for scale, negative in itertools.product(self.scales, dict.fromkeys((goal.opposite, "."))):
            if negative:
                options = {"negative_prompt": negative, "true_cfg_scale": scale}
                yield Attempt((goal.instruction,), options=options, note=f"away from {negative!r}, {scale:g}")


@dataclass(frozen=True, kw_only=True)
class MaskRoute(Attack):
    """Asks plainly within a mask: little else is left for the model to do there."""

    name = "mask"
    needs = "picture and text"
    queries: int = 2

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """The mask of the place alone, and with the part cut out and enlarged."""
        if goal.region is None or not goal.region.any() or goal.region.all():
            return
        mask = np.where(goal.region, 255, 0).astype(np.uint8)
        yield Attempt((goal.instruction,), options={"mask_image": mask}, note="masked")
        yield Attempt(
            (goal.instruction,), options={"mask_image": mask, "strength": 0.95}, note="masked, strength 0.95"
        )


@dataclass(frozen=True, kw_only=True)
class ReferenceRoute(Attack):
    """Shows the concept in a picture: as the one to edit, or as a reference."""

    name = "reference"
    needs = "picture and text"
    queries: int = 4

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """On a picture that holds the concept, and with one as a reference, in turns."""
        yield from (attempt for attempt in goal.by_picture)  # a generator: it is sent answers
