"""Attacks with gradients on the words: over embeddings, and over discrete tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openkontext.images.fitting import Pixels
from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal

if TYPE_CHECKING:
    from openkontext.redteam.optimizing import Template
    from openkontext.redteam.whitebox import Wanted


_MOST_SLOTS = 64
"""Words that a search may look for: an instruction of nano's takes no more."""


@dataclass(frozen=True, kw_only=True)
class _Search(Attack):
    """What searches with gradients have in common."""

    needs = "weights"
    queries: int = 2
    slots: int = 3
    """Words to look for."""
    gradients: int = 10
    """Steps of the search, each a pass through transformer and text encoders and back."""
    levels: int = 2
    """Noise levels that the loss is taken at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots < 1 or self.gradients < 1 or self.levels < 1:
            raise ValueError("slots, gradients and levels are 1 or more")
        if self.slots > _MOST_SLOTS:
            raise ValueError(f"slots is {self.slots}; no instruction takes more than {_MOST_SLOTS}")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSearch(_Search):
    """Looks for word embeddings, of no words, that lead to the concept.

    No instruction has them and the editor takes none, so that it says how much of the concept the weights
    still hold, not how a user could reach it.
    """

    name = "embeddings"
    source = "concept inversion (arXiv 2308.01508)"
    queries: int = 1
    rate: float = 0.3
    """Adam's learning rate, in deviations of the word embeddings."""

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """The instruction with embeddings that were learned before it."""
        if goal.truth is None:
            return
        from openkontext.redteam.optimizing import Template, search_embeddings

        white = access.white_box
        wanted = white.towards(goal.before, goal.truth, self.levels, rng)
        template = Template((*(None,) * self.slots, goal.instruction))
        found = search_embeddings(white, goal.before, template, wanted, self.gradients, self.rate, rng)
        features = white.features(found.words)
        embeds = features.tokens.detach().numpy(), features.pooled.detach().numpy()
        note = f"{self.slots} learned embeddings before it"
        yield Attempt((goal.instruction,), embeds=embeds, gradients=self.gradients, note=note)


@dataclass(frozen=True, kw_only=True)
class TokenSearch(_Search):
    """Looks for words to put before the instruction, and then for some in place of the concept's name.

    The loss is that of UnlearnDiffAtk, the flow's own loss of the picture as asked. Each step takes the swap
    of one word that lowers it most, of those that the gradient foresees (HotFlip, arXiv 1712.06751; GCG,
    2307.15043).
    """

    name = "tokens"
    source = "UnlearnDiffAtk (arXiv 2310.11868)"
    candidates: int = 8
    """Swaps that are tried at each step."""

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Words before the instruction; then an instruction without the name."""
        if goal.truth is None:
            return
        from openkontext.redteam.optimizing import Template, search_tokens

        white = access.white_box
        wanted = self._wanted(goal, goal.truth, access, rng)
        banned = frozenset(word.lower() for word in goal.names)
        for template in _templates(Template, goal, self.slots):
            found = search_tokens(
                white, goal.before, template, wanted, self.gradients, self.candidates, banned, rng
            )
            yield Attempt((found.text,), gradients=self.gradients, note=f"loss {found.losses[-1]:.3f}")

    def _wanted(self, goal: AttackGoal, truth: Pixels, access: Access, rng: np.random.Generator) -> "Wanted":
        return access.white_box.towards(goal.before, truth, self.levels, rng)


@dataclass(frozen=True, kw_only=True)
class PromptingForDebugging(TokenSearch):
    """As `tokens`, towards what a model that was not made safe answers to the plain instruction."""

    name = "p4d"
    source = "Prompting4Debugging (arXiv 2309.06135)"
    reference: str = "nano"
    """The model that was not made safe."""

    def _wanted(self, goal: AttackGoal, truth: Pixels, access: Access, rng: np.random.Generator) -> "Wanted":
        white = access.white_box
        wanted = white.towards(goal.before, truth, self.levels, rng)
        return white.as_another(wanted, goal.before, access.other(self.reference), goal.instruction)


@dataclass(frozen=True, kw_only=True)
class RingABell(Attack):
    """Looks for words whose encoding lies where the concept lies, through the text encoders alone.

    The concept is the mean difference between instructions with its name and the same without. A genetic
    search brings a text near to a nameless instruction plus that difference. It asks the transformer nothing.
    """

    name = "ring-a-bell"
    source = "Ring-A-Bell (arXiv 2310.10012)"
    needs = "weights"
    queries: int = 2
    slots: int = 4
    strength: float = 1.5
    """What the difference is multiplied by."""
    population: int = 24
    generations: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.slots <= _MOST_SLOTS or self.population < 2:
            raise ValueError(f"slots is 1 to {_MOST_SLOTS}, population 2 or more")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """Texts of successive searches."""
        from openkontext.redteam.optimizing import Template, nameless, search_encoding

        pairs = [(each.instruction, nameless(each)) for each in access.goals]
        template = Template((nameless(goal), *(None,) * self.slots))
        banned = frozenset(word.lower() for word in goal.names)
        for _ in range(self.queries):
            text = search_encoding(
                access.white_box,
                template,
                pairs,
                strength=self.strength,
                population=self.population,
                generations=self.generations,
                banned=banned,
                rng=rng,
            )
            yield Attempt((text,))


def _templates(template: "type[Template]", goal: AttackGoal, slots: int) -> "list[Template]":
    """Where words are looked for: before the whole instruction, and in place of the concept's name."""
    found = [template((*(None,) * slots, goal.instruction))]
    if goal.names:
        found.append(template.without(goal.instruction, goal.names, slots))
    return found
