"""Distances between precisions: against scikit-image, and a model beside itself."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from openkontext.errors import InputError
from openkontext.evaluation.fidelity import (
    Candidate,
    Fidelity,
    FidelityRun,
    _against,
    compare,
    plot,
    psnr,
    ssim,
)


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    first = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return first, np.clip(first + rng.normal(0, 12, first.shape), 0, 255).astype(np.uint8)


def test_psnr_and_ssim_are_scikit_images(pictures):
    assert psnr(*pictures) == pytest.approx(peak_signal_noise_ratio(*pictures[::-1]))
    assert ssim(*pictures) == pytest.approx(structural_similarity(*pictures, channel_axis=2))
    assert psnr(pictures[0], pictures[0]) == math.inf
    assert ssim(pictures[0], pictures[0]) == pytest.approx(1)


def test_latent_error_is_relative_and_by_step(pictures):
    start = np.ones((1, 4, 2), np.float32)
    reference = FidelityRun([np.concatenate((start, 2 * start, 4 * start))], [pictures[0]], [True], 1.0, 1.0)
    found = FidelityRun([np.concatenate((start, 2.2 * start, 5 * start))], [pictures[1]], [False], 3.0, 2.0)
    result = _against(reference, Candidate("nano", "bf16"), found)
    assert result.latent_error == pytest.approx((0.1, 0.25))
    assert (result.success, result.seconds, result.peak_mib) == (0, 3, 2)
    assert result.megabytes > 10


def test_a_row_says_how_it_was_computed(pictures):
    latents = [np.ones((2, 4, 2), np.float32)]
    runs = [FidelityRun(latents, [pictures[0]], [True], 1.0, 1.0, how) for how in ("faithful", "int8")]
    rows = [_against(runs[0], Candidate("nano", "bf16", "auto"), each) for each in runs]
    assert [row.label for row in rows] == ["bf16", "bf16 int8"]


def test_a_result_that_a_filter_refused_counts_as_failed_and_is_compared_by_its_latents(pictures):
    latents = [np.ones((2, 4, 2), np.float32)] * 2
    reference = FidelityRun(latents, [pictures[0]] * 2, [True, True], 1.0, 1.0)
    found = FidelityRun([each * 1.5 for each in latents], [pictures[1], None], [True, False], 1.0, 1.0)
    result = _against(reference, Candidate("nano", "bf16"), found)
    assert result.success == 0.5
    assert result.latent_error == pytest.approx((0.5,))
    assert result.psnr == pytest.approx(psnr(pictures[1], pictures[0]))


def test_one_equal_picture_among_others_leaves_their_likeness_to_be_seen(pictures):
    latents = [np.ones((2, 4, 2), np.float32)] * 3
    reference = FidelityRun(latents, [pictures[0]] * 3, [True] * 3, 1.0, 1.0)
    found = FidelityRun(latents, [pictures[0], pictures[1], pictures[1]], [True] * 3, 1.0, 1.0)
    result = _against(reference, Candidate("nano", "bf16"), found)
    assert result.psnr == pytest.approx(psnr(pictures[1], pictures[0]))
    assert result.ssim == pytest.approx((1 + 2 * ssim(pictures[1], pictures[0])) / 3)


def test_the_plot_shows_every_candidate_but_the_reference():
    errors = {"bf16": (0.0, 0.0), "fp8": (0.01, 0.02), "fp4": (0.05, 0.5)}
    rows = [Fidelity(name, 1, error, 30, 0.9, 1, 1, 1) for name, error in errors.items()]
    picture = np.asarray(plot(rows, "title"))
    assert picture.shape == (420, 720, 3)
    for color in ((46, 110, 180), (206, 62, 56)):
        assert (picture == color).all(axis=2).sum() > 20


def test_one_candidate_is_no_comparison():
    with pytest.raises(InputError, match="two precisions or more"):
        compare([Candidate("nano", "bf16")])


def test_a_precision_that_is_not_there_is_said_before_any_edit():
    with pytest.raises(InputError, match="has no fp32 transformer"):
        compare([Candidate("nano", "bf16"), Candidate("nano", "fp32")])


@pytest.mark.slow  # two processes that each open nano and its filters
def test_a_model_is_as_near_as_can_be_to_itself():
    first, second = compare([Candidate("nano", "bf16"), Candidate("nano", "bf16")], count=1, steps=3)
    assert first.latent_error == second.latent_error == (0, 0)
    assert second.psnr == math.inf
    assert second.peak_mib > 50
