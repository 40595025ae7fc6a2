"""NVFP4: E2M1 values with an E4M3 scale per block of 16, and a float32 scale per tensor.

    x ~ code * block_scale * scale
    scale       = amax(tensor) / (6 * 448)
    block_scale = E4M3(amax(block) / (6 * scale))
    code        = E2M1(x / (block_scale * scale))

Blocks run along the last axis. The formulas and the order of their operations are those of
TensorRT-Model-Optimizer (`onnx/export/nvfp4_exporter.py`): in another order, one scale in a thousand falls on
the other side of a rounding edge. E2M1 is described in the OCP Microscaling specification 1.0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.export.quantizers import fp8

BLOCK = 16
"""Values that share a block scale."""

E2M1_MAX = 6.0

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_SIGN = 8
_EXPONENT = 0x7F800000  # of a float32's bits
_SMALLEST_E4M3 = 2.0**-9
_BLOCKS_AT_ONCE = 1 << 13  # half a megabyte of float32: what a processor's cache holds


@dataclass(frozen=True)
class NVFP4Tensor:
    """A quantized tensor in the three parts that an export stores."""

    packed: Tensor
    """Codes, two a byte, the first in the low nibble: uint8 [..., n / 2]. Stored as `*_f4`."""
    block_scales: Tensor
    """float8_e4m3fn [..., n / 16]. Stored as `*_f8_scale`."""
    scale: Tensor
    """float32 []. Stored as `*_f8_scale_f32_scale`."""


def scale_of(amax: Tensor) -> Tensor:
    """The scale of a tensor, amax / (6 * 448), float32; 1 for a tensor of zeros."""
    scale = amax.float() / (E2M1_MAX * fp8.E4M3_MAX)
    return torch.where(scale > 0, scale, 1.0)


def scale_for(values: Tensor) -> Tensor:
    """The scale of these values in NVFP4, float32 [].

    Raises:
        InputError: the last axis is no multiple of 16, or a value is infinite or not a number.
    """
    if not values.ndim or values.shape[-1] % BLOCK:
        raise InputError(
            f"NVFP4 takes rows of a multiple of {BLOCK} values, not a tensor of shape {tuple(values.shape)}"
        )
    return scale_of(fp8.amax(values))


def quantize(values: Tensor, scale: Tensor | None = None) -> NVFP4Tensor:
    """Quantize in blocks along the last axis.

    Args:
        values: float [..., n].
        scale: the tensor's scale, float32 []. Calibrated for activations; by default from the values.

    Raises:
        InputError: n is no multiple of 16, or a value is infinite or not a number.
    """
    own = scale_for(values)
    scale = own if scale is None else scale
    flat = values.detach().reshape(-1, BLOCK)
    packed = torch.empty(len(flat), BLOCK // 2, dtype=torch.uint8)
    block_scales = torch.empty(len(flat), dtype=torch.float8_e4m3fn)
    for start in range(0, len(flat), _BLOCKS_AT_ONCE):
        stop = start + _BLOCKS_AT_ONCE
        blocks = flat[start:stop].float()
        scales = block_scale_of(blocks.abs().amax(-1), scale)
        block_scales[start:stop] = scales
        packed[start:stop] = pack(encode(blocks / (scales.float() * scale).unsqueeze(-1)))
    rows = values.shape[:-1]
    return NVFP4Tensor(packed.view(*rows, -1), block_scales.view(*rows, -1), scale)


def block_scale_of(amax: Tensor, scale: Tensor, code: float = E2M1_MAX) -> Tensor:
    """Scales of blocks with these largest magnitudes: float8_e4m3fn in their shape.

    Args:
        amax: of the blocks, float32.
        scale: the tensor's scale, float32 [].
        code: the E2M1 value that the largest magnitude becomes.
    """
    # A block scale of 0 could not be divided by; the smallest one serves blocks of zeros as well.
    return (amax / (code * scale)).clamp_(_SMALLEST_E4M3, fp8.E4M3_MAX).to(torch.float8_e4m3fn)


def dequantize(tensor: NVFP4Tensor) -> Tensor:
    """The values that a quantized tensor stands for: float32 [..., n]."""
    blocks = decode(unpack(tensor.packed)).unflatten(-1, (-1, BLOCK))
    return (blocks * (tensor.block_scales.float() * tensor.scale).unsqueeze(-1)).flatten(-2)


def encode(values: Tensor) -> Tensor:
    """Round to the nearest E2M1 code, ties to even, beyond 6 to 6: uint8 in 0..15, bit 3 the sign."""
    # Codes are 0.5 apart up to 2, 1 apart up to 4 and 2 apart up to 6; torch rounds half to even. Outside its
    # range, each of the three formulas gives at least the right code: the least of them is it.
    magnitudes = values.abs().clamp_(max=E2M1_MAX)
    codes = torch.minimum((2 * magnitudes).round_(), magnitudes.round().add_(2))
    codes = torch.minimum(codes, magnitudes.mul_(0.5).round_().add_(4))
    return codes.to(torch.uint8) | (torch.signbit(values).to(torch.uint8) * _SIGN)


def nearest(values: Tensor) -> Tensor:
    """The E2M1 values that float32 values are rounded to, as `encode` does: float32 in their shape."""
    # Up to 2 they are 0.5 apart, above that half of the power of two below. At 1.5 * 2^22 times that power,
    # float32 values are as far apart: to add it rounds, ties to even, and to take it away leaves the rest.
    values = values.clamp(-E2M1_MAX, E2M1_MAX)
    powers = values.view(torch.int32).bitwise_and(_EXPONENT).view(torch.float32)
    powers.clamp_(min=1).mul_(1.5 * 2**22)
    return values.add_(powers).sub_(powers)


def decode(codes: Tensor) -> Tensor:
    """The E2M1 values of codes: float32 in their shape."""
    values = torch.cat((_E2M1, -_E2M1))
    return values.index_select(0, codes.flatten().int()).view(
        codes.shape
    )  # indexing takes five times as long


def pack(codes: Tensor) -> Tensor:
    """Codes [..., n] in 0..15, n even -> bytes [..., n / 2], the first of a pair in the low nibble."""
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """Bytes [..., n / 2] -> codes [..., n] in 0..15."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
