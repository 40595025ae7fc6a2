"""NVFP4 weights rounded for a layer's inputs: the error of a column is made good by those behind it.

With H the second moment of the inputs, rounding R to Q costs tr((R - Q) H (R - Q)^T) at the layer's output.
Columns are rounded from first to last. U is the upper Cholesky factor of H^-1 = U^T U; the error of column i
is taken out of each column j > i, so that what is left of it at the output is least:

    e = (R_i - Q_i) / U_ii,    R_j <- R_j - e U_ij

(Frantar et al., GPTQ, arXiv 2210.17323, section 3.3 and algorithm 1). The scale of a block is chosen when it
is reached: its largest value becomes 6 or 4, whichever leaves the smaller squared error (Cook et al., Four
Over Six, arXiv 2512.02010). The second moment of N inputs is damped by the shrinkage of Ledoit & Wolf ("A
well-conditioned estimator for large-dimensional covariance matrices", 2004): the fewer inputs, the less it is
believed, and the nearer the result is to plain rounding.
"""

import torch
from torch import Tensor

from openkontext.export.quantizers import nvfp4
from openkontext.export.quantizers.nvfp4 import BLOCK, NVFP4Tensor

WINDOW = 3072
"""Columns among which errors are passed on; wider layers are rounded window by window, to bound H's size."""

_LARGEST = (6.0, 4.0)  # what the largest value of a block may become
_GROUP = 8 * BLOCK  # columns whose errors reach those behind in one product
_DAMPING = 0.01  # least share of the mean eigenvalue that is added to all, as in GPTQ's own code


def quantize(weight: Tensor, inputs: Tensor) -> NVFP4Tensor:
    """Quantize a weight so that the layer's output changes little.

    Args:
        weight: float32 [out, in], in a multiple of 16.
        inputs: float32 [N, in], as the layer is given them: quantized themselves.

    Raises:
        InputError: the width is no multiple of 16, or a value is infinite or not a number.
    """
    made = nvfp4.quantize(weight)  # of its own: the scale of the tensor, and the place for the rest
    for start in range(0, weight.shape[1], WINDOW):
        window = slice(start, min(start + WINDOW, weight.shape[1]))
        factor = _inverse_factor(second_moment(inputs[:, window]))
        if factor is not None:
            codes, scales = _rounded(weight[:, window], factor, made.scale)
            made.packed[:, window.start // 2 : window.stop // 2] = nvfp4.pack(codes)
            made.block_scales[:, window.start // BLOCK : window.stop // BLOCK] = scales
    return made


def second_moment(inputs: Tensor) -> Tensor:
    """Estimate of E[x x^T] from N inputs [N, in]: float32 [in, in], positive definite unless all are zero.

    (1 - b) S + b m I, with S the mean of x x^T and m its mean eigenvalue. b is the share of S's distance from
    m I that chance makes: sum over the inputs of |x x^T - S|^2 / N^2, over |S - m I|^2, at most 1.
    """
    count, width = inputs.shape
    moment = inputs.T @ inputs / count
    size = moment.diagonal().mean()
    square = moment.square().sum()
    by_chance = (inputs.square().sum(1).square().sum() / count - square) / count
    share = (by_chance / (square - width * size**2).clamp(min=1e-30)).clamp(0, 1)
    moment *= 1 - share
    moment.diagonal().add_((share + _DAMPING) * size)
    return moment


def _inverse_factor(moment: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse, or None where there is nothing to go by."""
    size = moment.diagonal().mean()
    if size <= 0:
        return None
    lower, failed = torch.linalg.cholesky_ex(moment / size)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed else upper


def _rounded(weight: Tensor, factor: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 [out, in] and block scales float8_e4m3fn [out, in / 16]."""
    columns = weight.T.contiguous()  # [in, out]: a column at a time lies in one piece
    width, outputs = columns.shape
    codes = torch.empty(width, outputs, dtype=torch.uint8)
    scales = torch.empty(width // BLOCK, outputs, dtype=torch.float8_e4m3fn)
    errors = torch.empty(_GROUP, outputs)
    for group in range(0, width, _GROUP):
        stop = min(group + _GROUP, width)
        for block in range(group, stop, BLOCK):
            of_block = _block_scales(columns[block : block + BLOCK], scale)
            scales[block // BLOCK] = of_block
            step = of_block.float() * scale
            for i in range(block, block + BLOCK):
                codes[i] = nvfp4.encode(columns[i] / step)
                error = (columns[i] - nvfp4.decode(codes[i]) * step) / factor[i, i]
                errors[i - group] = error
                columns[i + 1 : block + BLOCK].addr_(factor[i, i + 1 : block + BLOCK], error, alpha=-1)
            behind = slice(block + BLOCK, stop)
            columns[behind].addmm_(
                factor[block : block + BLOCK, behind].T,
                errors[block - group : block - group + BLOCK],
                alpha=-1,
            )
        columns[stop:].addmm_(factor[group:stop, stop:].T, errors[: stop - group], alpha=-1)
    return codes.T.contiguous(), scales.T.contiguous()


def _block_scales(values: Tensor, scale: Tensor) -> Tensor:
    """Of blocks [16, N], the scales that serve each best: float8_e4m3fn [N]."""
    candidates = torch.stack(
        [nvfp4.block_scale_of(values.abs().amax(0), scale, code) for code in _LARGEST]
    )  # [candidates, N]
    errors = [
        (nvfp4.decode(nvfp4.encode(values / steps)) * steps - values).square().sum(0)
        for steps in candidates.float() * scale
    ]
    best = torch.stack(errors).argmin(0, keepdim=True)
    return candidates.view(torch.uint8).gather(0, best)[0].view(torch.float8_e4m3fn)
