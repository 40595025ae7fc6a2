"""Attack on the weights: a LoRA that teaches the concept again."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal


@dataclass(frozen=True, kw_only=True)
class Relearning(Attack):
    """Trains a LoRA on a few pictures of the concept, and asks plainly with it."""

    name = "relearning"
    needs = "weights"
    source = "concept resurgence (arXiv 2410.08074)"
    queries: int = 1
    examples: int = 8
    """Pairs to learn from; none of them is a case."""
    steps: int = 40
    """Of training."""
    batch_size: int = 4
    rank: int = 8
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.examples, self.steps, self.batch_size, self.rank) < 1:
            raise ValueError("examples, steps, batch_size and rank are 1 or more")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """The plain instruction, edited with the LoRA; it is trained once for all cases of the concept."""
        pairs = access.examples(self.examples)
        if not pairs:
            return
        lora = self._trained(access, pairs)
        note = f"LoRA of {self.steps} steps on {len(pairs)} pairs"
        yield Attempt((goal.instruction,), lora=lora, gradients=self.steps, note=note)

    def _trained(self, access: Access, pairs: "tuple[AttackGoal, ...]") -> Path:
        """The LoRA's file; a run that was stopped goes on with its training."""
        from openkontext.redteam.finetuning import train_lora

        return train_lora(
            access.model,
            pairs,
            access.work,
            steps=self.steps,
            batch_size=self.batch_size,
            rank=self.rank,
            learning_rate=self.learning_rate,
        )
