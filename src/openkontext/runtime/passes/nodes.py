"""What the passes on quantized graphs share: building nodes, retyping weights, saying what was expected."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from openkontext.errors import InputError

FP8_TYPES = frozenset({ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2})
"""Types of 8 bits that TensorRT computes with."""


def not_understood(node: ir.Node, expected: str) -> NoReturn:
    """Stop the load: a node is not used as any known tool does.

    Raises:
        InputError: always.
    """
    operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    raise InputError(f"node '{node.name}' ({operator}): expected {expected}")


class Builder:
    """Nodes that will take the place of one node, in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def __call__(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Add a node of one output, of element type `dtype`."""
        node = ir.node(op_type, inputs, attributes, domain=domain)
        self.nodes.append(node)
        node.outputs[0].dtype = dtype
        return node.outputs[0]

    def constant(self, value: NDArray[Any] | float) -> ir.Value:
        """Add a Constant; a number becomes a float32 scalar."""
        tensor = ir.tensor(value if isinstance(value, np.ndarray) else np.array(value, np.float32))
        return self("Constant", [], tensor.dtype, value=tensor)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value as `dtype`; a Cast is added where it may be of another type."""
        return value if value.dtype == dtype else self("Cast", [value], dtype, to=int(dtype))

    def shared(self, graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer of a graph, put there when it is first asked for."""
        if name not in graph.initializers:
            tensor = ir.tensor(array, name=name)
            shape, kind = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
            graph.register_initializer(ir.Value(name=name, type=kind, shape=shape, const_value=tensor))
        return graph.initializers[name]

    def replace(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Put the nodes in place of `node`; `values` take over its outputs and keep their own types."""
        assert node.graph is not None
        dtypes = [value.dtype for value in values]
        ir.convenience.replace_nodes_and_values(
            node.graph, node, [node], self.nodes, node.outputs, list(values)
        )
        for value, dtype in zip(values, dtypes, strict=True):
            if dtype is not None:
                value.dtype = dtype


def is_stored(value: ir.Value | None) -> bool:
    """Whether a value is the same in every call: stored in the graph, or computed from nothing else."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if value is None or value in seen or ir.convenience.get_const_tensor(value) is not None:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None or not producer.inputs:  # what a caller feeds, or a draw of random numbers
            return False
        pending.extend(producer.inputs)
    return True


def is_fp8_quantizer(node: ir.Node) -> bool:
    """Whether a node rounds to FP8 with a scale: TensorRT's operator or the standard one."""
    if node.domain == "trt":
        return node.op_type == "TRT_FP8QuantizeLinear"
    if node.domain or node.op_type != "QuantizeLinear":
        return False
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    return node.outputs[0].dtype in FP8_TYPES or (zero is not None and zero.dtype in FP8_TYPES)


def is_fp8_dequantizer(node: ir.Node) -> bool:
    """Whether a node can undo what `is_fp8_quantizer` finds."""
    return (node.domain, node.op_type) in (("trt", "TRT_FP8DequantizeLinear"), ("", "DequantizeLinear"))


def is_plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm is a product, and perhaps a sum, of its inputs as they are."""
    return not node.attributes.get_int("transA", 0) and all(
        node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")
    )


def retyped(value: ir.Value, dtype: ir.DataType, shape: Sequence[int] | None = None) -> ir.Value:
    """An initializer of the same bytes, read as another type; in a data file it stays there.

    Args:
        value: an initializer of a graph, or the output of a Constant node.
        dtype: the type to read it as.
        shape: of as many bits in that type; None for the shape it has, in a type of as many bits.
    """
    name = f"{value.name}/{dtype.name.lower()}"
    graph = value.graph
    tensor = ir.convenience.get_const_tensor(value)
    assert graph is not None
    assert tensor is not None
    dims = list(tensor.shape.numpy() if shape is None else shape)
    if name in graph.initializers:
        return graph.initializers[name]
    if isinstance(tensor, ir.ExternalTensor):
        new: ir.TensorProtocol = ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            dtype,
            shape=ir.Shape(dims),
            name=name,
        )
    else:
        new = ir.serde.deserialize_tensor(
            onnx.TensorProto(name=name, data_type=int(dtype), dims=dims, raw_data=tensor.tobytes())
        )
    initializer = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims), const_value=new)
    graph.register_initializer(initializer)
    return initializer


def int64s(*numbers: int) -> NDArray[np.int64]:
    """A vector as Reshape and its kin take."""
    return np.array(numbers, np.int64)


def past_casts(value: ir.Value | None) -> ir.Value:
    """The value that Casts to float32 begin with; ONNX Runtime runs them as nothing."""
    assert value is not None
    while (node := value.producer()) is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        if {node.inputs[0].dtype, node.outputs[0].dtype} != {ir.DataType.FLOAT}:
            break
        value = node.inputs[0]
    return value


def scalar(value: ir.Value | None) -> float | None:
    """A constant of one value, cast or not; None for anything else."""
    while value is not None and (cast := value.producer()) is not None and cast.op_type == "Cast":
        value = cast.inputs[0]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or math.prod(tensor.shape.numpy()) != 1:
        return None
    return float(tensor.numpy().astype("float32").reshape(()))
