"""Sheets of samples: what a model in training makes of some pairs, by the sampler that editing uses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from openkontext import sampling
from openkontext.images import from_model
from openkontext.images.fitting import Pixels
from openkontext.latents import PATCH, unpack
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, Grid

_GAP, _CAPTION, _PAPER, _INK = 6, 22, (250, 249, 246), (38, 40, 46)


class TorchTransformer:
    """A transformer in torch as `openkontext.sampling` calls one: numpy in, numpy out."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Any:
        """Velocity of every token."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}
        return self.model(**{n: t.to(self.device) for n, t in tensors.items()}).float().cpu().numpy()


def sample(
    base: TeacherModel,
    model: nn.Module,
    batch: Batch,
    grids: tuple[Grid, Grid | None],
    *,
    steps: int,
    guidance: float,
    device: torch.device,
    seed: int = 0,
) -> np.ndarray:
    """Latents [B, C, H, W] that a model makes of a batch's contexts and words, by Euler's method.

    Args:
        base: whose schedule to use.
        model: the transformer.
        batch: what to edit and how.
        grids: of the target, and of the context where there is one.
        steps: of the sampler.
        guidance: the scale that the transformer is told.
        device: of the transformer.
        seed: of the noise; each example has its own.
    """
    (rows, columns), context_grid = grids
    context = [tokens_to_latents(batch.context, context_grid)] if context_grid else []
    text = sampling.TextEmbeds(batch.text.tokens.numpy(), batch.text.pooled.numpy())
    shape = 1, base.config.latent_channels, PATCH * rows, PATCH * columns
    noise = [sampling.randn(shape, seed + i) for i in range(len(batch))]
    latents = np.concatenate(noise)
    for step in sampling.denoise(
        TorchTransformer(model, device),
        latents,
        text,
        sigmas=sampling.schedule(steps, rows * columns, base.config.base_shift, base.config.max_shift),
        guidance_scale=guidance,
        context=context,
        positions=base.config.position_rule,
    ):
        latents = step.latents
    return latents


def tokens_to_latents(tokens: torch.Tensor, grid: Grid) -> np.ndarray:
    """Packed latents [B, L, C] of a grid -> latents [B, C / 4, H, W]."""
    return unpack(tokens.cpu().numpy(), PATCH * grid[0], PATCH * grid[1])


def pictures(base: TeacherModel, latents: np.ndarray) -> list[Pixels]:
    """Latents in the transformer's scale [B, C, H, W] -> pictures."""
    return [from_model(base.decode_latents(each[None])) for each in latents]


def sheet(rows: Sequence[tuple[str, Sequence[Pixels]]], headings: Sequence[str]) -> Pixels:
    """One row of pictures per example, its instruction below: uint8 [H, W, 3]."""
    height = max(p.shape[0] for _, row in rows for p in row)
    width = max(p.shape[1] for _, row in rows for p in row)
    step = width + _GAP
    top = _GAP + _CAPTION
    size = (_GAP + len(headings) * step, top + len(rows) * (height + _GAP + _CAPTION))
    canvas = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for i, heading in enumerate(headings):
        draw.text((_GAP + i * step + width // 2, _CAPTION), heading, _INK, font, anchor="ms")
    for caption, row in rows:
        for i, picture in enumerate(row):
            left = _GAP + i * step + (width - picture.shape[1]) // 2
            canvas.paste(Image.fromarray(picture), (left, top + (height - picture.shape[0]) // 2))
        draw.text((_GAP, top + height + 4), caption, _INK, font)
        top += height + _GAP + _CAPTION
    return np.asarray(canvas)
