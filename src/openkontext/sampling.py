"""Sampling: the noise for a seed, the schedule of noise levels, and the Euler loop as a generator of steps.

The model is a flow: at noise level sigma (1 is pure noise, 0 the picture) the latents are
(1 - sigma) * clean + sigma * noise, and the transformer predicts the velocity, noise - clean.

Shape suffixes: B batch, C latent channels, H W rows and columns (latent pixels), L tokens.

Sources: black-forest-labs/flux `sampling.py` (`get_schedule`, `denoise`), diffusers
`FluxKontextPipeline.__call__` and `FlowMatchEulerDiscreteScheduler`, and PyTorch
`aten/src/ATen/native/cpu/DistributionTemplates.h` (`normal_fill`) and `core/DistributionsHelper.h`.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.latents import context_positions, pack, position_ids, unpack
from openkontext.step_cache import StepCache

Float = NDArray[np.float32]


class Transformer(Protocol):
    """What predicts the velocity; the names are those of the published graph's inputs."""

    def __call__(
        self,
        *,
        hidden_states: Float,
        encoder_hidden_states: Float,
        pooled_projections: Float,
        timestep: Float,
        img_ids: Float,
        txt_ids: Float,
        guidance: Float,
    ) -> NDArray[Any]:
        """Velocity of every token of `hidden_states`, in its shape [B, L, 4C]."""


@dataclass(frozen=True, eq=False)
class TextEmbeds:
    """A prompt as the transformer takes it; a batch of one serves latents of any batch."""

    encoder_hidden_states: Float
    """T5's text tokens, float32 [B, L, D]."""
    pooled_projections: Float
    """CLIP's pooled embedding, float32 [B, width]."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which part of a picture may change."""

    mask: Float
    """float32 in 0..1, broadcastable to [B, 1, H, W]: 1 may change, 0 stays as it is, between is a blend."""
    original: Float
    """Latents of the picture to keep, in the transformer's scale, float32 [B or 1, C, H, W]."""


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """The state after one step of the loop."""

    index: int
    """Which step this was: 0 ... count - 1."""
    count: int
    """How many steps there are."""
    sigma: float
    """Noise level of `latents`; 0 after the last step."""
    latents: Float
    """Latents after this step, in the transformer's scale, float32 [B, C, H, W]."""
    denoised: Float
    """The finished latents as this step predicts them (x0), float32 [B, C, H, W]: what a preview decodes."""


