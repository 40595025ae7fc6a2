"""Weights on their way from torch into graphs, one at a time."""

from collections.abc import Callable, Mapping
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from openkontext.errors import InputError


def lazy_tensors(
    shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], dtype: torch.dtype
) -> dict[str, ir.TensorProtocol]:
    """Weights for a graph, each read and converted only when it is written.

    Args:
        shapes: of the weights, by their names.
        read: gives a weight by its name.
        dtype: type to convert to.
    """
    ir_dtype = ir.tensor_adapters.from_torch_dtype(dtype)
    return {
        name: ir.LazyTensor(partial(_convert, name, read, dtype), ir_dtype, ir.Shape(shape), name=name)
        for name, shape in shapes.items()
    }


def _convert(name: str, read: Callable[[str], Tensor], dtype: torch.dtype) -> ir.TensorProtocol:
    converted = read(name).detach().to("cpu", dtype).contiguous()
    if not bool(torch.isfinite(converted).all()):
        raise InputError(f"the weight {name} holds values that {dtype} cannot: infinite, or not a number")
    return ir.tensor_adapters.TorchTensor(converted, name=name)
