"""Activations quantized to NVFP4 on the way -> the same rounding in operators every provider has."""

import onnx_ir as ir

from openkontext.runtime.passes.nodes import Builder, int64s, not_understood
from openkontext.runtime.passes.rounding import rounded, sign

_FLOAT = ir.DataType.FLOAT
_FP8 = ir.DataType.FLOAT8E4M3FN


class Fp4Activations(ir.passes.InPlacePass):
    """Replace `trt::TRT_FP4DynamicQuantize` and the `DequantizeLinear` of its values.

    With s the scale of the whole tensor, a block of values has the scale b = E4M3(amax / 6 / s), and its
    values are rounded to the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 (ties to the even code) after division by
    b s. The block scales stay FLOAT8E4M3FN, and the `DequantizeLinear` that reads them stays as it is; the
    rounded values are kept in float32.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [
            node
            for node in model.graph.all_nodes()
            if node.domain == "trt" and node.op_type == "TRT_FP4DynamicQuantize"
        ]
        for node in found:
            version = model.opset_imports.get("", 0)
            if version < 19:
                not_understood(node, f"a graph of opset 19 or later, which knows FP8, not {version}")
            _rewrite(node)
        return ir.passes.PassResult(model, bool(found))


def check_dynamic_quantizer(node: ir.Node) -> list[ir.Node]:
    """Check that a `TRT_FP4DynamicQuantize` is used as TensorRT's tools do.

    Returns:
        The nodes that dequantize its values.

    Raises:
        InputError: it is used in another way.
    """
    if len(node.inputs) != 2 or None in node.inputs or len(node.outputs) != 2:
        not_understood(
            node, "two inputs, a tensor and its scale, and two outputs, FP4 values and block scales"
        )
    x = node.inputs[0]
    assert x is not None
    return _readers(node, _block_size(node, x))


def _rewrite(node: ir.Node) -> None:
    readers = check_dynamic_quantizer(node)
    x, scale = node.inputs
    assert x is not None
    assert scale is not None
    block = _block_size(node, x)

    build = Builder()
    x, scale = build.cast(x, _FLOAT), build.cast(scale, _FLOAT)
    shape = build("Shape", [x], ir.DataType.INT64)
    rows = build("Shape", [x], ir.DataType.INT64, start=0, end=-1)
    split = build("Concat", [rows, build.constant(int64s(-1, block))], ir.DataType.INT64, axis=0)
    blocks = build("Reshape", [x, split], _FLOAT)  # fails where blocks do not fill the last axis
    sizes = build("Abs", [blocks], _FLOAT)
    largest = build("ReduceMax", [sizes, build.constant(int64s(-1))], _FLOAT, keepdims=0)
    sixth = build("Div", [largest, build.constant(6)], _FLOAT)
    block_scales = build("Cast", [build("Div", [sixth, scale], _FLOAT)], _FP8, to=int(_FP8))
    step = build("Mul", [build("Cast", [block_scales], _FLOAT, to=int(_FLOAT)), scale], _FLOAT)
    step = build("Max", [step, build.constant(1e-37)], _FLOAT)  # a block whose scale is 0 gives 0
    step = build("Unsqueeze", [step, build.constant(int64s(-1))], _FLOAT)
    scaled = build("Min", [build("Div", [sizes, step], _FLOAT), build.constant(6)], _FLOAT)
    values = rounded(build, scaled, bits=2, exponent=0)
    values = build("Mul", [values, sign(build, blocks, sizes)], _FLOAT)
    build.replace(node, [values, block_scales])

    for reader in readers:
        _dequantize(reader, shape)


def _block_size(node: ir.Node, x: ir.Value) -> int:
    axis = node.attributes.get_int("axis", -1)
    block = node.attributes.get_int("block_size", 16)
    scale_type = node.attributes.get_int("scale_type", int(_FP8))
    assert axis is not None
    assert block is not None
    if axis != -1 and (x.shape is None or axis != len(x.shape) - 1):
        not_understood(node, f"blocks along the last axis, not {axis}")
    if scale_type != _FP8:
        not_understood(node, f"block scales of type FLOAT8E4M3FN ({int(_FP8)}), not {scale_type}")
    width = x.shape[-1] if x.shape is not None and len(x.shape) else None
    if block <= 0 or (isinstance(width, int) and width % block):
        not_understood(node, f"a block size that divides the last axis ({width}), not {block}")
    return block


def _readers(node: ir.Node, block: int) -> list[ir.Node]:
    """The nodes that take the FP4 values, each checked to be their DequantizeLinear."""
    readers = [use.node for use in node.outputs[0].uses()]
    for reader in readers:
        if (
            reader.domain
            or reader.op_type != "DequantizeLinear"
            or len(reader.inputs) != 2
            or reader.inputs[1] is None
            or reader.attributes.get_int("block_size", 0) != block
        ):
            not_understood(
                reader, f"a DequantizeLinear of FP4 values with block size {block} and their scales"
            )
        axis = reader.attributes.get_int("axis", 1)
        x = node.inputs[0]
        if axis != -1 and (x is None or x.shape is None or axis != len(x.shape) - 1):
            not_understood(reader, f"blocks along the last axis, as '{node.name}' makes them, not {axis}")
    if node.outputs[0].is_graph_output():
        not_understood(node, "FP4 values to be used in the graph, not given out")
    return readers


def _dequantize(node: ir.Node, shape: ir.Value) -> None:
    values, scales = node.inputs
    assert values is not None
    assert scales is not None
    dtype = ir.DataType(node.attributes.get_int("output_dtype", 0) or scales.dtype or _FLOAT)
    build = Builder()
    scales = build("Unsqueeze", [build.cast(scales, _FLOAT), build.constant(int64s(-1))], _FLOAT)
    product = build("Mul", [values, scales], _FLOAT)
    build.replace(node, [build.cast(build("Reshape", [product, shape], _FLOAT), dtype)])