def denoise(
    transformer: Transformer,
    noise: Float,
    text: TextEmbeds,
    *,
    sigmas: Float,
    guidance_scale: float = 2.5,
    context: Sequence[Float] = (),
    negative: TextEmbeds | None = None,
    true_cfg_scale: float = 1.0,
    mask: Mask | None = None,
    cache: StepCache | None = None,
    positions: str = "index",
    start: Float | None = None,
) -> Generator[DenoisingStep, Float | None, None]:
    """Turn noise into the latents of a picture, one Euler step at a time.

    It is a generator: nothing runs before the first step is asked for, and who stops asking has cancelled.
    What is sent into it takes the place of the latents that it gave last.

    Args:
        transformer: predicts the velocity; called once per step, twice with a negative prompt.
        noise: float32 [B, C, H, W] with even H and W; see `randn`.
        text: the prompt.
        sigmas: noise levels [N + 1] from 1 to 0 for N steps; see `schedule`. The first is lower where
            `start` is a picture under less noise.
        guidance_scale: the guidance that a distilled model takes as an input.
        context: latents of the context images in the transformer's scale, each float32 [B or 1, C, h, w] with
            a size of its own; none for text to image.
        negative: a prompt to keep away from; used where `true_cfg_scale` is above 1.
        true_cfg_scale: how far to go away from the negative prompt, as in classifier-free guidance.
        mask: where given, what lies outside is the original at every step, and exactly so after the last.
        positions: how several context images are told apart (`latents.context_positions`).
        cache: of this edit, foresees velocities in place of calls; None calls for every step.
        start: latents that the first step begins with, of the shape of `noise`; None for the noise.

    Yields:
        One `DenoisingStep` after each step.
    """
    B, _, H, W = noise.shape
    context_BLC = [pack(_repeat(latents, B)) for latents in context]
    shapes = [(latents.shape[2], latents.shape[3]) for latents in context]
    img_ids = np.concatenate([position_ids(H, W), *context_positions(shapes, positions)])
    guidance = np.full(B, guidance_scale, np.float32)

    def velocity(latents: Float, sigma: np.float32, text: TextEmbeds) -> Float:
        length = text.encoder_hidden_states.shape[1]
        tokens_BLC = transformer(
            hidden_states=np.concatenate([pack(latents), *context_BLC], axis=1),
            encoder_hidden_states=_repeat(text.encoder_hidden_states, B),
            pooled_projections=_repeat(text.pooled_projections, B),
            timestep=np.full(B, sigma, np.float32),
            img_ids=img_ids,
            txt_ids=np.zeros((length, 3), np.float32),
            guidance=guidance,
        )
        target_BLC = tokens_BLC[:, : (H // 2) * (W // 2)]  # the context's tokens come after
        return unpack(target_BLC, H, W).astype(np.float32, copy=False)

    def keep(latents: Float, sigma: np.float32) -> Float:
        if mask is None:
            return latents
        return mask.mask * latents + (1 - mask.mask) * ((1 - sigma) * mask.original + sigma * noise)

    def guided(latents: Float, sigma: np.float32) -> Float:
        v = velocity(latents, sigma, text)
        if negative is None or true_cfg_scale <= 1:
            return v
        away = velocity(latents, sigma, negative)
        return away + np.float32(true_cfg_scale) * (v - away)

    latents = noise if start is None else start
    count = len(sigmas) - 1
    cache = cache or StepCache(0.0)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        v = cache(latents, float(sigma), partial(guided, latents, sigma), last=index == count - 1)
        denoised = keep(latents - sigma * v, np.float32(0))
        latents = keep(latents + (sigma_next - sigma) * v, sigma_next)
        changed = yield DenoisingStep(index, count, float(sigma_next), latents, denoised)
        latents = latents if changed is None else changed


def shift(image_seq_len: int, base_shift: float = 0.5, max_shift: float = 1.15) -> float:
    """The shift mu of a picture: on the line through two sizes, also beyond them.

    Source: `get_lin_function` in the reference.

    Args:
        image_seq_len: tokens of the picture being made; those of the context do not count.
        base_shift: mu at 256 tokens.
        max_shift: mu at 4096 tokens.
    """
    return base_shift + (max_shift - base_shift) / (4096 - 256) * (image_seq_len - 256)


def schedule(
    num_inference_steps: int, image_seq_len: int, base_shift: float = 0.5, max_shift: float = 1.15
) -> Float:
    """Noise levels of every step, shifted towards noise the more tokens the picture has.

    Evenly spaced t in 1..0 becomes exp(mu) / (exp(mu) + 1/t - 1), with mu of `shift` (`get_schedule` in the
    reference). Computed in float32 in the order of diffusers' scheduler.

    Args:
        num_inference_steps: N, at least 1.
        image_seq_len: tokens of the picture being made; those of the context do not count.
        base_shift: mu at 256 tokens.
        max_shift: mu at 4096 tokens.

    Returns:
        float32 [N + 1]: sigmas from 1 to 0, both included.

    Raises:
        InputError: `num_inference_steps` is below 1.
    """
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    t = np.linspace(1, 1 / num_inference_steps, num_inference_steps).astype(np.float32)
    return shifted(t, image_seq_len, base_shift, max_shift)


def shifted(t: Float, image_seq_len: int, base_shift: float = 0.5, max_shift: float = 1.15) -> Float:
    """Noise levels of one's own, shifted as those of `schedule` are.

    Args:
        t: float32 [N], falling, above 0 and at most 1: the `sigmas` of diffusers' pipelines.
        image_seq_len: as for `schedule`.
        base_shift: as for `schedule`.
        max_shift: as for `schedule`.

    Returns:
        float32 [N + 1], the last 0.
    """
    mu = shift(image_seq_len, base_shift, max_shift)
    sigmas = math.exp(mu) / (math.exp(mu) + (1 / t - 1))
    return np.append(sigmas, np.float32(0)).astype(np.float32, copy=False)


def randn(shape: tuple[int, ...], seed: int) -> Float:
    """Normal noise: what `torch.randn` gives for a CPU generator with this seed, within 5e-7.

    It seeds a Mersenne Twister with the low 32 bits of the seed and makes uniform numbers normal by the
    Box-Muller transform: from 16 values on in float32, in blocks of 8 + 8; below in float64, in pairs. This
    is torch with AVX2 or AVX-512; without them torch's own values differ from those by up to 2.4e-6.

    Args:
        shape: of the result.
        seed: any integer that fits 64 bits, signed or unsigned.

    Returns:
        float32 of `shape`.

    Raises:
        InputError: the seed does not fit 64 bits.
    """
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed {seed} does not fit 64 bits; take one from 0 to {2**64 - 1}")
    # numpy promises that this legacy generator never changes; over the full range it gives the raw 32 bits.
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    count = math.prod(shape)
    values = _normal_blocks(twister, count) if count >= 16 else _normal_pairs(twister, count)
    return values.reshape(shape)


def _normal_blocks(twister: np.random.RandomState, count: int) -> Float:
    """As `normal_fill` in torch: float32 uniforms of 24 bits, Box-Muller in blocks of 16."""
    tail = count % 16
    # Where the blocks do not come out even, the last 16 values are drawn again, from the numbers that follow.
    bits = twister.randint(0, 1 << 32, count + (16 if tail else 0), dtype=np.uint32)
    uniform = (bits & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def box_muller(uniform: Float) -> Float:
        u1, u2 = uniform.reshape(-1, 2, 8).transpose(1, 0, 2)
        radius = np.sqrt(-2 * np.log(1 - u1.astype(np.float64)))
        angle = (np.float32(2 * np.pi) * u2).astype(np.float64)  # torch rounds the angle to float32
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1).astype(np.float32)

    values = np.empty(count, np.float32)
    values[: count - tail] = box_muller(uniform[: count - tail])
    if tail:
        values[-16:] = box_muller(uniform[count:])
    return values


def _normal_pairs(twister: np.random.RandomState, count: int) -> Float:
    """As `normal_distribution<double>` in torch: uniforms of 53 bits, Box-Muller in pairs."""
    high, low = twister.randint(0, 1 << 32, 4 * ((count + 1) // 2), dtype=np.uint32).reshape(-1, 2).T
    bits = (high.astype(np.uint64) << np.uint64(32)) | low
    u1, u2 = ((bits & np.uint64((1 << 53) - 1)) * 2.0**-53).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log1p(-u2)), 2 * np.pi * u1
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def _repeat(values: Float, batch: int) -> Float:
    return values if len(values) == batch else np.repeat(values, batch, axis=0)
