"""A checkpoint with gradients: its loss of a wanted outcome, through transformer, text encoders and encoder.

The weights are read back from the repository's graphs, as finetuning reads them. Nothing here edits: what a
search finds goes through the editor, as a user's request does. The one exception are embeddings that no
words have; `WhiteBox.sample` makes their pictures by the sampler that training shows its samples with.

Shapes: B texts or noise levels, L target tokens, M context tokens, T text tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openkontext import latents
from openkontext.errors import InputError
from openkontext.images import Fit, to_model
from openkontext.images.fitting import Pixels
from openkontext.repository import Repository
from openkontext.text import Tokenizers
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, Grid, TextFeatures, ids_of, noised, velocity
from openkontext.train.sheets import pictures, sample

_TOKEN = 16
"""Pixels along a token's side."""
_CHANGED = 0.25
"""Mean difference of a token's channels, in deviations, from which the goal changes it."""


@dataclass(frozen=True, eq=False)
class EmbeddedWords:
    """Texts as the encoders take them, with word embeddings that may need a gradient."""

    clip_ids: Tensor
    """int64 [B, CLIP length]."""
    t5_ids: Tensor
    """int64 [B, T]."""
    clip: Tensor
    """Word embeddings [B, CLIP length, width]."""
    t5: Tensor
    """Word embeddings [B, T, width]."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the transformer should answer at some noise levels, so that the outcome is the wanted one."""

    noised: Tensor
    """The target's tokens at the noise levels [B, L, C]."""
    timestep: Tensor
    """Noise levels [B]."""
    velocity: Tensor
    """[B, L, C]."""
    weight: Tensor
    """Of every token [L], mean 1: where the goal changes the picture, the loss counts alone."""


