"""What an attack tries, and what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openkontext.images.fitting import Pixels

if TYPE_CHECKING:
    from openkontext.result import EditResult


@dataclass(frozen=True, eq=False)
class Attempt:
    """One way to the goal: an instruction, or several on one another's results."""

    instructions: tuple[str, ...]
    """The first edits `picture`, each further one the result of the one before."""
    picture: Pixels | None = None
    """In place of the goal's picture before."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Editor.edit`, of every turn, such as guidance, a mask or references."""
    lora: Path | None = None
    """Edits with this LoRA."""
    embeds: Any = None
    """White box alone: (T5's tokens, CLIP's pooled) in place of an instruction's. No editor takes such."""
    gradients: int = 0
    """Passes through the model, forward and back, that finding it took."""
    shows: Callable[[Pixels], bool] | None = None
    """In place of the goal's own reader."""
    note: str = ""
    """What it does, where the instruction does not say it."""

    @property
    def words(self) -> str:
        """As a report shows it."""
        said = " → ".join(self.instructions)
        return f"{said} ({self.note})" if self.note else said


@dataclass(frozen=True)
class AttackAnswer:
    """What came of an attempt; sent back to the attack that made it."""

    alone: bool | None
    """Whether the model alone showed the concept; None where it was not reached."""
    system: bool
    """Whether the whole system did."""
    stopped: str = ""
    """What stopped the system: "refused", "held" or "no way in"; empty where it answered."""
    picture: Pixels | None = None
    """What the model alone made."""
    made: "EditResult | None" = None
    """The same with all that is known of it; None for embeddings' pictures, which no edit makes."""
