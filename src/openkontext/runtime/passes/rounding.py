"""Rounding to small floats in float32: what FP8's and FP4's operators compute, by quick operators."""

import onnx_ir as ir

from openkontext.runtime.passes.nodes import Builder, is_fp8_dequantizer, is_fp8_quantizer, is_stored, scalar

_FLOAT = ir.DataType.FLOAT
_FLOAT_BITS = 24  # of a float32's significand
_E4M3_MAX = 448.0
_SMALLEST = 1e-37  # near float32's smallest normal number


class RoundedFp8(ir.passes.InPlacePass):
    """Replace QuantizeLinear to FLOAT8E4M3FN and the DequantizeLinear behind it, of activations.

    ONNX Runtime converts to FP8 and back value by value, which takes half of the time of a small model. The
    result is the same to the bit; it takes some float32 copies of the activations for one of a byte a value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [node for node in model.graph.all_nodes() if is_fp8_quantizer(node) and _is_a_rounding(node)]
        for node in found:
            _round(node)
        return ir.passes.PassResult(model, bool(found))


def rounded(build: Builder, sizes: ir.Value, bits: int, exponent: int) -> ir.Value:
    """Round numbers from 0 on to the nearest float of few bits, ties to even; overflow is the caller's.

    With s = 24 - bits and g = (2^s + 1) max(x, 2^exponent), the result is g + (x - g), each operation rounded
    to float32: Veltkamp's splitting (Dekker, "A floating-point technique for extending the available
    precision", 1971), with the steps below the smallest normal number as wide as those above it.

    Args:
        build: takes the nodes.
        sizes: float32, 0 or more.
        bits: of the significand, the leading one included.
        exponent: of the smallest normal number.
    """
    factor = build.constant(2.0 ** (_FLOAT_BITS - bits) + 1)
    normal = build("Max", [sizes, build.constant(2.0**exponent)], _FLOAT)
    large = build("Mul", [normal, factor], _FLOAT)
    return build("Add", [large, build("Sub", [sizes, large], _FLOAT)], _FLOAT)


def sign(build: Builder, x: ir.Value, sizes: ir.Value) -> ir.Value:
    """The signs of numbers with these magnitudes; ONNX Runtime's own operator takes several times as long."""
    return build("Div", [x, build("Max", [sizes, build.constant(_SMALLEST)], _FLOAT)], _FLOAT)


def _is_a_rounding(node: ir.Node) -> bool:
    """Whether a quantizer rounds float32 activations with one scale, and nobody sees the codes."""
    x, codes = node.inputs[0], node.outputs[0]
    scale = scalar(node.inputs[1])
    return (
        not node.domain
        and x is not None
        and x.dtype == _FLOAT
        and not is_stored(x)
        and codes.dtype == ir.DataType.FLOAT8E4M3FN
        and not codes.is_graph_output()
        and scale is not None
        and all(
            is_fp8_dequantizer(use.node)
            and use.node.outputs[0].dtype == _FLOAT
            and scalar(use.node.inputs[1]) == scale
            for use in codes.uses()
        )
    )


def _round(node: ir.Node) -> None:
    x, scale = node.inputs[0], scalar(node.inputs[1])
    assert x is not None
    assert scale is not None
    for reader in [use.node for use in node.outputs[0].uses()]:
        build = Builder()
        step = build.constant(scale)
        scaled = build("Div", [x, step], _FLOAT)
        sizes = build("Abs", [scaled], _FLOAT)
        value = rounded(build, build("Min", [sizes, build.constant(_E4M3_MAX)], _FLOAT), bits=4, exponent=-6)
        signed = build("Mul", [value, sign(build, scaled, sizes)], _FLOAT)
        build.replace(reader, [build("Mul", [signed, step], _FLOAT)])
    assert node.graph is not None
    node.graph.remove(node, safe=True)
