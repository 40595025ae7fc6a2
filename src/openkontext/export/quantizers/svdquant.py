"""SVDQuant: one linear layer in NVFP4 with a smoothed input and a low-rank branch in 16 bits.

    y = x' @ NVFP4(R)^T + (x' @ A^T) @ B^T,   x' = x * smoothing,   W / smoothing = B @ A + R

The branch takes the largest singular values of the smoothed weight, so that what is left for NVFP4 has a
smaller range; smoothing moves outliers from the input to the weight, where the branch takes them up
(Li et al., SVDQuant, arXiv 2411.05007). R is rounded for the inputs that the layer has (`feedback`). Without
a branch (rank 0) and without smoothing, it is plain NVFP4: each value to the nearest code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.export.quantizers import feedback, fp8, nvfp4
from openkontext.export.quantizers.nvfp4 import NVFP4Tensor

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Searched for the smoothing, beside no smoothing at all."""

KEPT_ROWS = 1024
"""Inputs of a layer that are kept, to round its weight by."""

_SAMPLED_ROWS = 128  # of them, the search tries its candidates on
_SAMPLED_OUTPUTS = 512  # rows of a large weight tell as much about the input's channels as all of them
_OVERSAMPLING = 10
_POWER_ITERATIONS = 2


@dataclass(frozen=True)
class LayerInputs:
    """What there is to know about a layer's inputs, in the size of some rows whatever their number."""

    amax: Tensor
    """Largest magnitude in each channel: float32 [in]."""
    mean: Tensor
    """Mean magnitude in each channel: float32 [in]."""
    rows: Tensor
    """Some of the inputs themselves, evenly over all timesteps: float32 [N, in]."""

    @classmethod
    def of(cls, inputs: Tensor) -> "LayerInputs":
        """From all inputs [N, in].

        Raises:
            InputError: there are none.
        """
        if not inputs.numel():
            raise InputError("a layer without a single input cannot be calibrated")
        inputs = inputs.detach().float()
        sizes = inputs.abs()
        return cls(sizes.amax(0), sizes.mean(0), evenly(inputs, KEPT_ROWS))


@dataclass(frozen=True)
class SVDQuantLinear:
    """The parts of a quantized layer, as an export stores them."""

    smoothing: Tensor | None
    """Factor of each input channel, [in]. Stored as `*.input_quantizer._pre_quant_scale`."""
    lora_a: Tensor | None
    """[rank, in]. Stored as `*.weight_quantizer._svdquant_lora_a`."""
    lora_b: Tensor | None
    """[out, rank]. Stored as `*.weight_quantizer._svdquant_lora_b`."""
    residual: NVFP4Tensor
    """[out, in]."""
    input_scale: Tensor
    """Scale of the smoothed input in NVFP4, float32 []."""

    def __call__(self, x: Tensor) -> Tensor:
        """What the layer computes, without its bias: [..., in] -> float32 [..., out]."""
        x = x.float() if self.smoothing is None else x.float() * self.smoothing.float()
        y = nvfp4.dequantize(nvfp4.quantize(x, self.input_scale)) @ nvfp4.dequantize(self.residual).T
        if self.lora_a is None or self.lora_b is None:
            return y
        return y + x @ self.lora_a.float().T @ self.lora_b.float().T


