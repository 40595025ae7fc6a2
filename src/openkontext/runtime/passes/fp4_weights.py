"""Weights in NVFP4 -> the same bytes as UINT4 codes, looked up in a table and scaled block by block."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from openkontext.runtime.passes.quantised import Builder, int64s, not_understood, retyped

_FLOAT = ir.DataType.FLOAT
_FP4 = ir.DataType.FLOAT4E2M1

_E2M1 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
"""Value of each E2M1 code: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and the same with the sign bit set."""


class Fp4Weights(ir.passes.InPlacePass):
    """Replace `DequantizeLinear` of FLOAT4E2M1 weights by operators without that type.

    A weight keeps its place in the data file. Its block scales, which another `DequantizeLinear` makes from
    FLOAT8E4M3FN and a scale of the whole tensor, stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [
            node
            for node in model.graph.all_nodes()
            if any(value is not None and value.dtype == _FP4 for value in node.inputs)
        ]
        for node in found:
            _rewrite(node)
        return ir.passes.PassResult(model, bool(found))


def _rewrite(node: ir.Node) -> None:
    weight = node.inputs[0]
    if node.domain or node.op_type != "DequantizeLinear" or len(node.inputs) != 2 or weight is None:
        not_understood(node, "FP4 weights to go into a DequantizeLinear with a scale and no zero point")
    scale = node.inputs[1]
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None or scale is None:
        not_understood(node, "FP4 weights stored in the graph, with a scale")
    shape = list(tensor.shape.numpy())
    axis, block = (
        node.attributes.get_int(name, default) for name, default in (("axis", 1), ("block_size", 0))
    )
    assert axis is not None
    assert block is not None
    if not -len(shape) <= axis < len(shape):
        not_understood(node, f"an axis of {shape}, not {axis}")
    axis %= len(shape)
    if block <= 0 or shape[axis] % block:
        not_understood(node, f"a block size that divides {shape[axis]}, not {block}")
    blocks = [*shape[:axis], shape[axis] // block, *shape[axis + 1 :]]
    if scale.shape is not None and scale.shape.is_static() and list(scale.shape.numpy()) != blocks:
        not_understood(node, f"block scales of shape {blocks}, not {list(scale.shape.numpy())}")
    dtype = ir.DataType(node.attributes.get_int("output_dtype", 0) or scale.dtype or _FLOAT)

    build = Builder()
    codes = build.cast(retyped(weight, ir.DataType.UINT4), ir.DataType.INT32)
    values = build("Gather", [build.constant(_E2M1), codes], _FLOAT)
    split = [*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :]]
    values = build("Reshape", [values, build.constant(int64s(*split))], _FLOAT)
    scales = build("Unsqueeze", [build.cast(scale, _FLOAT), build.constant(int64s(axis + 1))], _FLOAT)
    values = build("Mul", [values, scales], _FLOAT)
    values = build("Reshape", [values, build.constant(int64s(*shape))], _FLOAT)
    build.replace(node, [build.cast(values, dtype)])
    if weight.is_initializer() and not weight.uses() and weight.graph is not None:
        weight.graph.initializers.pop(tensor.name or "", None)
