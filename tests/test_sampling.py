"""The noise against torch, the schedule and every step of the loop against diffusers' pipeline."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import dynamic_scheduler, tiny_pipeline

from openkontext.errors import InputError
from openkontext.latents import latent_mask, latent_shape, pack
from openkontext.sampling import DenoisingStep, Mask, TextEmbeds, denoise, randn, schedule

TEXT_LENGTH = 7


# ---- noise -------------------------------------------------------------------------------------------------


def torch_randn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()


torch_is_vectorized = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch's own noise differs on processors without AVX2",
)


@torch_is_vectorized
@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    seed=st.integers(-(2**63), 2**64 - 1),
)
def test_noise_is_torchs_for_any_shape_and_seed(shape: tuple[int, ...], seed: int) -> None:
    noise = randn(shape, seed)
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise, torch_randn(shape, seed), rtol=0, atol=5e-7)


@torch_is_vectorized
@pytest.mark.parametrize("count", [*range(1, 40), 1 << 20, (1 << 20) + 5])
@pytest.mark.parametrize("seed", [0, 42, 2**32 + 42, -1])
def test_noise_is_torchs_for_every_way_a_count_ends(count: int, seed: int) -> None:
    np.testing.assert_allclose(randn((count,), seed), torch_randn((count,), seed), rtol=0, atol=5e-7)


def test_noise_of_no_axes_and_of_no_values() -> None:
    assert randn((), 3) == pytest.approx(torch_randn((), 3), abs=5e-7)
    assert randn((0, 4), 3).shape == (0, 4)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match="does not fit 64 bits"):
        randn((4,), seed)


# ---- schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 28, 30, 100])
@pytest.mark.parametrize("tokens", [64, 256, 4096, 4116, 6000])
@pytest.mark.parametrize("shifts", [(0.5, 1.15), (0.3, 0.9)])
def test_schedule_is_that_of_diffusers(steps: int, tokens: int, shifts: tuple[float, float]) -> None:
    scheduler = dynamic_scheduler()
    mu = calculate_shift(tokens, base_shift=shifts[0], max_shift=shifts[1])
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    sigmas = schedule(steps, tokens, *shifts)
    assert sigmas.dtype == np.float32
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=1e-6, atol=0)


def test_schedule_by_hand() -> None:
    # 256 tokens: mu = 0.5; t = 1, 1/2; e^0.5 / (e^0.5 + 1) = 0.622459
    np.testing.assert_allclose(schedule(2, 256), [1, 0.6224593, 0], atol=1e-6)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_schedule_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match=f"at least 1, not {steps}"):
        schedule(steps, 256)


# ---- the loop, against diffusers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> FluxKontextPipeline:
    """diffusers' pipeline over tiny random networks."""
    return tiny_pipeline()


class Networks:
    """The pipeline's networks as the loop takes them: numpy in, numpy out."""

    def __init__(self, pipe: FluxKontextPipeline) -> None:
        self.pipe = pipe
        self.calls: list[dict[str, np.ndarray]] = []

    @torch.no_grad()
    def transformer(self, **inputs: np.ndarray) -> np.ndarray:
        self.calls.append(inputs)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return self.pipe.transformer(**tensors, return_dict=False)[0].numpy()

    @torch.no_grad()
    def text(self, seed: int, batch: int = 1) -> TextEmbeds:
        ids = torch.randint(1, 48, (batch, TEXT_LENGTH), generator=torch.Generator().manual_seed(seed))
        ids[:, -1] = 49
        return TextEmbeds(
            self.pipe.text_encoder_2(ids)[0].numpy(), self.pipe.text_encoder(ids).pooler_output.numpy()
        )

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> np.ndarray:
        """A picture in 0..1 -> latents in the transformer's scale."""
        config = self.pipe.vae.config
        mean = self.pipe.vae.encode(image * 2 - 1).latent_dist.mode()
        return ((mean - config.shift_factor) * config.scaling_factor).numpy()


@pytest.fixture
def networks(pipeline: FluxKontextPipeline) -> Networks:
    return Networks(pipeline)


