"""FP8 as TensorRT's own operators write it -> ONNX's QuantizeLinear and DequantizeLinear."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from openkontext.runtime.passes.nodes import (
    FP8_TYPES,
    Builder,
    int64s,
    is_stored,
    not_understood,
    retyped,
)

_FP8 = ir.DataType.FLOAT8E4M3FN
_FLOAT = ir.DataType.FLOAT


class StandardFp8(ir.passes.InPlacePass):
    """Replace `trt::TRT_FP8QuantizeLinear` and `trt::TRT_FP8DequantizeLinear` by the standard operators.

    The graph types the quantized value UINT8; it is FLOAT8E4M3FN from here on, and so is a weight that is
    stored as such bytes. Scaling happens in float32, whose rounding is far below that of E4M3. Both
    operators saturate at 448.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [
            node
            for node in model.graph.all_nodes()
            if node.domain == "trt" and node.op_type in ("TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear")
        ]
        version = model.opset_imports.get("", 0)
        for node in found:
            if version < 19:
                not_understood(node, f"a graph of opset 19 or later, which knows FP8, not {version}")
            if len(node.inputs) != 2 or None in node.inputs:
                not_understood(node, "two inputs, a tensor and its scale")
            if unknown := [name for name in node.attributes if name != "axis"]:
                not_understood(node, f"no attribute '{unknown[0]}'")
            (_quantize if node.op_type == "TRT_FP8QuantizeLinear" else _dequantize)(node)
        return ir.passes.PassResult(model, bool(found))


class StoredFp8(ir.passes.InPlacePass):
    """Replace `DequantizeLinear` of stored FP8 weights with one scale by a Cast and a product.

    ONNX Runtime would put another pair of quantizers behind a transposition that follows it, which costs more
    than the layer.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [node for node in model.graph.all_nodes() if _is_plain_weight(node)]
        for node in found:
            x, scale = node.inputs[:2]
            assert x is not None
            assert scale is not None
            asked = node.attributes.get_int("output_dtype", 0)
            dtype = ir.DataType(asked or scale.dtype or _FLOAT)
            build = Builder()
            step = build("Reshape", [build.cast(scale, _FLOAT), build.constant(int64s())], _FLOAT)
            value = build("Mul", [build("Cast", [x], _FLOAT, to=int(_FLOAT)), step], _FLOAT)
            build.replace(node, [build.cast(value, dtype)])
        return ir.passes.PassResult(model, bool(found))


def _is_plain_weight(node: ir.Node) -> bool:
    """Whether a node dequantizes a stored FP8 tensor by one scale, its zero point 0 as FP8's always is."""
    if node.domain or node.op_type != "DequantizeLinear" or not is_stored(node.inputs[0]):
        return False
    x, scale = node.inputs[:2]
    while scale is not None and (cast := scale.producer()) is not None and cast.op_type == "Cast":
        scale = cast.inputs[0]
    tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
    return x is not None and x.dtype in FP8_TYPES and tensor is not None and tensor.size == 1


def _quantize(node: ir.Node) -> None:
    x, scale = node.inputs
    assert x is not None
    assert scale is not None
    tensor = ir.convenience.get_const_tensor(scale)
    if tensor is None:
        not_understood(node, "a constant scale")
    build = Builder()
    zero = build.constant(
        np.zeros(tensor.shape.numpy(), ml_dtypes.float8_e4m3fn)
    )  # says the type; same shape as scale
    inputs = [build.cast(x, _FLOAT), build.cast(scale, _FLOAT), zero]
    build.replace(node, [build("QuantizeLinear", inputs, _FP8, **_axis(node))])


def _dequantize(node: ir.Node) -> None:
    x, scale = node.inputs
    assert x is not None
    assert scale is not None
    if x.dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        if ir.convenience.get_const_tensor(x) is None:
            not_understood(node, f"FP8 from a quantizer or a weight, not {x.dtype.name} from elsewhere")
        x = retyped(x, _FP8)
    elif x.dtype != _FP8:
        not_understood(node, f"a quantized tensor, not {x.dtype.name if x.dtype else 'one of unknown type'}")
    dtype = node.outputs[0].dtype or scale.dtype or _FLOAT
    build = Builder()
    value = build("DequantizeLinear", [x, build.cast(scale, _FLOAT)], _FLOAT, **_axis(node))
    build.replace(node, [build.cast(value, dtype)])


def _axis(node: ir.Node) -> dict[str, Any]:
    return {"axis": node.attributes["axis"].as_int()} if "axis" in node.attributes else {}
