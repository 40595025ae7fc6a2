"""A small builder of ONNX graphs whose names follow the modules of the torch model.

The graphs are written operator by operator instead of traced from torch. A traced graph carries the tracer's
arithmetic on shapes along (two thirds of the nodes of a published transformer), changes with the versions of
torch and transformers, and needs the whole model in memory. Here the weights are only named; they are read
one by one while the file is written. The pattern of operators is that of the published files, which tools and
quantizers look for: MatMul on a transposed weight, then Add; Gemm for vectors; attention as MatMul, Softmax,
MatMul.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from openkontext.version import __version__

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Dim: TypeAlias = int | str
"""A fixed size, or the name of a dynamic one."""

CONFIG_KEY = "openkontext.config"
"""Entry of a model's metadata: the configuration of the network as JSON."""

_OPSET_IR_VERSIONS = {20: 9, 22: 10, 23: 11}
_MODULE_SEPARATOR = re.compile(r"\.(?!\d)")  # blocks.0.attn is the module attn inside blocks.0


class GraphBuilder:
    """Collects the nodes of one graph.

    Args:
        dtype: type of weights, activations and of the inputs and outputs that do not ask for another.
        parameters: the model's weights under their names there; only those used come into the graph.
        opset: version of the ONNX operators: 20 as published, 22, the first with bfloat16 convolutions, or
            23, the first with 4-bit floats.
    """

    def __init__(
        self, dtype: ir.DataType, parameters: Mapping[str, ir.TensorProtocol], opset: int = 20
    ) -> None:
        self.dtype = dtype
        self._parameters = parameters
        self._opset = opset
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._used_names: Counter[str] = Counter()
        self._module = ""

    @contextmanager
    def scope(self, module: str) -> Iterator[None]:
        """Name what is made inside after a submodule, such as `attn` or `net.0.proj`."""
        outer = self._module
        self._module = self._in_module(module)
        yield
        self._module = outer

    def input(self, name: str, shape: Sequence[Dim], dtype: ir.DataType | None = None) -> ir.Value:
        """Add an input to the graph."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype or self.dtype))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, shape: Sequence[Dim]) -> None:
        """Make a value an output of the graph under a name of its own."""
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(self.dtype)
        self._outputs.append(value)

    def parameter(self, name: str) -> ir.Value:
        """A weight of the current module, as an initializer with the parameter's full name."""
        name = self._in_module(name)
        if name not in self._initializers:
            tensor = self._parameters[name]
            self._initializers[name] = ir.Value(
                name=name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return self._initializers[name]

    def has(self, name: str) -> bool:
        """Whether the current module has a weight of this name."""
        return self._in_module(name) in self._parameters

    def constant(
        self, value: NDArray[Any] | Sequence[int] | float, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A constant, made once for all uses: integers as int64, others in the graph's type, or `dtype`."""
        array = np.asarray(value)
        integral = np.issubdtype(array.dtype, np.integer)
        dtype = dtype or (ir.DataType.INT64 if integral else self.dtype)
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype)
        key = (dtype, tuple(array.shape), tensor.tobytes())
        if key not in self._constants:
            self._constants[key] = self._add("Constant", (), {"value": tensor}, 1)[0]
        return self._constants[key]

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output; an operator of another domain than ONNX's is `domain::name`."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(
        self, op_type: str, count: int, *inputs: ir.Value | None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs."""
        return self._add(op_type, inputs, attributes, count)

    def split(self, x: ir.Value, count: int) -> Sequence[ir.Value]:
        """Cut a value into equal parts along its last axis."""
        return self.ops("Split", count, x, axis=-1, num_outputs=count)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Convert a float value; `x` itself where the graph computes in that type already."""
        return x if dtype == self.dtype == ir.DataType.FLOAT else self.op("Cast", x, to=dtype)

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """Reshape; 0 keeps the size of that axis, -1 takes what is left."""
        return self.op("Reshape", x, self.constant(shape))

    def slice(self, x: ir.Value, axis: int, start: int = 0, stop: int = np.iinfo(np.int64).max) -> ir.Value:
        """`x[start:stop]` along one axis."""
        return self.op("Slice", x, self.constant([start]), self.constant([stop]), self.constant([axis]))

    def linear(self, x: ir.Value, name: str, bias: bool = True) -> ir.Value:
        """Linear layer over the last axis of a tensor of any rank."""
        with self.scope(name):
            y = self.op("MatMul", x, self.op("Transpose", self.parameter("weight"), perm=[1, 0]))
            return self.op("Add", self.parameter("bias"), y) if bias else y

    def vector_linear(self, x: ir.Value, name: str) -> ir.Value:
        """Linear layer on [B, in], which torch's exporter writes as one Gemm."""
        with self.scope(name):
            return self.op("Gemm", x, self.parameter("weight"), self.parameter("bias"), transB=1)

    def silu(self, x: ir.Value) -> ir.Value:
        """X * sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def layer_norm(self, x: ir.Value, name: str, width: int, epsilon: float, affine: bool = True) -> ir.Value:
        """Layer normalization over the last axis, of size `width`, with or without weights."""
        with self.scope(name):
            scale = self.parameter("weight") if affine else self.constant(np.ones(width))
            bias = self.parameter("bias") if affine else self.constant(np.zeros(width))
            return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def rms_norm(self, x: ir.Value, name: str, epsilon: float) -> ir.Value:
        """Root-mean-square normalization over the last axis, computed in float32, times a weight."""
        with self.scope(name):
            wide = self.cast(x, ir.DataType.FLOAT)
            square = self.op("Pow", wide, self.constant(2.0, ir.DataType.FLOAT))
            mean = self.op("ReduceMean", square, self.constant([-1]), keepdims=1)
            root = self.op("Sqrt", self.op("Add", mean, self.constant(epsilon, ir.DataType.FLOAT)))
            normed = self.cast(self.op("Div", wide, root), self.dtype)
            return self.op("Mul", normed, self.parameter("weight"))

    def split_heads(self, x: ir.Value, heads: int) -> ir.Value:
        """[B, L, heads * D] -> [B, L, heads, D]."""
        return self.reshape(x, 0, 0, heads, -1)

    def attention(
        self, query: ir.Value, key: ir.Value, value: ir.Value, scale: float, bias: ir.Value | None = None
    ) -> ir.Value:
        """Attention over queries, keys and values [B, L, H, D] -> [B, L, H * D].

        As in the published files, a square root of the scale is multiplied into queries and into keys: both
        are then in a good range for quantizing. `bias` [1, H, L, L] or [L, L] is added to the scores.
        """
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        key = self.op("Transpose", key, perm=[0, 2, 3, 1])
        value = self.op("Transpose", value, perm=[0, 2, 1, 3])
        if scale != 1:
            of_query, of_key = factors(scale, self.dtype)
            query = self.op("Mul", query, self.constant(of_query))
            key = self.op("Mul", key, self.constant(of_key))
        scores = self.attention_product(query, key, ("q", "k"))
        if bias is not None:
            scores = self.op("Add", scores, bias)
        mixed = self.attention_product(self.op("Softmax", scores, axis=-1), value, ("softmax", "v"))
        return self.reshape(self.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, -1)

    def attention_product(self, a: ir.Value, b: ir.Value, names: tuple[str, str]) -> ir.Value:
        """One of the two products of an attention; the names are for builders that quantize its operands."""
        return self.op("MatMul", a, b)

    def model(self, config: "DataclassInstance") -> ir.Model:
        """The finished graph as a model, whose metadata tell the configuration of the network."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": self._opset} | {node.domain: 1 for node in self._nodes if node.domain},
            name="main_graph",
        )
        return ir.Model(
            graph,
            ir_version=_OPSET_IR_VERSIONS[self._opset],
            producer_name="openkontext",
            producer_version=__version__,
            metadata_props={CONFIG_KEY: json.dumps(dataclasses.asdict(config))},
        )

    def _in_module(self, name: str) -> str:
        """The full name of something in the current module."""
        return f"{self._module}.{name}" if self._module else name

    def _add(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], count: int
    ) -> Sequence[ir.Value]:
        domain, _, op_type = op_type.rpartition("::")
        name = "/" + _MODULE_SEPARATOR.sub("/", self._in_module(op_type))
        used = self._used_names[name]
        self._used_names[name] += 1
        if used:
            name = f"{name}_{used}"
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=count, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_output_{index}"
        self._nodes.append(node)
        return node.outputs


def factors(product: float, dtype: ir.DataType) -> tuple[float, float]:
    """Two numbers near the root of `product` that multiply to it, though each is rounded to `dtype`.

    bfloat16 rounds by up to 0.2%, and the same root twice by up to 0.4%, which would sharpen or flatten every
    attention of a model. Among the values around the root, some pair is some hundred times closer.
    """
    around = np.sqrt(product) * (1 + np.arange(-64, 65) / 1024)
    first = around.astype(dtype.numpy()).astype(np.float64)
    second = (product / first).astype(dtype.numpy()).astype(np.float64)
    best = np.argmin(np.abs(first * second / product - 1))
    return float(first[best]), float(second[best])
