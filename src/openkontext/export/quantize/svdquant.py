"""SVDQuant: one linear layer in NVFP4 with a smoothed input and a low-rank branch in 16 bits.

    y = x' @ NVFP4(R)^T + (x' @ A^T) @ B^T,   x' = x * smoothing,   W / smoothing = B @ A + R

The branch takes the largest singular values of the smoothed weight, so that what is left for NVFP4 has a
smaller range; smoothing moves outliers from the input to the weight, where the branch takes them up
(Li et al., SVDQuant, arXiv 2411.05007).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.export.quantize import fp8, nvfp4
from openkontext.export.quantize.nvfp4 import NVFP4Tensor

EXPONENTS = tuple(i / 10 for i in range(11))
"""Searched for the smoothing, beside no smoothing at all."""

_OVERSAMPLING = 10
_POWER_ITERATIONS = 2
_SEARCHED_OUTPUTS = 1024  # rows of a large weight tell as much about the input's channels as all of them


@dataclass(frozen=True)
class SVDQuantLinear:
    """The parts of a quantised layer, as an export stores them."""

    smoothing: Tensor
    """Factor of each input channel, [in]. Stored as `*.input_quantizer._pre_quant_scale`."""
    lora_a: Tensor
    """[rank, in]. Stored as `*.weight_quantizer._svdquant_lora_a`."""
    lora_b: Tensor
    """[out, rank]. Stored as `*.weight_quantizer._svdquant_lora_b`."""
    residual: NVFP4Tensor
    """[out, in]."""
    input_scale: Tensor
    """Scale of the smoothed input in NVFP4, float32 []."""

    def __call__(self, x: Tensor) -> Tensor:
        """What the layer computes, without its bias: [..., in] -> float32 [..., out]."""
        smoothed = x.float() * self.smoothing.float()
        branch = smoothed @ self.lora_a.float().T @ self.lora_b.float().T
        rounded = nvfp4.dequantize(nvfp4.quantize(smoothed, self.input_scale))
        return rounded @ nvfp4.dequantize(self.residual).T + branch


def quantize(
    weight: Tensor, inputs: Tensor, rank: int = 32, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> SVDQuantLinear:
    """Quantise a layer with the smoothing that serves its inputs best.

    Args:
        weight: [out, in], in a multiple of 16.
        inputs: what the layer was given in calibration, [N, in]; some hundred rows over all timesteps.
        rank: of the branch, at most the smaller side of the weight; 32 as published.
        seed: of the randomised decomposition.
        dtype: stored type of the smoothing and the branch. Their rounding is not lost: the residual is taken
            from what is stored.

    Raises:
        InputError: the sizes do not fit each other, or a value is infinite or not a number.
    """
    if weight.ndim != 2 or inputs.ndim != 2 or not len(inputs) or weight.shape[1] != inputs.shape[1]:
        raise InputError(
            f"inputs of shape {tuple(inputs.shape)} do not fit a weight of shape {tuple(weight.shape)}"
        )
    for values in (weight, inputs):
        fp8.amax(values)  # refuses what is not finite; the decomposition would not say where it failed
    weight, inputs = weight.detach().float(), inputs.detach().float()
    smoothing = _search_smoothing(weight, inputs, rank, seed, dtype)
    return _with_smoothing(weight, inputs, smoothing, rank, seed, dtype)


def low_rank(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Factors b [m, rank], a [rank, n] whose product is near the best approximation of that rank.

    Randomised subspace iteration (Halko, Martinsson & Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1) with
    p = 10 columns more than the rank k and q = 2 power iterations. Let s_j be the singular values, and tau^2
    the sum of s_j^2 over j > k: the squared error of the best approximation. Then, in the Frobenius norm,

        E |matrix - b a|^2  <=  (1 + k / (p - 1) * (s_(k+1) / s_k)^(4 q)) * tau^2.

    This is their theorem 10.5 with the gain of the power iterations. Dropping the p extra directions costs
    nothing in it: b a is the best approximation of rank k inside the subspace found.

    Args:
        matrix: float32 [m, n].
        rank: from 1 to min(m, n).
        seed: of the random test matrix.

    Raises:
        InputError: the rank is out of range.
    """
    smaller = min(matrix.shape)
    if not 1 <= rank <= smaller:
        raise InputError(
            f"rank {rank} does not fit a weight of shape {tuple(matrix.shape)}: use 1 to {smaller}"
        )
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + _OVERSAMPLING, smaller)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width, generator=generator)).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    u, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    root = s[:rank].sqrt()  # shared by both factors, so that neither leaves the range of 16-bit types
    return (basis @ u[:, :rank]) * root, root[:, None] * vh[:rank]


def _search_smoothing(weight: Tensor, inputs: Tensor, rank: int, seed: int, dtype: torch.dtype) -> Tensor:
    """The smoothing [in] with the smallest output error on the inputs.

    Candidates are those of AWQ (Lin et al., arXiv 2306.00978, section 3.2) in the form of SmoothQuant
    (arXiv 2211.10438, equation 4): mean|w|^(1 - e) / mean|x|^e for each exponent e.
    """
    step = -(-len(weight) // _SEARCHED_OUTPUTS)
    rows = weight[::step]
    if min(rows.shape) < rank:
        rows = weight
    expected = inputs @ rows.T
    candidates = [torch.ones_like(inputs[0]).to(dtype)]
    input_size, weight_size = inputs.abs().mean(0), weight.abs().mean(0)
    for exponent in EXPONENTS:
        factor = _positive(weight_size) ** (1 - exponent) / _positive(input_size) ** exponent
        factor = factor / (factor.max() * factor.min()).sqrt()
        candidates.append(factor.clamp(1e-4, 1e4).to(dtype))
    errors = [
        (_with_smoothing(rows, inputs, smoothing, rank, seed, dtype)(inputs) - expected).norm()
        for smoothing in candidates
    ]
    return candidates[int(torch.stack(errors).argmin())]


def _positive(sizes: Tensor) -> Tensor:
    """Sizes of channels, those of dead ones lifted to 1e-5 of the largest, so that all can be divided by."""
    largest = sizes.max()
    return sizes.clamp(min=1e-5 * largest) if largest > 0 else torch.ones_like(sizes)


def _with_smoothing(
    weight: Tensor, inputs: Tensor, smoothing: Tensor, rank: int, seed: int, dtype: torch.dtype
) -> SVDQuantLinear:
    smoothed = weight / smoothing.float()
    lora_b, lora_a = (factor.to(dtype) for factor in low_rank(smoothed, rank, seed))
    residual = smoothed - lora_b.float() @ lora_a.float()
    input_amax = (inputs.abs().amax(0) * smoothing.float()).max()
    return SVDQuantLinear(smoothing, lora_a, lora_b, nvfp4.quantize(residual), nvfp4.scale_of(input_amax))
