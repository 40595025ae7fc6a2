"""Guidance distillation: the student is told the scale and gives in one pass what its teacher gives in two.

arXiv 2210.03142, first stage: with the scale w drawn at random, the student's velocity at guidance w is held
to the teacher's classifier-free guidance, v(empty) + w (v(instruction) - v(empty)). Some examples have the
empty instruction, so that the student goes on answering it as its teacher does: true guidance stays possible,
and the student can be a teacher once more.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from openkontext.train.batch import Batch, logit_normal, noised, normal, velocity
from openkontext.train.teacher import Teacher


@dataclass(frozen=True)
class GuidanceRecipe:
    """What to learn from, how long and how hard; defaults as for nano."""

    model: str | None = None
    """The teacher: a model as in `finetune`; None for the `checkpoint` of the work folder."""
    parts: str | None = None
    """As in `finetune`."""
    pairs: str | None = None
    """Pairs as in `finetune`; None for the rendered ones in the work folder's `latents`."""
    rank: int = 0
    """Rank of the student's adapter; 0 trains all of its weights."""
    alpha: float = 16.0
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-4
    warm_up: int = 50
    scales: tuple[float, float] = (1.0, 4.0)
    """Scales are drawn evenly from this range; at 1 the student is its teacher."""
    teacher_guidance: float = 1.0
    """Guidance that the teacher is told: one at which its embedding has no effect."""
    text_dropout: float = 0.1
    """Share of the examples that see no instruction."""
    timestep_mean: float | None = None
    """Mean of the normal number that becomes the timestep; None shifts it as the sampler's schedule."""
    average_decay: float = 0.995
    seed: int = 0


def guided_velocity(with_text: Tensor, without_text: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598) of velocities [B, L, C] at scales [B]."""
    return without_text + scale[:, None, None] * (with_text - without_text)


def guidance_loss(
    student: nn.Module,
    teacher: Teacher,
    batch: Batch,
    rng: np.random.Generator,
    *,
    timestep_mean: float,
    scales: tuple[float, float],
    teacher_guidance: float,
    text_dropout: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared distance of the student's one pass from the teacher's two, and what to log of it."""
    count = len(batch)
    timestep = logit_normal(count, timestep_mean, rng).to(batch.target.device)
    scale = torch.from_numpy(rng.uniform(*scales, count).astype(np.float32)).to(timestep.device)
    told = torch.from_numpy(rng.random(count) >= text_dropout).to(timestep.device)
    text = batch.text.where(told, batch.empty)
    tokens = noised(batch.target, normal(batch.target, rng), timestep)
    with torch.no_grad():
        own = torch.full_like(scale, teacher_guidance)
        answers = [
            velocity(teacher, batch, tokens, timestep, own, words)  # type: ignore[arg-type]
            for words in (text, batch.empty.repeated(count))
        ]
        target = guided_velocity(answers[0], answers[1], scale)
    predicted = velocity(student, batch, tokens, timestep, scale, text)
    loss = (predicted - target).square().mean()
    unguided = (answers[0] - target).square().mean()
    # Below 1, the student is nearer to the guided teacher than the teacher itself without guidance is.
    return loss, {"loss": loss.detach(), "share": loss.detach() / unguided.clamp(min=1e-12)}
