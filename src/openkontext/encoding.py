"""Words and pictures -> what the transformer reads of them, and latents back into pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext import images
from openkontext.errors import InputError
from openkontext.repository import RepositoryConfig
from openkontext.runtime import Components
from openkontext.sampling import TextEmbeds, denoise
from openkontext.text import Tokenizers
from openkontext.watching import as_floats

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SAME_WORDS = 0.05
"""Relative distance of a token, above which embeddings are of other words.

bfloat16 rounds by 0.4% at most, and a few layers of it come to about 1%."""


def encode_text(
    components: Components, tokenizers: Tokenizers, *prompts: str, max_sequence_length: int | None = None
) -> list[TextEmbeds]:
    """Prompts as the text encoders give them; each encoder is opened once, also with low memory.

    Args:
        components: of the model.
        tokenizers: of the model.
        prompts: the texts.
        max_sequence_length: T5 tokens after which a text is cut; None for all that the model takes.
    """
    tokens = [tokenizers.encode(prompt, max_sequence_length) for prompt in prompts]
    hidden_states = [components.t5(ids.t5_ids) for ids in tokens]
    pooled = [components.clip(ids.clip_ids) for ids in tokens]
    return [TextEmbeds(*embeds) for embeds in zip(hidden_states, pooled, strict=True)]


def of_the_same_words(prompt_embeds: Any, pooled_prompt_embeds: Any, text: TextEmbeds) -> TextEmbeds:
    """Embeddings that were handed in, if they are those of the prompt that the filters judged.

    Others would say to the model what nobody judged.

    Args:
        prompt_embeds: T5's text tokens, [1, L, D] or [L, D].
        pooled_prompt_embeds: CLIP's pooled embedding, [1, W] or [W].
        text: the prompt as this model's own encoders give it.

    Raises:
        InputError: they have another shape, or are of other words.
    """
    given = TextEmbeds(
        _shaped(prompt_embeds, text.encoder_hidden_states, "prompt_embeds"),
        _shaped(pooled_prompt_embeds, text.pooled_projections, "pooled_prompt_embeds"),
    )
    distance = max(
        _distance(given.encoder_hidden_states, text.encoder_hidden_states),
        _distance(given.pooled_projections, text.pooled_projections),
    )
    if distance > SAME_WORDS:
        raise InputError(
            f"prompt_embeds are not those of the prompt (a token is {distance:.0%} off), and filters judge "
            "words alone; give the prompt that they were made from"
        )
    return given


def encode_picture(components: Components, config: RepositoryConfig, pixels: Pixels) -> Float:
    """Pixels [H, W, 3] -> latents [1, C, H/8, W/8] in the transformer's scale."""
    latents = components.encode(images.to_model(pixels))
    return (latents - np.float32(config.shift_factor)) * np.float32(config.scaling_factor)


def decode_picture(components: Components, config: RepositoryConfig, latents: Float) -> Pixels:
    """Latents [1, C, H, W] in the transformer's scale -> pixels [8H, 8W, 3].

    Raises:
        InputError: they are not finite, as a damaged model computes them.
    """
    if not np.isfinite(latents).all():
        raise InputError(f"{config.name} computed not-a-number values; check its files: openkontext doctor")
    decoded = components.decode(latents / np.float32(config.scaling_factor) + np.float32(config.shift_factor))
    return images.from_model(decoded)


def rehearse(components: Components, tokenizers: Tokenizers) -> None:
    """Read a text; with a small model, too, run every graph once on a gray picture, of which nothing comes.

    Args:
        components: of the model, opened.
        tokenizers: of the model.
    """
    tokenizers.encode("make it night")
    if not components.is_small:
        return
    config = components.repository.config
    width, height = config.sizes[0]
    (text,) = encode_text(components, tokenizers, "make it night")
    gray = encode_picture(components, config, np.full((height, width, 3), 128, np.uint8))
    steps = denoise(
        components.transformer,
        gray,
        text,
        sigmas=np.array([1, 0], np.float32),
        guidance_scale=config.guidance_scale,
        context=[gray],
        positions=config.position_rule,
    )
    decode_picture(components, config, next(steps).latents)


def _shaped(values: Any, like: Float, what: str) -> Float:
    array = as_floats(values, what)
    array = array[None] if array.ndim == like.ndim - 1 else array
    if array.shape != like.shape:
        raise InputError(f"{what} must have the shape {list(like.shape)}, not {list(array.shape)}")
    return array


def _distance(values: Float, like: Float) -> float:
    """The largest relative distance of a token."""
    norms = np.linalg.norm(like, axis=-1)
    return float((np.linalg.norm(values - like, axis=-1) / np.maximum(norms, 1e-6)).max())
