"""The frozen model that a student learns from, and what its blocks see in a picture."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openkontext.model.transformer import FluxTransformer
from openkontext.train.batch import Batch, velocity
from openkontext.train.lora import adapter_layers
from openkontext.train.training_engine import TrainingEngine


class Teacher:
    """Answers as the model did before its student learned anything.

    A student with an adapter is its own teacher: with the adapter's scale at 0 it answers as before, and no
    second copy of the weights is needed. Of one whose weights all train, a frozen copy is taken.

    Args:
        student: as it begins.
    """

    def __init__(self, student: FluxTransformer) -> None:
        self._adapted = bool(adapter_layers(student))
        self.model: nn.Module = student if self._adapted else copy.deepcopy(student).requires_grad_(False)
        self._kept: list[Tensor] | None = None
        for block in _blocks(self.model):
            block.register_forward_hook(self._keep)

    def follow(self, prepared: nn.Module, engine: TrainingEngine) -> None:
        """Go where the student has gone: take its prepared model where both are one."""
        self.model = prepared if self._adapted else engine.autocast(self.model.to(engine.device))

    def __call__(self, **inputs: Any) -> Tensor:
        """The forward pass of the transformer, without what the student has learned."""
        with self._without_adapter():
            output: Tensor = self.model(**inputs)
        return output

    def features(self, batch: Batch, noised: Tensor, timestep: Tensor, guidance: Tensor) -> list[Tensor]:
        """What every block makes of the target's tokens: [B, L, width] each, double-stream blocks first."""
        self._kept = []
        try:
            velocity(self, batch, noised, timestep, guidance)  # type: ignore[arg-type]
            text, length = batch.text.tokens.shape[1], noised.shape[1]
            # A single-stream block's tokens are those of text and image, a double-stream block's the image's.
            image = length + batch.context.shape[1]
            return [
                (tokens[:, text:] if tokens.shape[1] == text + image else tokens)[:, :length]
                for tokens in self._kept
            ]
        finally:
            self._kept = None

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        if self._kept is not None:
            self._kept.append(output[0] if isinstance(output, tuple) else output)

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        layers = list(adapter_layers(self.model).values()) if self._adapted else []
        scales = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scaling = dict.fromkeys(layer.scaling, 0.0)
            yield
        finally:
            for layer, scale in zip(layers, scales, strict=True):
                layer.scaling = scale


def _blocks(model: nn.Module) -> list[nn.Module]:
    """All blocks of a transformer, in the order in which they run."""
    return [*model.transformer_blocks, *model.single_transformer_blocks]  # type: ignore[misc]


@torch.no_grad()
def endpoint(
    teacher: Teacher, batch: Batch, noised: Tensor, timestep: Tensor, guidance: Tensor, steps: int
) -> Tensor:
    """The clean latents to which the teacher's flow leads from a noise level, by Euler's method [B, L, C].

    Args:
        teacher: whose flow.
        batch: context, positions and words.
        noised: tokens at the noise level [B, L, C].
        timestep: noise levels [B].
        guidance: guidance scales [B].
        steps: of even size, from each example's noise level to 0.
    """
    for i in range(steps):
        t = timestep * (1 - i / steps)
        v = velocity(teacher, batch, noised, t, guidance)  # type: ignore[arg-type]
        noised = noised - (timestep / steps)[:, None, None] * v
    return noised
