"""Weights in NVFP4 -> the same bytes as integers, which a table turns into values four at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from openkontext.runtime.passes.nodes import Builder, int64s, is_plain_gemm, not_understood, retyped

_FLOAT = ir.DataType.FLOAT
_FP4 = ir.DataType.FLOAT4E2M1
_UINT8 = ir.DataType.UINT8

_E2M1 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
"""Value of each E2M1 code: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and the same with the sign bit set."""

_FOUR = _E2M1[np.arange(1 << 16)[:, None] >> np.array([0, 4, 8, 12]) & 15]
"""Values [65536, 4] of the four codes in each number of 16 bits, as they lie in a file."""

_ZERO_POINT = 128
"""What `MatMulNBits` subtracts from a weight of 8 bits."""


class Fp4Weights(ir.passes.InPlacePass):
    """Replace `DequantizeLinear` of FLOAT4E2M1 weights by operators without that type.

    A weight keeps its place in the data file. Its block scales, which another `DequantizeLinear` makes from
    FLOAT8E4M3FN and a scale of the whole tensor, stay as they are.

    Args:
        kernel: hand linear layers to `com.microsoft.MatMulNBits` where their blocks lie as it takes them.
            Twice a value of E2M1 is a whole number, so its weights of 8 bits are these values exactly; it
            rounds the activations to 8 bits, each block of them with a scale of its own, or not at all.
        wide: have the kernel compute in float32, not in the type of the graph.
    """

    def __init__(self, *, kernel: bool = False, wide: bool = True) -> None:
        super().__init__()
        self.kernel = kernel
        self.wide = wide

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [
            node
            for node in model.graph.all_nodes()
            if any(value is not None and value.dtype == _FP4 for value in node.inputs)
        ]
        for node in found:
            weight = _check(node)
            layers = list(_layers(node.outputs[0], transposed=False)) if self.kernel else [None]
            if all(layer is not None and layer.takes(weight) for layer in layers):
                model.opset_imports.setdefault("com.microsoft", 1)
                for layer in layers:
                    assert layer is not None
                    _in_kernel(layer, weight, model.graph, self.wide)
            else:
                _looked_up(node, weight, model.graph)
        if found:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(found))


@dataclass(frozen=True)
class _Weight:
    """A tensor in NVFP4."""

    codes: ir.Value
    """Its FLOAT4E2M1 values, stored in the graph."""
    scale: ir.Value
    """The scales of its blocks."""
    shape: list[int]
    axis: int
    """Along which a block extends."""
    block: int
    """Values in a block."""
    dtype: ir.DataType
    """Type of the values after scaling."""


@dataclass(frozen=True)
class _Layer:
    """A node that multiplies by a weight, and how it takes the weight."""

    node: ir.Node
    transposed: bool
    """Whether it multiplies by the weight's transpose."""

    def takes(self, weight: _Weight) -> bool:
        """Whether MatMulNBits can stand in: its blocks, of a power of two, lie along what is summed over."""
        along = weight.axis == (1 if self.transposed else 0)
        return along and len(weight.shape) == 2 and weight.block in (16, 32, 64, 128, 256)


