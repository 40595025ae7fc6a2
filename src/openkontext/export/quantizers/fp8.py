"""FP8 E4M3 with one scale per tensor: x ~ scale * code (Micikevicius et al., arXiv 2209.05433).

The published exports use scale = amax / 448 for weights and activations alike
(TensorRT-Model-Optimizer, `torch/quantization/export_onnx.py`).
"""

import torch
from torch import Tensor

from openkontext.errors import InputError

E4M3_MAX = 448.0
"""Largest finite E4M3 value: 1.75 * 2^8."""


def amax(values: Tensor, percentile: float = 100.0) -> Tensor:
    """The magnitude that the largest code stands for: float32 [].

    Args:
        values: any shape and float type.
        percentile: share of the magnitudes in percent that must not be clipped. Below 100, a few outliers are
            clipped so that all others get finer steps. The percentile is a value of the tensor (the nearest
            rank), so that 100 is exactly the maximum.

    Raises:
        InputError: a value is infinite or not a number, or `percentile` is not in (0, 100].
    """
    if not 0 < percentile <= 100:
        raise InputError(f"a percentile must be above 0 and at most 100, not {percentile:g}")
    if not values.numel():
        raise InputError("an empty tensor cannot be quantized")
    low, high = torch.aminmax(values.detach())  # a NaN makes both NaN
    top = torch.maximum(-low, high).float()
    if not bool(torch.isfinite(top)):
        raise InputError("a tensor to quantize holds values that are infinite, or not a number")
    if percentile == 100:
        return top
    magnitudes = values.detach().abs().flatten()
    clipped = round(len(magnitudes) * (1 - percentile / 100))
    return magnitudes.topk(clipped + 1, sorted=True).values[-1].float()


def scale_of(amax: Tensor) -> Tensor:
    """The scale amax / 448, float32; 1 for a tensor of zeros, which any scale represents.

    A graph may store it rounded, in its own type; quantize with the stored one then.
    """
    scale = amax.float() / E4M3_MAX
    return torch.where(scale > 0, scale, 1.0)


def quantize(values: Tensor, scale: Tensor) -> Tensor:
    """Round to the nearest code, ties to even: float8_e4m3fn in the shape of `values`.

    Magnitudes above 448 scales become the largest code, as in TensorRT; the bare cast would make them NaN.
    """
    return (values.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """The values that codes stand for: float32 in their shape."""
    return codes.float() * scale
