"""NVFP4 rounded for a layer's inputs: against least squares in float64, and against the nearest code."""

import numpy as np
import pytest
import torch

from openkontext.errors import InputError
from openkontext.export.quantizers import feedback, nvfp4, svdquant
from openkontext.export.quantizers.svdquant import LayerInputs


def correlated(count: int, channels: int, seed: int) -> torch.Tensor:
    """Inputs whose channels share a few causes, as a network's do: a common mean and 12 directions."""
    causes = torch.Generator().manual_seed(1)
    mean = torch.randn(channels, generator=causes)
    directions = torch.randn(12, channels, generator=causes)
    draw = torch.Generator().manual_seed(seed)
    strengths = torch.randn(count, 12, generator=draw)
    return mean + strengths @ directions / 3 + 0.3 * torch.randn(count, channels, generator=draw)


def random_weight(outputs: int, channels: int) -> torch.Tensor:
    return torch.randn(outputs, channels, generator=torch.Generator().manual_seed(2)) / channels**0.5


def output_error(stored: torch.Tensor, weight: torch.Tensor, inputs: torch.Tensor) -> float:
    """Of the weight alone, in float64."""
    expected = inputs.double() @ weight.double().T
    return ((inputs.double() @ stored.double().T - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("outputs", "channels", "count"), [(96, 192, 1024), (192, 96, 300), (64, 256, 64)])
def test_correlated_inputs_cost_less_than_with_the_nearest_code(outputs: int, channels: int, count: int):
    weight, seen, fresh = (
        random_weight(outputs, channels),
        correlated(count, channels, seed=3),
        correlated(512, channels, seed=4),
    )
    ours = nvfp4.dequantize(feedback.quantize(weight, seen))
    nearest = nvfp4.dequantize(nvfp4.quantize(weight))
    bound = 0.5 if count > channels else 0.75  # of fewer inputs than channels, less is to be known
    assert output_error(ours, weight, seen) < bound * output_error(nearest, weight, seen)
    assert output_error(ours, weight, fresh) < bound * output_error(nearest, weight, fresh)


def test_inputs_without_correlation_cost_no_more_than_with_the_nearest_code():
    weight = random_weight(96, 192)
    generator = torch.Generator().manual_seed(5)
    seen, fresh = (torch.randn(400, 192, generator=generator) for _ in range(2))
    ours = nvfp4.dequantize(feedback.quantize(weight, seen))
    nearest = nvfp4.dequantize(nvfp4.quantize(weight))
    assert output_error(ours, weight, fresh) < 1.02 * output_error(nearest, weight, fresh)


def second_moment(inputs):
    """What feedback takes for E[x x^T] of inputs [N, in], written out: float32 [in, in]."""
    rows, damping = feedback._shrunk(inputs)
    return rows.T @ rows + damping * torch.eye(rows.shape[1])


@pytest.mark.parametrize(("channels", "count"), [(48, 256), (144, 40), (288, 300)])  # in 1, 2, 3 groups
def test_what_follows_a_rounded_column_is_the_least_squares_answer_to_it(channels: int, count: int):
    """Each column is that of the weight which, with those before it as rounded, changes the output least."""
    weight, inputs = random_weight(40, channels), correlated(count, channels, seed=6)
    made = feedback.quantize(weight, inputs)
    stored = nvfp4.dequantize(made).double().numpy()
    moment = second_moment(inputs).double().numpy()
    steps = (made.block_scales.float() * made.scale).double().numpy().repeat(16, axis=1)
    wanted = weight.double().numpy()
    far = 0
    for i in range(channels):
        done, rest = slice(0, i), slice(i, channels)
        change = (wanted[:, done] - stored[:, done]) @ moment[done, rest]
        column = wanted[:, i] + (change @ np.linalg.inv(moment[rest, rest]))[:, 0]
        value = np.clip(column / steps[:, i], -6, 6)
        code = np.abs(value)
        gap = np.where(code < 2, 0.25, np.where(code < 4, 0.5, 1.0))  # half of the distance between codes
        far += int((np.abs(value - stored[:, i] / steps[:, i]) > gap + 1e-3).sum())
    assert far == 0


def test_the_second_moment_is_nearer_to_the_true_one_than_the_mean_of_products():
    many = correlated(20000, 64, seed=7)
    true = many.T @ many / len(many)
    for count in (16, 64, 256):
        rows = correlated(count, 64, seed=8)
        bare = rows.T @ rows / count
        assert (second_moment(rows) - true).norm() < 1.02 * (bare - true).norm()
        assert torch.linalg.eigvalsh(second_moment(rows)).min() > 0


def test_wide_layers_are_rounded_window_by_window(monkeypatch):
    weight, inputs = random_weight(24, 96), correlated(128, 96, seed=9)
    monkeypatch.setattr(feedback, "WINDOW", 64)
    made = feedback.quantize(weight, inputs)
    scale = nvfp4.quantize(weight).scale
    top = torch.zeros(1, 64).index_fill_(1, torch.tensor([0]), (scale * 6 * 448).item())  # keeps the scale
    for window in (slice(0, 64), slice(64, 96)):
        rows = torch.cat((weight[:, window], top[:, : weight[:, window].shape[1]]))
        alone = feedback.quantize(rows, inputs[:, window])
        torch.testing.assert_close(alone.scale, scale)
        expected = nvfp4.dequantize(alone)[:-1]
        torch.testing.assert_close(nvfp4.dequantize(made)[:, window], expected)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])  # the squares of the last two are no numbers of float32
def test_inputs_that_tell_nothing_leave_the_nearest_code(value: float):
    weight = random_weight(32, 64)
    made, nearest = feedback.quantize(weight, torch.full((8, 64), value)), nvfp4.quantize(weight)
    assert torch.equal(made.packed, nearest.packed)
    assert torch.equal(made.block_scales.view(torch.uint8), nearest.block_scales.view(torch.uint8))


def test_svdquant_rounds_its_residual_with_feedback_and_plain_nvfp4_does_not():
    weight, inputs = random_weight(96, 192), correlated(600, 192, seed=10)
    fresh = correlated(512, 192, seed=11)
    given = LayerInputs.of(inputs)
    expected = fresh.double() @ weight.double().T

    def error(**options: object) -> float:
        made = svdquant.quantize(weight, given, **options)
        return ((made(fresh).double() - expected).norm() / expected.norm()).item()

    assert error() < 0.9 * error(feed_back=False)
    plain = svdquant.quantize(weight, given, rank=0, smooth=False).residual
    assert torch.equal(plain.packed, nvfp4.quantize(weight).packed)


def test_a_width_of_no_whole_blocks_is_refused():
    with pytest.raises(InputError, match="multiple of 16"):
        feedback.quantize(torch.ones(4, 24), torch.ones(4, 24))