def quantize(
    weight: Tensor,
    inputs: LayerInputs,
    rank: int = 32,
    *,
    smooth: bool = True,
    feed_back: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> SVDQuantLinear:
    """Quantize a layer with the smoothing that serves its inputs best.

    Args:
        weight: [out, in], in a multiple of 16.
        inputs: what the layer was given in calibration.
        rank: of the branch, at most the smaller side of the weight; 32 as published, 0 for no branch.
        smooth: whether to search for a smoothing.
        feed_back: whether to round the residual for the inputs. Plain NVFP4 never is.
        seed: of the randomized decomposition.
        dtype: stored type of the smoothing and the branch. Their rounding is not lost: the residual is taken
            from what is stored.

    Raises:
        InputError: the sizes do not fit each other, or a value is infinite or not a number.
    """
    rows = inputs.rows
    if weight.ndim != 2 or rows.ndim != 2 or not len(rows) or weight.shape[1] != rows.shape[1]:
        raise InputError(
            f"inputs of shape {tuple(rows.shape)} do not fit a weight of shape {tuple(weight.shape)}"
        )
    for values in (weight, rows, inputs.amax):
        fp8.amax(values)  # refuses what is not finite; the decomposition would not say where it failed
    weight = weight.detach().float()
    smoothing = _search_smoothing(weight, inputs, rank, seed, dtype) if smooth else None
    given = rows if feed_back and (rank or smooth) else None
    return _with_smoothing(weight, inputs.amax, smoothing, rank, seed, dtype, _POWER_ITERATIONS, given)


def low_rank(
    matrix: Tensor, rank: int, seed: int = 0, power_iterations: int = _POWER_ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Factors b [m, rank], a [rank, n] whose product is near the best approximation of that rank.

    Randomized subspace iteration (Halko, Martinsson & Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1) with
    p = 10 columns more than the rank k and q power iterations. Let s_j be the singular values, and tau^2
    the sum of s_j^2 over j > k: the squared error of the best approximation. Then, in the Frobenius norm,

        E |matrix - b a|^2  <=  (1 + k / (p - 1) * (s_(k+1) / s_k)^(4 q)) * tau^2.

    This is their theorem 10.5 with the gain of the power iterations. Dropping the p extra directions costs
    nothing in it: b a is the best approximation of rank k inside the subspace found.

    Args:
        matrix: float32 [m, n].
        rank: from 1 to min(m, n).
        seed: of the random test matrix.
        power_iterations: q.

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
    for _ in range(power_iterations):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    u, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    root = s[:rank].sqrt()  # shared by both factors, so that neither leaves the range of 16-bit types
    return (basis @ u[:, :rank]) * root, root[:, None] * vh[:rank]


def evenly(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows of a tensor, evenly spaced; copied."""
    if len(rows) <= count:
        return rows.clone()
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


def _search_smoothing(
    weight: Tensor, inputs: LayerInputs, rank: int, seed: int, dtype: torch.dtype
) -> Tensor | None:
    """The smoothing [in] with the smallest output error on the sampled inputs, or None where none is best.

    Candidates are those of AWQ (Lin et al., arXiv 2306.00978, section 3.2) in the form of SmoothQuant
    (arXiv 2211.10438, equation 4): mean|w|^(1 - e) / mean|x|^e for each exponent e. They are compared on a
    sample of the outputs, with one power iteration and plain rounding: the same for all, so that it does not
    decide.
    """
    rows = evenly(inputs.rows, _SAMPLED_ROWS)
    sampled = evenly(weight, _SAMPLED_OUTPUTS)
    if min(sampled.shape) < rank:
        sampled = weight
    expected = rows @ sampled.T
    candidates: list[Tensor | None] = [None]
    input_size, weight_size = _positive(inputs.mean), _positive(_mean_size(weight))
    for exponent in EXPONENTS:
        factor = weight_size ** (1 - exponent) / input_size**exponent
        factor = factor / (factor.max() * factor.min()).sqrt()
        candidates.append(factor.clamp(1e-4, 1e4).to(dtype))
    errors = [
        (_with_smoothing(sampled, inputs.amax, smoothing, rank, seed, dtype, 1)(rows) - expected).norm()
        for smoothing in candidates
    ]
    return candidates[int(torch.stack(errors).argmin())]


def _mean_size(weight: Tensor) -> Tensor:
    """Mean magnitude of each column, from a sample of a large weight's rows."""
    return evenly(weight, 4 * _SAMPLED_OUTPUTS).abs_().mean(0)


def _positive(sizes: Tensor) -> Tensor:
    """Sizes of channels, those of dead ones lifted to 1e-5 of the largest, so that all can be divided by."""
    largest = sizes.max()
    return sizes.clamp(min=1e-5 * largest) if largest > 0 else torch.ones_like(sizes)


def _with_smoothing(
    weight: Tensor,
    input_amax: Tensor,
    smoothing: Tensor | None,
    rank: int,
    seed: int,
    dtype: torch.dtype,
    power_iterations: int,
    given: Tensor | None = None,
) -> SVDQuantLinear:
    """The layer with a smoothing; its residual rounded for the inputs that are given, or plainly."""
    factor = torch.ones(()) if smoothing is None else smoothing.float()
    residual, lora_a, lora_b = weight / factor, None, None
    if rank:
        b, a = low_rank(residual, rank, seed, power_iterations)
        lora_b, lora_a = b.to(dtype), a.to(dtype)
        residual.addmm_(lora_b.float(), lora_a.float(), alpha=-1)
    scale = nvfp4.scale_of((input_amax * factor).max())
    if given is None:
        rounded = nvfp4.quantize(residual)
    else:
        rounded = feedback.quantize(residual, nvfp4.dequantize(nvfp4.quantize(given * factor, scale)))
    return SVDQuantLinear(smoothing, lora_a, lora_b, rounded, scale)
