"""Compute in float32 the few operators that a provider lacks in 16 bits, and all others as the graph says."""

from collections.abc import Collection

import onnx_ir as ir

from openkontext.runtime.passes.float32 import widen_attributes
from openkontext.runtime.passes.nodes import Builder
from openkontext.runtime.providers import HALF_TYPES, ProviderCase

_FLOAT = ir.DataType.FLOAT
_HALF = frozenset(ir.DataType(dtype) for dtype in HALF_TYPES)


class OperatorsInFloat32(ir.passes.InPlacePass):
    """Put Casts around the nodes whose operator and element types a provider does not compute in.

    Args:
        cases: such operators, with their types.
    """

    def __init__(self, cases: Collection[ProviderCase]) -> None:
        super().__init__()
        self.cases = frozenset(cases)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph; nodes of subgraphs are left as they are."""
        found = [node for node in model.graph if _case(node) in self.cases]
        for node in found:
            _wrap(node)
        return ir.passes.PassResult(model, bool(found))


def _case(node: ir.Node) -> ProviderCase:
    inputs, outputs = (
        tuple(-1 if value is None else int(value.dtype or 0) for value in values)
        for values in (node.inputs, node.outputs)
    )
    return ProviderCase(node.domain, node.op_type, inputs, outputs)


def _wrap(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    build = Builder()
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in _HALF:
            node.replace_input_with(index, build.cast(value, _FLOAT))
    graph.insert_before(node, build.nodes)
    widen_attributes(node, _HALF)
    for value in node.outputs:
        if value.dtype not in _HALF:
            continue
        dtype, name = value.dtype, value.name
        assert dtype is not None
        value.dtype, value.name = _FLOAT, f"{name}/float"
        narrow = ir.node("Cast", [value], {"to": int(dtype)})
        result = narrow.outputs[0]
        result.dtype, result.shape, result.name = dtype, value.shape, name
        users = [use for use in value.uses() if use.node is not narrow]
        for use in users:
            use.node.replace_input_with(use.idx, result)
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = result
        graph.insert_after(node, narrow)
