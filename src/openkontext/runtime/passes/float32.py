"""Compute in float32 what a graph computes in a 16-bit type."""

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "precision", "softmax_precision", "stash_type"})
"""Integer attributes of ONNX operators that name an element type."""

_WITHOUT_VALUES = frozenset({"Constant", "Shape", "Size"})
"""Operators whose output no rounding can change."""


class ComputeInFloat32(ir.passes.InPlacePass):
    """Replace 16-bit floating-point arithmetic by float32, keeping the 16-bit weights where they are.

    A weight keeps its type and its place in the data file and is cast where the graph begins, so that it can
    stay mapped. Inputs and outputs of the graph become float32.

    Every rounding to 16 bits is dropped but one kind: of what the angle of a sine or cosine is computed from.
    The timestep embedding takes sin(1000 t); bfloat16 rounds 1000 t to a multiple of 4, which turns the angle
    by up to two radians. Whoever runs the graph in its own type gets the turned angle, so we give it too.

    Graphs must know the element type of every value (`onnx.shape_inference`) and hold no functions.

    Args:
        types: the 16-bit types to replace.
    """

    def __init__(self, types: Collection[ir.DataType]) -> None:
        super().__init__()
        self.types = frozenset(types)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        rounded = [(value, value.dtype) for value in _angles(model.graph) if value.dtype in self.types]
        modified = False
        for graph in list(model.graphs()):
            modified |= self._widen(graph)
        for value, dtype in rounded:
            _insert_casts(value, [dtype, ir.DataType.FLOAT])
        return ir.passes.PassResult(model, modified)

    def _widen(self, graph: ir.Graph) -> bool:
        modified = False
        for node in graph:
            modified |= widen_attributes(node, self.types)
            modified |= self._widen_values(node.outputs)
        modified |= self._widen_values(value for value in graph.inputs if not value.is_initializer())
        weights = [value for value in graph.initializers.values() if value.dtype in self.types]
        for weight in (each for each in weights if each.uses()):  # a Cast that nothing reads would run, too
            _insert_casts(weight, [ir.DataType.FLOAT])
            modified = True
        return modified

    def _widen_values(self, values: Iterable[ir.Value]) -> bool:
        narrow = [value for value in values if value.dtype in self.types]
        for value in narrow:
            value.dtype = ir.DataType.FLOAT
        return bool(narrow)


def widen_attributes(node: ir.Node, types: Collection[ir.DataType]) -> bool:
    """Give a node float32 where its attributes hold or name one of some types; says whether any did."""
    modified = False
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in types:
            tensor = ir.tensor(attribute.value.numpy().astype(np.float32), name=attribute.value.name)
            node.attributes[name] = ir.AttrTensor(name, tensor)
        elif attribute.type == ir.AttributeType.INT and name in _TYPE_ATTRIBUTES and attribute.value in types:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
        else:
            continue
        modified = True
    return modified


def _angles(graph: ir.Graph) -> list[ir.Value]:
    """Values that the angle of any sine or cosine is computed from, constants left out."""
    pending = [node.inputs[0] for node in graph.all_nodes() if node.op_type in ("Sin", "Cos")]
    found: dict[ir.Value, None] = {}
    while pending:
        value = pending.pop()
        if value is None or value in found or value.is_initializer():
            continue
        producer = value.producer()
        if producer is None or producer.op_type not in _WITHOUT_VALUES:
            found[value] = None
            pending.extend(producer.inputs if producer else ())
    return list(found)


def _insert_casts(value: ir.Value, dtypes: list[ir.DataType]) -> None:
    """Have all users of a value take it through Casts to some types, one after the other."""
    users = list(value.uses())
    casts: list[ir.Node] = []
    last = value
    for dtype in dtypes:
        casts.append(ir.node("Cast", [last], {"to": int(dtype)}))
        last = casts[-1].outputs[0]
        last.name = f"{value.name}/{dtype.name.lower()}"
        last.dtype, last.shape = dtype, value.shape
    for user in users:
        user.node.replace_input_with(user.idx, last)
    graph, producer = value.graph, value.producer()
    assert graph is not None
    if producer is None:
        graph.insert_before(graph[0], casts)
    else:
        graph.insert_after(producer, casts)
