"""Weights on their way from torch into graphs, one at a time, and from graphs back into torch."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from openkontext.errors import InputError

_FLOATS = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT)


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


def read_weights(model: ir.Model, path: Path) -> dict[str, Tensor]:
    """The weights of an opened graph in their stored type; copied, so that they can be trained.

    Args:
        model: a graph in a floating-point precision.
        path: its file, for messages.

    Raises:
        InputError: a weight is stored in quantized form.
    """
    state = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _FLOATS:
            raise InputError(f"{path}: {name} is no floating-point weight; read the bf16 graph instead")
        array = tensor.numpy().copy()
        if tensor.dtype == ir.DataType.BFLOAT16:
            state[name] = torch.from_numpy(array.view("int16")).view(torch.bfloat16)
        else:
            state[name] = torch.from_numpy(array)
    return state


def _convert(name: str, read: Callable[[str], Tensor], dtype: torch.dtype) -> ir.TensorProtocol:
    converted = read(name).detach().to("cpu", dtype).contiguous()
    if not bool(torch.isfinite(converted).all()):
        raise InputError(f"the weight {name} holds values that {dtype} cannot: infinite, or not a number")
    return ir.tensor_adapters.TorchTensor(converted, name=name)