def picture(width: int, height: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize(
    ("size", "context_size", "true_cfg_scale", "batch"),
    [
        pytest.param((64, 64), (64, 64), 1.0, 1, id="edit"),
        pytest.param((96, 64), (96, 64), 1.0, 1, id="edit-wide"),
        pytest.param((48, 80), (64, 96), 1.0, 1, id="context-of-another-size"),
        pytest.param((64, 64), None, 1.0, 1, id="text-to-image"),
        pytest.param((32, 112), None, 3.5, 1, id="text-to-image-true-cfg"),
        pytest.param((64, 96), (64, 96), 4.0, 1, id="edit-true-cfg"),
        pytest.param((64, 48), (64, 48), 2.0, 2, id="batch"),
    ],
)
def test_every_step_is_that_of_diffusers(
    pipeline: FluxKontextPipeline,
    networks: Networks,
    size: tuple[int, int],
    context_size: tuple[int, int] | None,
    true_cfg_scale: float,
    batch: int,
) -> None:
    (width, height), steps, seed = size, 5, 2**33 + 7
    text, negative = networks.text(1, batch), networks.text(2, batch)
    image = None if context_size is None else picture(*context_size, batch=batch)
    theirs: list[np.ndarray] = []

    def read(pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        theirs.append(pipe._unpack_latents(tensors["latents"], height, width, 8).numpy())
        return tensors

    pipeline(
        image=image,
        prompt_embeds=torch.from_numpy(text.encoder_hidden_states),
        pooled_prompt_embeds=torch.from_numpy(text.pooled_projections),
        negative_prompt_embeds=torch.from_numpy(negative.encoder_hidden_states),
        negative_pooled_prompt_embeds=torch.from_numpy(negative.pooled_projections),
        true_cfg_scale=true_cfg_scale,
        guidance_scale=2.5,
        num_inference_steps=steps,
        width=width,
        height=height,
        max_area=width * height,
        _auto_resize=False,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="latent",
        callback_on_step_end=read,
    )

    _, channels, rows, columns = latent_shape(width, height)
    ours = list(
        denoise(
            networks.transformer,
            randn((batch, channels, rows, columns), seed),
            text,
            sigmas=schedule(steps, rows * columns // 4),
            guidance_scale=2.5,
            context=() if image is None else [networks.encode(image)],
            negative=negative,
            true_cfg_scale=true_cfg_scale,
        )
    )

    assert len(ours) == len(theirs) == steps
    for step, expected in zip(ours, theirs, strict=True):
        assert step.latents.dtype == np.float32
        assert relative_error(step.latents, expected) < 1e-4
    # The comparison means something only where the network moves the latents and hears its inputs.
    assert relative_error(theirs[-1], randn(theirs[-1].shape, seed)) > 0.1


def run(networks: Networks, **changes: Any) -> list[DenoisingStep]:
    """A short edit, with some of its arguments changed."""
    arguments: dict[str, Any] = {
        "noise": randn((1, 16, 6, 8), 0),
        "text": networks.text(1),
        "sigmas": schedule(3, 12),
        "context": [networks.encode(picture(64, 48))],
        **changes,
    }
    return list(denoise(networks.transformer, **arguments))


def test_every_argument_is_heard(networks: Networks) -> None:
    """Else the comparison with diffusers would pass with an input dropped on both sides."""
    base = run(networks)[-1].latents
    for change in (
        {"text": networks.text(3)},
        {"guidance_scale": 6.0},
        {"context": ()},
        {"context": [networks.encode(picture(64, 48, seed=1))]},
        {"negative": networks.text(2), "true_cfg_scale": 4.0},
    ):
        assert relative_error(run(networks, **change)[-1].latents, base) > 1e-3, change


def test_true_cfg_of_one_costs_no_second_call(networks: Networks) -> None:
    run(networks, negative=networks.text(2), true_cfg_scale=1.0)
    assert len(networks.calls) == 3
    run(networks, negative=networks.text(2), true_cfg_scale=1.5)
    assert len(networks.calls) == 3 + 6


def test_several_context_images_follow_the_target_and_are_numbered(networks: Networks) -> None:
    context = [networks.encode(picture(64, 48)), networks.encode(picture(32, 64, seed=1))]
    run(networks, context=context)
    call = networks.calls[0]
    assert call["hidden_states"].shape == (1, 12 + 12 + 8, 64)
    ids = call["img_ids"]
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(ids[:, 0], [0] * 12 + [1] * 12 + [2] * 8)
    np.testing.assert_array_equal(ids[24:, 1], [0, 0, 1, 1, 2, 2, 3, 3])  # 4 rows of 2 tokens
    np.testing.assert_array_equal(ids[24:, 2], [0, 1] * 4)
    np.testing.assert_array_equal(call["txt_ids"], np.zeros((TEXT_LENGTH, 3), np.float32))


def test_one_context_and_prompt_serve_a_batch(networks: Networks) -> None:
    noise = randn((3, 16, 6, 8), 0)
    together = run(networks, noise=noise)[-1].latents
    alone = np.concatenate([run(networks, noise=noise[i : i + 1])[-1].latents for i in range(3)])
    assert relative_error(together, alone) < 1e-5


# ---- the loop, against a flow that is known ----------------------------------------------------------------

SHAPE = (1, 16, 8, 8)
CLEAN = randn(SHAPE, 10)
NOISE = randn(SHAPE, 11)
NO_TEXT = TextEmbeds(np.zeros((1, 1, 4), np.float32), np.zeros((1, 4), np.float32))


def exact(**inputs: np.ndarray) -> np.ndarray:
    """A transformer that knows the picture: its velocity leads from any latents straight to CLEAN."""
    return (inputs["hidden_states"][:, :16] - pack(CLEAN)) / inputs["timestep"][:, None, None]


def test_steps_lie_on_the_line_and_previews_are_the_picture() -> None:
    sigmas = schedule(4, 16)
    steps = list(denoise(exact, NOISE, NO_TEXT, sigmas=sigmas))
    assert [(step.index, step.count) for step in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [step.sigma for step in steps] == [float(sigma) for sigma in sigmas[1:]]
    for step in steps:
        np.testing.assert_allclose(step.denoised, CLEAN, atol=1e-5)
        np.testing.assert_allclose(step.latents, (1 - step.sigma) * CLEAN + step.sigma * NOISE, atol=1e-5)


def test_nothing_runs_before_it_is_asked_for() -> None:
    asked: list[float] = []

    def counting(**inputs: np.ndarray) -> np.ndarray:
        asked.append(float(inputs["timestep"][0]))
        return exact(**inputs)

    steps: Iterator[DenoisingStep] = denoise(counting, NOISE, NO_TEXT, sigmas=schedule(4, 16))
    assert asked == []
    next(steps)
    assert asked == [1.0]


def test_what_the_mask_leaves_out_is_the_original_exactly(networks: Networks) -> None:
    original = randn((1, 16, 6, 8), 5)
    noise = randn((1, 16, 6, 8), 0)
    pixels = np.zeros((48, 64), np.float32)
    pixels[16:32, 24:40] = 1
    area = latent_mask(pixels)
    inside = np.broadcast_to(area, noise.shape) == 1
    steps = run(networks, noise=noise, mask=Mask(area, original))
    for step in steps:
        noised = (1 - np.float32(step.sigma)) * original + np.float32(step.sigma) * noise
        np.testing.assert_array_equal(step.latents[~inside], noised[~inside])
        np.testing.assert_array_equal(step.denoised[~inside], original[~inside])
        assert not np.any(step.denoised[inside] == original[inside])
    np.testing.assert_array_equal(steps[-1].latents[~inside], original[~inside])


def test_a_mask_over_everything_is_no_mask(networks: Networks) -> None:
    original = randn((1, 16, 6, 8), 5)
    masked = run(networks, mask=Mask(np.ones((1, 1, 6, 8), np.float32), original))
    np.testing.assert_array_equal(masked[-1].latents, run(networks)[-1].latents)


def test_a_soft_mask_blends() -> None:
    original = randn(SHAPE, 12)
    mask = Mask(np.full((1, 1, 8, 8), 0.25, np.float32), original)
    (step,) = denoise(exact, NOISE, NO_TEXT, sigmas=schedule(1, 16), mask=mask)
    np.testing.assert_allclose(step.latents, 0.25 * CLEAN + 0.75 * original, atol=1e-5)
