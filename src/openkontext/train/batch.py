"""What a step of training sees, wherever the pairs come from, and the transformer's answer to it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from openkontext.latents import PATCH, position_ids

Grid = tuple[int, int]
"""Rows and columns of tokens."""


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Instructions as the transformer takes them."""

    tokens: Tensor
    """T5's text tokens [B, T, width]."""
    pooled: Tensor
    """CLIP's pooled embeddings [B, width]."""

    def where(self, keep: Tensor, other: "TextFeatures") -> "TextFeatures":
        """These where `keep` [B] is true, and `other`, a batch of one, elsewhere."""
        return TextFeatures(
            torch.where(keep[:, None, None], self.tokens, other.tokens),
            torch.where(keep[:, None], self.pooled, other.pooled),
        )

    def to(self, device: torch.device) -> "TextFeatures":
        """The same on a device."""
        return TextFeatures(self.tokens.to(device), self.pooled.to(device))

    def repeated(self, count: int) -> "TextFeatures":
        """A batch of one, so many times over."""
        return TextFeatures(self.tokens.expand(count, -1, -1), self.pooled.expand(count, -1))


@dataclass(frozen=True, eq=False)
class Batch:
    """Edits of one picture size: packed latents in the transformer's scale, float32."""

    target: Tensor
    """The edited pictures [B, L, C]."""
    context: Tensor
    """The pictures to edit [B, M, C]; M is 0 for text to image."""
    img_ids: Tensor
    """Positions of the target's and then the context's tokens [L + M, 3]."""
    grid: Grid
    """Rows and columns of the target's tokens."""
    text: TextFeatures
    """The instructions."""
    empty: TextFeatures
    """An empty instruction, a batch of one."""

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        text, empty = self.text.to(device), self.empty.to(device)
        target, context, img_ids = (x.to(device) for x in (self.target, self.context, self.img_ids))
        return Batch(target, context, img_ids, self.grid, text, empty)


def ids_of(target: Grid, context: Grid | None) -> Tensor:
    """Positions [L + M, 3] of a target's tokens and of its context's."""
    images = [target, context] if context else [target]
    ids = [position_ids(PATCH * h, PATCH * w, image) for image, (h, w) in enumerate(images)]
    return torch.from_numpy(np.concatenate(ids))


class Examples(Protocol):
    """Where batches come from."""

    def draw(self, rng: np.random.Generator, count: int) -> "Batch":
        """A batch of so many examples of one size; all chance comes from `rng`."""


def velocity(
    transformer: nn.Module,
    batch: Batch,
    noised: Tensor,
    timestep: Tensor,
    guidance: Tensor,
    text: TextFeatures | None = None,
) -> Tensor:
    """The transformer's velocity of the target's tokens, float32 [B, L, C].

    Args:
        transformer: with the forward pass of `FluxTransformer`.
        batch: gives context, positions and words.
        noised: the target's tokens at the noise level [B, L, C].
        timestep: the noise level [B] in 0..1.
        guidance: guidance scales [B].
        text: in place of the batch's own.
    """
    text = text or batch.text
    predicted: Tensor = transformer(
        hidden_states=torch.cat((noised, batch.context), dim=1),
        encoder_hidden_states=text.tokens,
        pooled_projections=text.pooled,
        timestep=timestep,
        img_ids=batch.img_ids,
        txt_ids=batch.img_ids.new_zeros(text.tokens.shape[1], 3),
        guidance=guidance,
    )
    return predicted[:, : noised.shape[1]].float()


def noised(clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """The straight path of rectified flow (arXiv 2209.03003): (1 - t) clean + t noise."""
    return torch.lerp(clean, noise, timestep[:, None, None])


def logit_normal(count: int, mean: float, rng: np.random.Generator, std: float = 1.0) -> Tensor:
    """Noise levels sigmoid(mean + std * normal), arXiv 2403.03206: float32 [count].

    A mean of mu is the schedule's shift by mu of an unshifted draw: sigmoid(x + mu) =
    exp(mu) / (exp(mu) + 1/t - 1) for t = sigmoid(x).

    The published graph takes bfloat16 timesteps; these have no other.
    """
    values = torch.sigmoid(torch.from_numpy(rng.normal(mean, std, count).astype(np.float32)))
    return values.bfloat16().float()


def normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Normal noise in the shape of a tensor, and on its device."""
    return torch.from_numpy(rng.standard_normal(like.shape, np.float32)).to(like.device)
