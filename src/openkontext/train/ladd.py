"""Few-step distillation in latent space: LADD (arXiv 2403.12015), with ADD's distillation term (2311.17042).

The student looks at a picture at one of the few noise levels that it will be used at, and says the clean one
in a single pass. That is noised anew and shown to the frozen teacher, whose blocks' tokens a small head each
judges, real or made: the discriminator sees with the teacher's eyes. Beside that adversarial loss, the
student is held to where the teacher's own many steps lead.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from openkontext.model.transformer import sinusoidal_embedding
from openkontext.sampling import schedule
from openkontext.train.batch import Batch, logit_normal, noised, normal, velocity
from openkontext.train.teacher import Teacher, endpoint

_TIME = 64


@dataclass(frozen=True)
class LaddRecipe:
    """What to learn from, how long and how hard; defaults as for nano."""

    model: str | None = None
    """The teacher: a model as in `finetune`; None for the `guidance/checkpoint` of the work folder."""
    parts: str | None = None
    """As in `finetune`."""
    pairs: str | None = None
    """Pairs as in `finetune`; None for the rendered ones in the work folder's `latents`."""
    rank: int = 0
    """Rank of the student's adapter; 0 trains all of its weights."""
    alpha: float = 16.0
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-4
    """Of the student."""
    discriminator_rate: float = 5e-4
    """Of the discriminator's heads."""
    warm_up: int = 50
    student_steps: int = 4
    """Denoising steps that the student is made for."""
    shares: tuple[float, ...] | None = None
    """How often each of these noise levels is drawn, pure noise first; None draws all alike."""
    teacher_steps: int = 8
    """Steps of the teacher from a noise level to the clean picture."""
    adversarial_weight: float = 0.1
    """Weight of the adversarial loss."""
    distillation_weight: float = 1.0
    """Weight of the distance from the teacher's clean picture."""
    penalty: float = 1e-4
    """Weight of the gradient penalty on the discriminator (R1)."""
    real: str = "data"
    """What the discriminator is shown as real: the pairs' pictures ("data") or the teacher's ("teacher")."""
    guidance: float | None = None
    """Guidance that teacher and student are told; None for the model's own default."""
    width: int = 64
    """Channels of the heads."""
    noise_mean: float = 0.0
    """Mean of the normal number that becomes the noise level at which the discriminator looks."""
    average_decay: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if self.real not in ("data", "teacher"):
            raise ValueError(f"real is data or teacher, not {self.real}")
        if self.shares is not None and len(self.shares) != self.student_steps:
            raise ValueError(f"shares has {len(self.shares)} numbers; it needs one for each student step")


class Head(nn.Module):
    """Judge one block's tokens, place by place, in the light of noise level and instruction.

    The last product is a projection discriminator's (arXiv 1802.05637).
    """

    def __init__(self, channels: int, width: int, condition: int) -> None:
        super().__init__()
        self.enter = spectral_norm(nn.Conv2d(channels, width, 1))
        self.mix = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.leave = spectral_norm(nn.Conv2d(width, width, 1))
        self.condition = nn.Linear(condition, width)

    def forward(self, tokens_BLC: Tensor, grid: tuple[int, int], condition: Tensor) -> Tensor:
        """Tokens of a grid and the condition [B, condition] -> logits [B, L]."""
        x = F.layer_norm(tokens_BLC, tokens_BLC.shape[-1:]).transpose(1, 2).unflatten(2, grid)
        x = F.leaky_relu(self.enter(x), 0.2)
        x = x + F.leaky_relu(self.mix(x), 0.2)
        key = 1 + self.condition(condition)
        return (self.leave(x) * key[:, :, None, None]).sum(1).flatten(1) * key.shape[1] ** -0.5


class Discriminator(nn.Module):
    """One head a block of the teacher."""

    def __init__(self, blocks: int, channels: int, pooled: int, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(channels, width, pooled + _TIME) for _ in range(blocks))

    def forward(
        self, features: list[Tensor], grid: tuple[int, int], timestep: Tensor, pooled: Tensor
    ) -> Tensor:
        """Logits [B, heads * L], above 0 for real."""
        condition = torch.cat((sinusoidal_embedding(timestep, _TIME), pooled), dim=1)
        logits = [head(f.float(), grid, condition) for head, f in zip(self.heads, features, strict=True)]
        return torch.cat(logits, dim=1)