class WhiteBox:
    """All weights of a checkpoint in float32, frozen."""

    def __init__(self, base: TeacherModel) -> None:
        self.base = base
        parts = base.pipeline
        self.transformer = _frozen(parts.transformer)
        self.clip, self.t5 = _frozen(parts.clip), _frozen(parts.t5)
        self.autoencoder = _frozen(parts.autoencoder)
        self.tokenizers = Tokenizers(Repository(parts.tokenizer.parent, base.config))

    @classmethod
    def load(cls, model: str) -> "WhiteBox":
        """Read a repository's weights.

        Args:
            model: "nano" or a folder.

        Raises:
            InputError: its graphs do not say their numbers, or it is not whole.
        """
        return cls(TeacherModel.load(model))

    # Words

    def ids(self, text: str) -> tuple[Tensor, Tensor]:
        """Token ids of CLIP [1, length] and of T5 [1, T]."""
        encoded = self.tokenizers.encode(text)
        return torch.from_numpy(encoded.clip_ids), torch.from_numpy(encoded.t5_ids)

    def words(self, *texts: str) -> EmbeddedWords:
        """Texts with their word embeddings."""
        clip_ids, t5_ids = (torch.cat(each) for each in zip(*map(self.ids, texts), strict=True))
        tables = self.tables
        return EmbeddedWords(clip_ids, t5_ids, tables[0][clip_ids], tables[1][t5_ids])

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Word embeddings of CLIP and of T5, [words, width] each."""
        return _embedding(self.clip).weight, _embedding(self.t5).weight

    def features(self, words: EmbeddedWords) -> TextFeatures:
        """What the transformer is told; gradients reach the word embeddings."""
        with _given(self.clip, words.clip):
            pooled: Tensor = self.clip(input_ids=words.clip_ids).pooler_output
        text: Tensor = self.t5(inputs_embeds=words.t5).last_hidden_state
        return TextFeatures(text, pooled)

    # Pictures

    def fitted(self, pixels: Pixels) -> Pixels:
        """A picture at the size that the model works at."""
        size = pixels.shape[1], pixels.shape[0]
        return Fit(size, latents.nearest_size(*size, self.base.config.sizes)).apply(pixels)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in -1..1 -> tokens [B, tokens, C] in the transformer's scale."""
        config = self.base.config
        scaled = (self.autoencoder.encode(images)[0] - config.shift_factor) * config.scaling_factor
        B, C, H, W = scaled.shape
        blocks = scaled.view(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return blocks.reshape(B, (H // 2) * (W // 2), 4 * C)

    @torch.no_grad()
    def picture_tokens(self, pixels: Pixels) -> Tensor:
        """A picture's tokens [1, tokens, C]."""
        return self.encode(torch.from_numpy(to_model(self.fitted(pixels))))

    # The loss

    def batch(self, pixels: Pixels, text: TextFeatures, context: Tensor | None = None) -> Batch:
        """An edit of a picture as the transformer takes it; `context` stands for the picture's own tokens."""
        shape = self.fitted(pixels).shape
        grid: Grid = shape[0] // _TOKEN, shape[1] // _TOKEN
        tokens = self.picture_tokens(pixels) if context is None else context
        return Batch(torch.zeros_like(tokens), tokens, ids_of(grid, grid), grid, text, text)

    @torch.no_grad()
    def towards(self, before: Pixels, truth: Pixels, levels: int, rng: np.random.Generator) -> Wanted:
        """The velocity that leads to a picture: noise less its latents (UnlearnDiffAtk's loss, 2310.11868).

        Args:
            before: the picture to edit.
            truth: the picture as asked.
            levels: noise levels, evenly spread; each has noise of its own, the same in every pass.
            rng: of the noise.
        """
        target, source = self.picture_tokens(truth), self.picture_tokens(before)
        timestep = torch.linspace(0.95, 0.45, levels)
        noise = torch.from_numpy(rng.standard_normal((levels, *target.shape[1:]), np.float32))
        changed = ((target - source).abs().mean(-1)[0] > _CHANGED).float()
        weight = changed / changed.mean() if changed.any() else torch.ones_like(changed)
        return Wanted(noised(target.expand_as(noise), noise, timestep), timestep, noise - target, weight)

    @torch.no_grad()
    def as_another(self, wanted: Wanted, before: Pixels, other: "WhiteBox", text: str) -> Wanted:
        """The velocity of a model that was not made safe, at the same noise levels (P4D, 2309.06135)."""
        batch = other.batch(before, other.features(other.words(text)))
        answer = other.answer(batch, wanted)
        return Wanted(wanted.noised, wanted.timestep, answer, wanted.weight)

    def answer(self, batch: Batch, wanted: Wanted) -> Tensor:
        """The transformer's velocity at the noise levels, [texts * levels, L, C]; the text varies slowest."""
        levels, texts = len(wanted.timestep), len(batch.text.pooled)
        repeated = Batch(
            batch.target,
            batch.context.expand(texts * levels, -1, -1),
            batch.img_ids,
            batch.grid,
            TextFeatures(
                batch.text.tokens.repeat_interleave(levels, 0), batch.text.pooled.repeat_interleave(levels, 0)
            ),
            batch.empty,
        )
        guidance = torch.full((texts * levels,), float(self.base.config.guidance_scale))
        return velocity(
            self.transformer,
            repeated,
            wanted.noised.repeat(texts, 1, 1),
            wanted.timestep.repeat(texts),
            guidance,
        )

    def loss(self, batch: Batch, wanted: Wanted) -> Tensor:
        """Mean squared error of the velocity where the goal changes the picture, one value a text [texts]."""
        error = self.answer(batch, wanted) - wanted.velocity.repeat(len(batch.text.pooled), 1, 1)
        each = (error.square().mean(-1) * wanted.weight).mean(-1)
        return each.view(-1, len(wanted.timestep)).mean(-1)

    def sample(self, pixels: Pixels, tokens: Any, pooled: Any, seed: int) -> Pixels:
        """The picture that embeddings lead to, by the sampler of training.

        Args:
            pixels: the picture to edit.
            tokens: T5's text tokens, an array [1, T, width].
            pooled: CLIP's pooled embedding, an array [1, width].
            seed: of the noise.
        """
        config = self.base.config
        with torch.no_grad():
            batch = self.batch(pixels, TextFeatures(torch.from_numpy(tokens), torch.from_numpy(pooled)))
            made = sample(
                self.base,
                self.transformer,
                batch,
                (batch.grid, batch.grid),
                steps=config.num_inference_steps,
                guidance=config.guidance_scale,
                device=torch.device("cpu"),
                seed=seed,
            )
            return pictures(self.base, made)[0]

    # The vocabulary

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Words that are one token for both encoders.

        Raises:
            InputError: there are none.
        """
        found = self.tokenizers.one_token_words(self.base.config.words)
        if not found:
            raise InputError(f"{self.base.config.name}: no word is one token for both of its text encoders")
        return tuple(found)


@lru_cache(maxsize=1)
def opened(model: str) -> WhiteBox:
    """The weights of the checkpoint under attack; those of the last one are kept.

    Args:
        model: "nano" or a folder.

    Raises:
        InputError: as `WhiteBox.load`.
    """
    return WhiteBox.load(model)


@lru_cache(maxsize=1)
def opened_reference(model: str) -> WhiteBox:
    """The weights that a checkpoint is compared with; kept apart, as they are the same for all checkpoints.

    Args:
        model: "nano" or a folder.

    Raises:
        InputError: as `WhiteBox.load`.
    """
    return WhiteBox.load(model)


def _frozen(module: Any) -> Any:
    """A copy in float32 without gradients of its own."""
    return module.float().eval().requires_grad_(False)


def _embedding(encoder: nn.Module) -> nn.Embedding:
    found = encoder.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(found, nn.Embedding)
    return found


@contextmanager
def _given(encoder: nn.Module, embeddings: Tensor) -> Iterator[None]:
    """Have an encoder that takes ids alone, as CLIP does, read these word embeddings in place of theirs."""
    handle = _embedding(encoder).register_forward_hook(lambda *_: embeddings)
    try:
        yield
    finally:
        handle.remove()
