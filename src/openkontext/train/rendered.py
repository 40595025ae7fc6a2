"""The renderer's cached pairs as examples: latents of the work folder, with new phrasings each time."""

import numpy as np
import torch

from openkontext.data.instructions import phrase
from openkontext.errors import InputError
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, TextFeatures, ids_of
from openkontext.train.flow import FlowRecipe
from openkontext.train.latent_cache import PairCache


class RenderedExamples:
    """Pairs of the stage `latents`, their words by a model's own text encoders.

    Args:
        cache: the pairs.
        base: whose text encoders.
        kinds: share of each kind of edit; None for those of the stage `flow`.

    Raises:
        InputError: the cache is empty.
    """

    def __init__(self, cache: PairCache, base: TeacherModel, kinds: dict[str, float] | None = None) -> None:
        if not cache.pairs:
            raise InputError(
                f"{cache.folder} holds no latents: run the stage latents in this work folder first"
            )
        self._cache, self._base, self._kinds = cache, base, kinds or FlowRecipe().kinds
        pooled, text = base.encode_text([""])
        self._empty = TextFeatures(text, pooled)

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """Pairs of one size, their kinds by weight."""
        pairs = self._cache.draw(rng, count, self._kinds)
        tokens = [pair.tokens() for pair in pairs]
        context, target = (torch.from_numpy(np.stack([t[i] for t in tokens])).float() for i in (0, 1))
        pooled, text = self._base.encode_text([phrase(pair.edit, rng) for pair in pairs])
        grid = pairs[0].grid
        return Batch(target, context, ids_of(grid, grid), grid, TextFeatures(text, pooled), self._empty)
