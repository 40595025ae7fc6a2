"""Read out of the transformer's middle what its picture shows, while it trains.

A head tells of every image token which thing covers it, in which colour, and whether the edit changes it.
From pixels alone a network learns last which thing an instruction means and where it stands; asked for it
outright, it learns that first. The idea is that of representation alignment (arXiv 2410.06940), with the
scene as data in the place of another network's features. The head is thrown away after training.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openkontext.data.palette import COLOURS
from openkontext.data.scenes import PLACES, Scene, box_of
from openkontext.data.styles import COLOURLESS
from openkontext.data.things import ALL_SHAPES
from openkontext.model.transformer import FluxTransformer

TOKEN = 16
"""Side of the square that an image token covers, in pixels."""
COVERED = 0.3
"""Share of a token from which a thing's square covers it."""

_SHAPES, _COLOURS = ALL_SHAPES, tuple(COLOURS)
_UNSAID = -100  # the index that cross entropy leaves out


def contents(scene: Scene) -> np.ndarray:
    """What covers each token: int64 [rows * columns, 2], numbers of shape and colour, from 1; 0 for nothing.

    In black and white, with a pencil and the like no colour is to be told: -100.
    """
    rows, columns = scene.height // TOKEN, scene.width // TOKEN
    labels = np.zeros((rows, columns, 2), np.int64)
    for thing in sorted(scene.things, key=lambda t: (not t.in_sky, PLACES[t.place][1] + t.dy)):
        left, top, side = box_of(scene, thing)
        down, right = (
            np.clip(np.minimum(start + side, ends) - np.maximum(start, ends - TOKEN), 0, TOKEN) / TOKEN
            for start, ends in (
                (top, TOKEN * np.arange(1, rows + 1)),
                (left, TOKEN * np.arange(1, columns + 1)),
            )
        )
        labels[np.outer(down, right) > COVERED] = (
            1 + _SHAPES.index(thing.shape),
            1 + _COLOURS.index(thing.colour),
        )
    if scene.look != "colour" or scene.style in COLOURLESS:
        labels[..., 1] = _UNSAID
    return labels.reshape(-1, 2)


class Readout(nn.Module):
    """The head, and the hook that hands it the tokens of one block.

    Args:
        transformer: Whose tokens to read.
        block: Which single-stream block's.
    """

    def __init__(self, transformer: FluxTransformer, block: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(transformer.config.hidden_size)
        self._sizes = (1 + len(_SHAPES), 1 + len(_COLOURS), 2)
        self.head = nn.Linear(transformer.config.hidden_size, sum(self._sizes))
        self._tokens: Tensor | None = None
        transformer.single_transformer_blocks[block].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._tokens = output

    def loss(self, scenes: list[list[Scene]], changed: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy of the last forward pass's image tokens.

        Args:
            scenes: For every example, the scenes of the target and of each context image, in their order.
            changed: Which of the target's tokens the edit changes: bool [B, target].
            weight: Of the target's tokens [B, target]; the context's weigh 1.
        """
        assert self._tokens is not None, "the transformer has not run"
        labels = torch.from_numpy(
            np.stack([np.concatenate([contents(s) for s in images]) for images in scenes])
        )
        more = labels.shape[1] - changed.shape[1]
        logits = self.head(self.norm(self._tokens[:, -labels.shape[1] :].float())).split(self._sizes, dim=-1)
        answers = (*labels.unbind(-1), F.pad(changed.long(), (0, more), value=_UNSAID))
        weight = F.pad(weight, (0, more), value=1.0)
        losses = [
            (weight * F.cross_entropy(logit.transpose(1, 2), answer, reduction="none")).mean()
            for logit, answer in zip(logits, answers, strict=True)
        ]
        self._tokens = None
        return torch.stack(losses).mean()
