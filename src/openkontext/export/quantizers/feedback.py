"""NVFP4 weights rounded for a layer's inputs: the error of a column is made good by those behind it.

With H the second moment of the inputs, rounding W to Q costs tr((W - Q) H (W - Q)^T) at the layer's output.
Columns are rounded from first to last. With H = (I + U) D (I + U)^T, U strictly upper, column j becomes

    Q_j = round(W_j + sum over i < j of (W_i - Q_i) U_ij)

(Frantar et al., GPTQ, arXiv 2210.17323, in the form without an inverse of H of Chee et al., QuIP, arXiv
2307.13304, section 3). The second moment of N inputs is damped by the shrinkage of Ledoit & Wolf ("A
well-conditioned estimator for large-dimensional covariance matrices", 2004): the fewer inputs, the less it is
believed, and the nearer the result is to plain rounding. So H = X^T X + c I with X [N, in], and U is X^T Y
between groups of columns (`_Factor`): a layer has more channels than inputs, and H is never made.

The scale of a block is chosen when it is reached: its largest value becomes 6 or 4, whichever leaves the
smaller squared error (Cook et al., Four Over Six, arXiv 2512.02010).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openkontext.export.quantizers import nvfp4
from openkontext.export.quantizers.nvfp4 import BLOCK, NVFP4Tensor

WINDOW = 3072
"""Columns among which errors are passed on; wider layers are rounded window by window."""

_LARGEST = (6.0, 4.0)  # what the largest value of a block may become
_GROUP = 8 * BLOCK  # columns whose errors reach those behind in one product
_DAMPING = 0.01  # least share of the mean eigenvalue that is added to all, as in GPTQ's own code


@dataclass(frozen=True)
class _Factor:
    """U of H = (I + U) D (I + U)^T, for groups of columns g and all columns k before one."""

    rows: Tensor
    """X / sqrt(c), [N, in]."""
    across: Tensor
    """Y^T, [in, N]: U_kg = rows_k^T across_g^T."""
    within: list[Tensor]
    """I + U_gg of each group, [columns, columns]."""


def quantize(weight: Tensor, inputs: Tensor) -> NVFP4Tensor:
    """Quantize a weight so that the layer's output changes little.

    Args:
        weight: float32 [out, in], in a multiple of 16.
        inputs: float32 [N, in], as the layer is given them: quantized themselves.

    Raises:
        InputError: the width is no multiple of 16, or a value is infinite or not a number.
    """
    scale = nvfp4.scale_for(weight)
    parts = []
    for columns, given in zip(weight.split(WINDOW, 1), inputs.split(WINDOW, 1), strict=True):
        rows, damping = _shrunk(given)
        if 0 < damping < torch.inf:
            parts.append(_rounded(columns, _factored(rows / damping.sqrt()), scale))
        else:  # inputs of zeros, or beyond what can be squared: nothing to go by
            plain = nvfp4.quantize(columns, scale)
            parts.append((plain.packed, plain.block_scales))
    packed, block_scales = (torch.cat(some, 1) for some in zip(*parts, strict=True))
    return NVFP4Tensor(packed, block_scales, scale)


def _shrunk(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """X [at most N, in] and c [] of X^T X + c I, the estimate of E[x x^T] from N inputs [N, in].

    It is (1 - b) S + b m I, with S the mean of x x^T and m its mean eigenvalue. b is the share of S's
    distance from m I that chance makes: sum over the inputs of |x x^T - S|^2 / N^2, over |S - m I|^2, at most
    1. So it is positive definite unless all inputs are zero.
    """
    count, width = inputs.shape
    # A triangle has the same products as the inputs that it stands for, in fewer rows.
    rows = inputs if count <= width else torch.linalg.qr(inputs, mode="r").R
    sizes = inputs.square().sum(1)
    size = sizes.mean() / width
    square = (rows @ rows.T / count).square().sum()
    by_chance = (sizes.square().mean() - square) / count
    share = (by_chance / (square - width * size**2).clamp(min=1e-30)).clamp(0, 1)
    return rows * ((1 - share) / count).sqrt(), (share + _DAMPING) * size


def _factored(rows: Tensor) -> _Factor:
    """The factor of H = X^T X + I.

    From the last group to the first: what is left of H when those behind are eliminated is
    I + X_g^T (I + X_> X_>^T)^-1 X_g (Woodbury), whose own factor holds U_gg and gives Y_g.
    """
    across = torch.empty(rows.T.shape)
    within = []
    behind = torch.eye(len(rows))
    for start in reversed(range(0, rows.shape[1], _GROUP)):
        group = slice(start, start + _GROUP)
        columns = rows[:, group]
        root = torch.linalg.cholesky(behind)
        half = torch.linalg.solve_triangular(root, columns, upper=False)
        left = half.T @ half
        left.diagonal().add_(1)
        upper = torch.linalg.cholesky(left.flip(0, 1)).flip(0, 1)  # left = upper upper^T
        unit = upper / upper.diagonal()
        whole = torch.linalg.solve_triangular(root.T, half, upper=True)
        torch.linalg.solve_triangular(unit, whole.T, upper=True, out=across[group])
        across[group] /= upper.diagonal().square()[:, None]
        within.append(unit)
        behind.addmm_(columns, columns.T)
    return _Factor(rows, across, within[::-1])


def _rounded(weight: Tensor, factor: _Factor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 [out, in / 2] and block scales float8_e4m3fn [out, in / 16]."""
    outputs, width = weight.shape
    codes = torch.empty(width, outputs, dtype=torch.uint8)  # a column at a time lies in one piece
    scales = torch.empty(width // BLOCK, outputs, dtype=torch.float8_e4m3fn)
    carried = torch.zeros(len(factor.rows), outputs)  # sum of the errors so far times their inputs
    for number, unit in enumerate(factor.within):
        group = slice(number * _GROUP, (number + 1) * _GROUP)
        exact = weight[:, group].contiguous().T.contiguous()  # two copies: torch is slow to do it in one
        wanted = exact.addmm(factor.across[group], carried)
        errors = torch.empty_like(exact)
        for start in range(0, len(exact), BLOCK):
            block = slice(start, start + BLOCK)
            wanted[block].addmm_(unit[:start, block].T, errors[:start])
            of_block = _block_scales(wanted[block], scale)
            step = of_block.float() * scale
            for i in range(start, start + BLOCK):
                column = wanted[i : i + 1].addmm_(unit[start:i, i : i + 1].T, errors[start:i])[0]
                column.copy_(nvfp4.nearest(column / step))
                torch.addcmul(exact[i], column, step, value=-1, out=errors[i])
            codes[group][block] = nvfp4.encode(wanted[block])
            scales[(group.start + start) // BLOCK] = of_block
        carried.addmm_(factor.rows[:, group], errors)
    return nvfp4.pack(codes.T.contiguous()), scales.T.contiguous()


def _block_scales(values: Tensor, scale: Tensor) -> Tensor:
    """Of blocks [16, N], the scales that serve each best: float8_e4m3fn [N]."""
    largest = values.abs().amax(0)
    candidates = [nvfp4.block_scale_of(largest, scale, code) for code in _LARGEST]
    errors = [
        torch.addcmul(values, nvfp4.nearest(values / steps), steps, value=-1).square_().sum(0)
        for steps in (each.float() * scale for each in candidates)
    ]
    full, less = (each.view(torch.uint8) for each in candidates)  # torch.where knows no FP8
    return torch.where(errors[1] < errors[0], less, full).view(torch.float8_e4m3fn)
