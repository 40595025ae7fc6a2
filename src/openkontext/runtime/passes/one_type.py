"""Operators whose inputs must be of one type, and are not -> the same with Casts."""

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from openkontext.runtime.passes.nodes import Builder
from openkontext.runtime.providers import HALF_TYPES

_FLOAT = ir.DataType.FLOAT
_HALF = frozenset(ir.DataType(dtype) for dtype in HALF_TYPES)


class OneType(ir.passes.InPlacePass):
    """Bring float32 inputs to the 16-bit type of the inputs beside them, where ONNX asks for one type.

    TensorRT's tools leave what they quantize in float32 and use it beside bfloat16; TensorRT takes that, ONNX
    Runtime does not. Types of outputs follow.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph, whose nodes must be sorted; nodes of subgraphs are left as they are."""
        modified = False
        version = model.opset_imports.get("", 1)
        for node in list(model.graph):
            if node.domain or not onnx.defs.has(node.op_type, version, ""):
                continue
            schema = onnx.defs.get_schema(node.op_type, version, "")
            groups: dict[str, list[int]] = {}
            for index in range(len(node.inputs)):
                groups.setdefault(_formal(schema.inputs, index), []).append(index)
            for name, indexes in groups.items():
                modified |= _agree(node, name, indexes, schema)
        return ir.passes.PassResult(model, modified)


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type variable of an input or output; the last parameter may stand for many."""
    return parameters[min(index, len(parameters) - 1)].type_str if parameters else ""


def _agree(node: ir.Node, variable: str, indexes: list[int], schema: onnx.defs.OpSchema) -> bool:
    types = {value.dtype for index in indexes if (value := node.inputs[index]) is not None}
    halves = types & _HALF
    if len(halves) != 1:
        return False
    (dtype,) = halves
    assert dtype is not None
    build = Builder()
    for index in indexes:
        value = node.inputs[index]
        if value is not None and value.dtype == _FLOAT:
            node.replace_input_with(index, build.cast(value, dtype))
    assert node.graph is not None
    node.graph.insert_before(node, build.nodes)
    for position, output in enumerate(node.outputs):
        if _formal(schema.outputs, position) == variable and output.dtype == _FLOAT:
            output.dtype = dtype
    return bool(build.nodes)
