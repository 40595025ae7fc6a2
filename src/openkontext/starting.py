"""What the denoising loop of a request starts from: noise of its seed, latents handed in, or its picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openkontext.latents import latent_shape
from openkontext.repository import RepositoryConfig
from openkontext.request import EditRequest
from openkontext.sampling import randn, schedule, shifted
from openkontext.watching import as_latents

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """Where the loop for one picture begins."""

    seed: int
    """Of the picture."""
    noise: Float
    """Noise, float32 [1, C, H, W]."""
    latents: Float
    """What the first step begins with, of that shape."""
    sigmas: Float
    """Noise levels of the steps that are taken, [N + 1]; the last is 0."""


def starts(
    request: EditRequest, seed: int, size: tuple[int, int], context: list[Float], config: RepositoryConfig
) -> list[StartingPoint]:
    """Where the loops of a request begin, one for each picture that it asks for.

    Picture number i, counted from 0, has the seed `seed + i`: each can be made again alone. With a strength
    below 1 the first steps are left out, and the rest begins with the picture under that much noise, as
    `FluxKontextInpaintPipeline` of diffusers does (`get_timesteps`, `scale_noise`).

    Args:
        request: what is asked.
        seed: of the first picture.
        size: (width, height) that the model works at.
        context: latents of the picture, then of its references.
        config: the numbers of the model.

    Raises:
        InputError: the latents that were handed in have another shape.
    """
    shape = latent_shape(*size, config.latent_channels)
    tokens = shape[2] * shape[3] // 4
    if request.sigmas is None:
        count = int(request.num_inference_steps or config.num_inference_steps)
        sigmas = schedule(count, tokens, config.base_shift, config.max_shift)
    else:
        count = len(request.sigmas)
        levels = np.asarray(request.sigmas, np.float32)
        sigmas = shifted(levels, tokens, config.base_shift, config.max_shift)
    skipped = int(max(count - min(count * request.strength, count), 0))
    sigmas = sigmas[skipped:]
    many = request.num_images_per_prompt
    given = None
    if request.latents is not None:
        given = as_latents(request.latents, (many, *shape[1:]), "latents")
    begun = []
    for number in range(many):
        own = (seed + number) % 2**64
        noise = randn(shape, own) if given is None else given[number : number + 1]
        latents = noise
        if skipped and given is None:
            latents = (1 - sigmas[0]) * context[0] + sigmas[0] * noise
        begun.append(StartingPoint(own, noise, latents, sigmas))
    return begun
