"""Graphs whose activations are quantized -> graphs that compute with the quantized weights alone."""

import onnx_ir as ir

from openkontext.runtime.passes.fp4_activations import check_dynamic_quantizer
from openkontext.runtime.passes.nodes import Builder, is_fp8_dequantizer, is_fp8_quantizer, is_stored


class WeightsOnly(ir.passes.InPlacePass):
    """Leave out the rounding of activations to FP8 and FP4, that of attention included.

    What TensorRT rounds to use its 8- and 4-bit units costs time anywhere else, and accuracy everywhere.
    Weights, which are stored rounded, keep their values.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        modified = False
        for node in list(model.graph.all_nodes()):
            is_fp4 = (node.domain, node.op_type) == ("trt", "TRT_FP4DynamicQuantize")
            if not (is_fp4 or is_fp8_quantizer(node)) or is_stored(node.inputs[0]):
                continue
            if is_fp4:
                readers = check_dynamic_quantizer(node)
            else:
                readers = [use.node for use in node.outputs[0].uses()]
                if node.outputs[0].is_graph_output() or not all(map(is_fp8_dequantizer, readers)):
                    continue  # its FP8 values go elsewhere too, so it has to stay
            for reader in readers:
                _pass_by(reader, node.inputs[0])
            modified = modified or bool(readers)
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _pass_by(dequantizer: ir.Node, x: ir.Value | None) -> None:
    """Put what was quantized in the place of what is dequantized, in the type of the latter."""
    assert x is not None
    scale = dequantizer.inputs[1]
    asked = dequantizer.attributes.get_int("output_dtype", 0)
    dtype = ir.DataType(asked) if asked else dequantizer.outputs[0].dtype or (scale.dtype if scale else None)
    build = Builder()
    build.replace(dequantizer, [build("Cast", [x], dtype, to=int(dtype)) if dtype else x])