def _check(node: ir.Node) -> _Weight:
    codes = node.inputs[0]
    if node.domain or node.op_type != "DequantizeLinear" or len(node.inputs) != 2 or codes is None:
        not_understood(node, "FP4 weights to go into a DequantizeLinear with a scale and no zero point")
    scale = node.inputs[1]
    tensor = ir.convenience.get_const_tensor(codes)
    if tensor is None or scale is None:
        not_understood(node, "FP4 weights stored in the graph, with a scale")
    shape = [int(size) for size in tensor.shape.numpy()]
    axis, block = (
        node.attributes.get_int(name, default) for name, default in (("axis", 1), ("block_size", 0))
    )
    assert axis is not None
    assert block is not None
    if not -len(shape) <= axis < len(shape):
        not_understood(node, f"an axis of {shape}, not {axis}")
    axis %= len(shape)
    if block <= 0 or block % 4 or shape[axis] % block:
        not_understood(node, f"a block size that 4 divides and that divides {shape[axis]}, not {block}")
    blocks = [*shape[:axis], shape[axis] // block, *shape[axis + 1 :]]
    if scale.shape is not None and scale.shape.is_static() and list(scale.shape.numpy()) != blocks:
        not_understood(node, f"block scales of shape {blocks}, not {list(scale.shape.numpy())}")
    dtype = ir.DataType(node.attributes.get_int("output_dtype", 0) or scale.dtype or _FLOAT)
    return _Weight(codes, scale, shape, axis, block, dtype)


def _looked_up(node: ir.Node, weight: _Weight, graph: ir.Graph) -> None:
    shape, axis = weight.shape, weight.axis
    build = Builder()
    table = build.shared(graph, "e2m1_values", _FOUR)
    split = [*shape[:axis], shape[axis] // weight.block, weight.block, *shape[axis + 1 :]]
    values = build("Reshape", [_gather(build, table, weight), build.constant(int64s(*split))], _FLOAT)
    scales = build("Unsqueeze", [build.cast(weight.scale, _FLOAT), build.constant(int64s(axis + 1))], _FLOAT)
    values = build("Mul", [values, scales], _FLOAT)
    values = build("Reshape", [values, build.constant(int64s(*shape))], _FLOAT)
    build.replace(node, [build.cast(values, weight.dtype)])


def _in_kernel(layer: _Layer, weight: _Weight, graph: ir.Graph, wide: bool) -> None:
    node = layer.node
    x, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    dtype = node.outputs[0].dtype or x.dtype or weight.dtype
    kind = _FLOAT if wide else dtype
    rows, columns = weight.shape if layer.transposed else weight.shape[::-1]
    build = Builder()
    table = build.shared(graph, "e2m1_bytes", (2 * _FOUR + _ZERO_POINT).astype(np.uint8))
    codes = _gather(build, table, weight)
    scales = build("Mul", [build.cast(weight.scale, _FLOAT), build.constant(0.5)], _FLOAT)
    if not layer.transposed:  # the kernel wants the columns of the weight one after the other
        codes = build("Reshape", [codes, build.constant(int64s(*weight.shape))], _UINT8)
        codes = build("Transpose", [codes], _UINT8, perm=[1, 0])
        scales = build("Transpose", [scales], _FLOAT, perm=[1, 0])
    codes = build(
        "Reshape", [codes, build.constant(int64s(rows, columns // weight.block, weight.block))], _UINT8
    )
    scales = build("Reshape", [scales, build.constant(int64s(-1))], _FLOAT)
    result = build(
        "MatMulNBits",
        [build.cast(x, kind), codes, build.cast(scales, kind)],
        kind,
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=8,
        block_size=weight.block,
        accuracy_level=4,
    )
    if bias is not None:
        result = build("Add", [result, build.cast(bias, kind)], kind)
    build.replace(node, [build.cast(result, dtype)])


def _gather(build: Builder, table: ir.Value, weight: _Weight) -> ir.Value:
    """What a table says of a weight's codes, as [count / 4, 4]."""
    count = int(np.prod(weight.shape))
    fours = retyped(weight.codes, ir.DataType.UINT16, [count // 4])
    assert table.dtype is not None
    return build("Gather", [table, build.cast(fours, ir.DataType.INT32)], table.dtype)


def _layers(value: ir.Value, *, transposed: bool) -> Iterator[_Layer | None]:
    """What takes a weight, through Casts and transpositions; None stands for anything but a plain product."""
    if value.is_graph_output():
        yield None
    for use in value.uses():
        node = use.node
        operator = "" if node.domain else node.op_type
        if operator == "Cast":
            yield from _layers(node.outputs[0], transposed=transposed)
        elif operator == "Transpose" and list(node.attributes.get_ints("perm", [1, 0]) or ()) == [1, 0]:
            yield from _layers(node.outputs[0], transposed=not transposed)
        elif operator == "MatMul" and use.idx == 1:
            yield _Layer(node, transposed)
        elif operator == "Gemm" and use.idx == 1 and is_plain_gemm(node):
            yield _Layer(node, transposed != bool(node.attributes.get_int("transB", 0)))
        else:
            yield None
