"""Targets of inhibition for a rectified flow.

Negative guidance: Gandikota et al., "Erasing Concepts from Diffusion Models" (ESD, arXiv 2303.07345), with
velocities in the place of noise, as EraseAnything (arXiv 2412.20413) trains FLUX. The student's answer to the
concept is held to v(c0) - eta (v(c) - v(c0)), where v is the model as it was, c the instruction, and c0 one
that asks for nothing.

Anchors: Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models" (arXiv 2303.13516).
The student's answer to the concept is held to the model's answer to an anchor.

Either stands beside a term that holds the answers to all else to what they were.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from openkontext.sampling import schedule
from openkontext.train.batch import Batch, TextFeatures, noised, normal, velocity
from openkontext.train.inhibit_pairs import ConceptBatch
from openkontext.train.teacher import Teacher


@dataclass(frozen=True)
class Levels:
    """Noise levels that training draws from: those that samplers of some numbers of steps pass through."""

    steps: tuple[int, ...]
    base_shift: float
    max_shift: float

    def draw(self, rng: np.random.Generator, count: int, tokens: int) -> Tensor:
        """Noise levels float32 [count] of a picture of so many tokens; the first step's is 1."""
        levels = [schedule(steps, tokens, self.base_shift, self.max_shift)[:-1] for steps in self.steps]
        drawn = rng.choice(np.concatenate(levels), count).astype(np.float32)
        # The published graph takes bfloat16 timesteps; these have no other.
        return torch.from_numpy(drawn).bfloat16().float()


def negative_target(with_concept: Tensor, neutral: Tensor, eta: float) -> Tensor:
    """Away from the concept: v(c0) - eta (v(c) - v(c0)), all of one shape."""
    return neutral - eta * (with_concept - neutral)


def unchanged_target(tokens: Tensor, before: Tensor, timestep: Tensor) -> Tensor:
    """The straight way from noised tokens to the picture before: (x_t - before) / t.

    Args:
        tokens: x_t [B, L, C].
        before: the picture to end at [B, L, C].
        timestep: noise levels [B], above 0.
    """
    return (tokens - before) / timestep[:, None, None]


def inhibition_loss(
    student: nn.Module,
    teacher: Teacher,
    concept: ConceptBatch,
    other: Batch,
    rng: np.random.Generator,
    *,
    levels: Levels,
    guidance: float,
    method: str,
    eta: float,
    anchor: str,
    preserve: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared distances from the targets of the concept and of all else, and what to log of them.

    Args:
        student: learns.
        teacher: the model as it was.
        concept: cases of the concept; half begin from the picture before, half from the picture as asked.
        other: edits to be answered as before.
        rng: all chance.
        levels: of noise.
        guidance: the scale that both are told.
        method: "negative" or "anchor".
        eta: strength of the negative guidance.
        anchor: "unchanged" or "neighbor".
        preserve: weight of the second term.
    """
    batch, device = concept.batch, concept.batch.target.device
    timestep = levels.draw(rng, len(batch), batch.target.shape[1]).to(device)
    asked = torch.from_numpy(rng.random(len(batch)) < 0.5).to(device)
    start = torch.where(asked[:, None, None], batch.target, concept.before)
    tokens = noised(start, normal(start, rng), timestep)
    told = torch.full_like(timestep, guidance)

    def answer(text: TextFeatures) -> Tensor:
        return velocity(teacher, batch, tokens, timestep, told, text)  # type: ignore[arg-type]

    with torch.no_grad():
        if method == "negative":
            neutral = concept.neutral.repeated(len(batch))
            target = negative_target(answer(batch.text), answer(neutral), eta)
        elif anchor == "neighbor":
            target = answer(concept.anchor)
        else:
            target = unchanged_target(tokens, concept.before, timestep)
    inhibited = (velocity(student, batch, tokens, timestep, told) - target).square().mean()
    level = levels.draw(rng, len(other), other.target.shape[1]).to(device)
    clean = noised(other.target, normal(other.target, rng), level)
    scale = torch.full_like(level, guidance)
    with torch.no_grad():
        before = velocity(teacher, other, clean, level, scale)  # type: ignore[arg-type]
    kept = (velocity(student, other, clean, level, scale) - before).square().mean()
    return inhibited + preserve * kept, {"concept": inhibited.detach(), "others": kept.detach()}
