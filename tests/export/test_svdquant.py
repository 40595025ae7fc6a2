"""SVDQuant of one layer: against numpy's decomposition, and against NVFP4 without it."""

import math

import numpy as np
import pytest
import torch

from openkontext.errors import InputError
from openkontext.export.quantizers import nvfp4, svdquant
from openkontext.export.quantizers.svdquant import LayerInputs


def layer(outputs: int = 256, channels: int = 192, outliers: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A random weight of a decaying spectrum, and inputs with some channels some 20 times larger."""
    generator = torch.Generator().manual_seed(outputs + channels + outliers)
    weight = torch.randn(outputs, channels, generator=generator) / channels**0.5
    weight += (
        sum(
            torch.outer(torch.randn(outputs, generator=generator), torch.randn(channels, generator=generator))
            * (0.5 / (k + 1))
            for k in range(8)
        )
        / channels**0.5
    )
    inputs = torch.randn(256, channels, generator=generator)
    inputs[:, torch.randperm(channels, generator=generator)[:outliers]] *= 20
    return weight, inputs


def error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return ((result - expected).norm() / expected.norm()).item()


def plain_nvfp4(weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    rounded = [nvfp4.dequantize(nvfp4.quantize(values)) for values in (inputs, weight)]
    return rounded[0] @ rounded[1].T


def fresh(inputs: torch.Tensor) -> torch.Tensor:
    """Other inputs of the same distribution, channel by channel."""
    return torch.randn(inputs.shape, generator=torch.Generator().manual_seed(99)) * inputs.std(0)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_low_rank_holds_its_bound_and_is_near_numpys(decay: float):
    rng = np.random.default_rng(5)
    k, p, q = 16, 10, 2
    left, right = (np.linalg.qr(rng.standard_normal((size, 100)))[0] for size in (160, 100))
    matrix = (left * np.arange(1, 101) ** -decay) @ right.T
    s = np.linalg.svd(matrix, compute_uv=False)
    best = np.sum(s[k:] ** 2)
    squared = []
    for seed in range(10):
        b, a = svdquant.low_rank(torch.from_numpy(matrix).float(), k, seed)
        assert b.shape == (160, k)
        assert a.shape == (k, 100)
        squared.append(np.sum((matrix - (b @ a).double().numpy()) ** 2))
    assert min(squared) > best * (1 - 1e-5)  # none can be better
    assert np.mean(squared) <= best * (1 + k / (p - 1) * (s[k] / s[k - 1]) ** (4 * q))
    assert math.sqrt(np.mean(squared) / best) < 1.01


def test_low_rank_of_full_rank_is_exact():
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(6))
    b, a = svdquant.low_rank(matrix, 24)
    torch.testing.assert_close(b @ a, matrix, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("shape", "outliers"), [((256, 192), 6), ((128, 512), 20), ((384, 128), 3)])
def test_outlier_channels_cost_clearly_less_than_in_plain_nvfp4(shape: tuple[int, int], outliers: int):
    weight, inputs = layer(*shape, outliers)
    quantized = svdquant.quantize(weight, LayerInputs.of(inputs), rank=32)
    for given in (inputs, fresh(inputs)):
        expected = given @ weight.T
        assert error(quantized(given), expected) < 0.3 * error(plain_nvfp4(weight, given), expected)


def test_smoothing_and_branch_each_lower_the_error():
    weight, inputs = layer()
    expected = inputs @ weight.T
    full = error(svdquant.quantize(weight, LayerInputs.of(inputs), rank=32)(inputs), expected)
    low = error(svdquant.quantize(weight, LayerInputs.of(inputs), rank=2)(inputs), expected)
    unsmoothed = error(
        svdquant.quantize(weight, LayerInputs.of(inputs), rank=32, smooth=False)(inputs), expected
    )
    plain = svdquant.quantize(weight, LayerInputs.of(inputs), rank=0, smooth=False)
    assert full < 0.6 * low
    assert full < 0.6 * unsmoothed
    assert plain.smoothing is plain.lora_a is plain.lora_b is None
    torch.testing.assert_close(plain(inputs), plain_nvfp4(weight, inputs))


def test_the_stored_parts_make_up_the_weight():
    weight, inputs = layer()
    quantized = svdquant.quantize(weight, LayerInputs.of(inputs), rank=32)
    for part in (quantized.smoothing, quantized.lora_a, quantized.lora_b):
        assert part.dtype == torch.bfloat16
    branch = quantized.lora_b.float() @ quantized.lora_a.float()
    stored = (branch + nvfp4.dequantize(quantized.residual)) * quantized.smoothing.float()
    assert error(stored, weight) < 0.12


def test_dead_channels_and_zero_weights():
    weight, inputs = layer()
    inputs[:, :40] = 0
    weight[:, 30:50] = 0
    quantized = svdquant.quantize(weight, LayerInputs.of(inputs), rank=8)
    assert error(quantized(inputs), inputs @ weight.T) < 0.15
    assert not svdquant.quantize(torch.zeros(32, 32), LayerInputs.of(torch.zeros(4, 32)), rank=4)(
        torch.ones(2, 32)
    ).any()


def test_the_same_seed_gives_the_same_layer():
    weight, inputs = layer()
    first, second = (svdquant.quantize(weight, LayerInputs.of(inputs), rank=8, seed=3) for _ in range(2))
    assert torch.equal(first.lora_a, second.lora_a)
    assert torch.equal(first.residual.packed, second.residual.packed)


@pytest.mark.parametrize(
    ("weight", "inputs", "rank", "message"),
    [
        ((32, 32), (4, 16), 4, "do not fit a weight"),
        ((32, 32), (0, 32), 4, "without a single input"),
        ((32, 32), (4, 32), 33, "use 1 to 32"),
        ((32, 32), (4, 32), -1, "use 1 to 32"),
        ((32, 24), (4, 24), 4, "multiple of 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(weight, inputs, rank, message):
    with pytest.raises(InputError, match=message):
        svdquant.quantize(torch.ones(weight), LayerInputs.of(torch.ones(inputs)), rank=rank)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1])
def test_values_that_are_no_numbers_are_refused(where: int, bad: float):
    tensors = layer()
    tensors[where][3, 5] = bad
    with pytest.raises(InputError, match="infinite, or not a number"):
        svdquant.quantize(tensors[0], LayerInputs.of(tensors[1]))