def generator_loss(fake: Tensor) -> Tensor:
    """What the student wants: its pictures taken for real (hinge loss, arXiv 1705.02894)."""
    return -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator wants: real ones above 1, made ones below -1 (hinge loss)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def noise_levels(recipe: LaddRecipe, tokens: int, shifts: tuple[float, float]) -> np.ndarray:
    """The noise levels at which the student is used: those of the sampler's schedule, but for the 0."""
    return schedule(recipe.student_steps, tokens, *shifts)[:-1]


@dataclass(frozen=True, eq=False)
class Judged:
    """What the discriminator learns from, of one batch."""

    fake: list[Tensor]
    real: list[Tensor]
    grid: tuple[int, int]
    timestep: Tensor
    pooled: Tensor


def student_loss(
    student: nn.Module,
    teacher: Teacher,
    discriminator: Discriminator,
    batch: Batch,
    rng: np.random.Generator,
    recipe: LaddRecipe,
    levels: np.ndarray,
    guidance: float,
) -> tuple[Tensor, dict[str, Tensor], Judged]:
    """The student's whole loss, what to log of it, and the features for the discriminator's.

    Args:
        student: learns.
        teacher: frozen.
        discriminator: as it is now; it does not learn from this.
        batch: real pictures, their contexts and words.
        rng: all chance.
        recipe: weights of the losses.
        levels: noise levels at which the student is used, pure noise first.
        guidance: that both are told.
    """
    count, device = len(batch), batch.target.device
    drawn = rng.choice(levels, count, p=_shares(recipe)).astype(np.float32)
    timestep = torch.from_numpy(drawn).to(device)
    told = torch.full_like(timestep, guidance)
    tokens = noised(batch.target, normal(batch.target, rng), timestep)
    made = tokens - timestep[:, None, None] * velocity(student, batch, tokens, timestep, told)
    meant = endpoint(teacher, batch, tokens, timestep, told, recipe.teacher_steps)
    distilled = (made - meant).square().mean()

    look = logit_normal(count, recipe.noise_mean, rng).to(device)
    noise = normal(batch.target, rng)
    fake = teacher.features(batch, noised(made, noise, look), look, told)
    logits = discriminator(fake, batch.grid, look, batch.text.pooled)
    adversarial = generator_loss(logits)
    with torch.no_grad():
        shown = batch.target if recipe.real == "data" else meant
        real = teacher.features(batch, noised(shown, noise, look), look, told)
    loss = recipe.adversarial_weight * adversarial + recipe.distillation_weight * distilled
    parts = {"loss": loss, "adversarial": adversarial, "distilled": distilled}
    judged = Judged([f.detach() for f in fake], real, batch.grid, look, batch.text.pooled)
    return loss, {name: part.detach() for name, part in parts.items()}, judged


def judge(discriminator: Discriminator, judged: Judged, penalty: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss, and what to log of it.

    The penalty is R1 (arXiv 1801.04406): the squared gradient at real pictures, by the teacher's features.
    """
    features = [f.detach().float().requires_grad_(penalty > 0) for f in judged.real]
    real = discriminator(features, judged.grid, judged.timestep, judged.pooled)
    fake = discriminator(judged.fake, judged.grid, judged.timestep, judged.pooled)
    hinge = discriminator_loss(real, fake)
    loss = hinge
    if penalty > 0:
        slopes = torch.autograd.grad(real.sum(), features, create_graph=True)
        slope = torch.stack([s.square().sum((1, 2)).mean() for s in slopes]).mean()
        loss = hinge + penalty * slope
    right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
    return loss, {"hinge": hinge.detach(), "told apart": right.detach()}


def _shares(recipe: LaddRecipe) -> np.ndarray | None:
    return None if recipe.shares is None else np.array(recipe.shares) / sum(recipe.shares)
