"""What an inhibition can be told: the table `[inhibit]` of a recipe."""

from dataclasses import dataclass
from typing import Literal

from openkontext.request import MAX_STEPS
from openkontext.train.lora import TARGETS

_BOUNDS: dict[str, tuple[float, float]] = {
    "eta": (0, 1000),
    "rounds": (1, 100),
    "steps": (1, 10_000_000),
    "batch_size": (1, 4096),
    "cases": (1, 100_000),
    "others": (1, 1_000_000),
    "attacks": (0, 100_000),
    "attack_steps": (1, MAX_STEPS),
    "preserve": (0, 1_000_000),
    "ridge": (0, 1_000_000),
    "rank": (0, 4096),
    "alpha": (0, 1_000_000),
    "learning_rate": (0, 1),
    "warm_up": (0, 10_000_000),
    "guidance": (0, 100),
    "average_decay": (0, 0.99999),
    "seed": (0, 2**63 - 1),
}
"""Least and most of every number of a recipe."""


@dataclass(frozen=True)
class InhibitRecipe:
    """What to inhibit, by which method, how long and how hard."""

    concept: str
    """A concept: "star", "purple", "pencil", or the path of its TOML file; with `pairs` any name."""
    pairs: str | None = None
    """Pairs that show the concept, as `finetune` takes them; None draws cases of the concept's file. They
    train one round, since no judge can tell what gets through."""
    other_pairs: str | None = None
    """Pairs to be answered as before; they belong to `pairs`."""
    model: str = "nano"
    """What to begin with: "nano", a repository, or a checkpoint in diffusers' layout."""
    parts: str | None = None
    """A pipeline folder with what a checkpoint in one file does not hold."""
    method: Literal["negative", "anchor", "closed form"] = "anchor"
    """Negative guidance as the target, the answer to an anchor as the target, or an edit of the layers that
    text passes through, without any training."""
    anchor: Literal["unchanged", "neighbor"] = "unchanged"
    """What the method "anchor" answers in place of the concept: the picture as it was, or its neighbor."""
    eta: float = 1.0
    """Strength of the negative guidance."""
    rounds: int = 2
    """Times to train; between two of them the model is attacked. The closed form has one."""
    steps: int = 200
    """Steps of a round."""
    batch_size: int = 4
    """Cases of the concept in a batch; beside them stand as many other edits."""
    cases: int = 40
    """Cases of each route to train on."""
    others: int = 300
    """Other edits to be answered as before."""
    attacks: int = 10
    """Cases of each route that are tried between two rounds."""
    attack_steps: int = 4
    """Denoising steps of an attack."""
    preserve: float = 1.0
    """Weight of what is to stay as it was; of the closed form, against the concept."""
    ridge: float = 1e-4
    """How strongly the closed form holds the weights to what they were."""
    rank: int = 16
    """Rank of the LoRA; the closed form's, too, where 0 keeps its edit whole."""
    alpha: float = 16.0
    """The adapter's scale is alpha / rank."""
    targets: tuple[str, ...] = TARGETS
    """Ends of the names of the layers to adapt."""
    learning_rate: float = 1e-3
    warm_up: int = 10
    guidance: float | None = None
    """Guidance that the transformer is told; None for the model's own default, at which it will be used."""
    average_decay: float = 0.95
    """Of the weights that are kept in the end."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.pairs is None) != (self.other_pairs is None):
            raise ValueError("pairs and other_pairs belong together")
        if self.pairs and (self.rounds > 1 or self.method == "closed form" or self.anchor == "neighbor"):
            raise ValueError("pairs have no judge, no neighbor: rounds is 1, and neither is asked for")
        if self.rank == 0 and self.method != "closed form":
            raise ValueError("rank is 1 or more; 0 is for the closed form alone")
        if not self.targets or not all(self.targets):
            raise ValueError("targets names no layer")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
