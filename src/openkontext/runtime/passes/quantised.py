"""What the passes on quantised graphs share: building nodes, retyping weights, saying what was expected."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from openkontext.errors import InputError


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
        self, op_type: str, inputs: Sequence[ir.Value | None], dtype: ir.DataType, **attributes: Any
    ) -> ir.Value:
        """Add a node of one output, of element type `dtype`."""
        node = ir.node(op_type, inputs, attributes)
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


def retyped(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """An initializer of the same bytes, read as another type; in a data file it stays there.

    Args:
        value: an initializer of a graph, or the output of a Constant node.
        dtype: a type of as many bits.
    """
    name = f"{value.name}/{dtype.name.lower()}"
    graph = value.graph
    tensor = ir.convenience.get_const_tensor(value)
    assert graph is not None
    assert tensor is not None
    if name in graph.initializers:
        return graph.initializers[name]
    if isinstance(tensor, ir.ExternalTensor):
        new: ir.TensorProtocol = ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    else:
        new = ir.serde.deserialize_tensor(
            onnx.TensorProto(
                name=name, data_type=int(dtype), dims=tensor.shape.numpy(), raw_data=tensor.tobytes()
            )
        )
    initializer = ir.Value(
        name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=new
    )
    graph.register_initializer(initializer)
    return initializer


def int64s(*numbers: int) -> NDArray[np.int64]:
    """A vector as Reshape and its kin take."""
    return np.array(numbers, np.int64)
