"""Linear layers by products of 8-bit integers: activations rounded per token, weights per output channel.

    x      ~ (u - 128) * row,  u = round(x / row) + 128,  row = max|x| / 127 of each token
    weight ~ code * column,    column = max|weight| / levels of each output channel
    y      = (sum over the width of (u - 128) * code) * column * row

The rounding of activations is the same for all layers that share an input, and is computed once.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from openkontext.runtime.passes.layers import before_dynamic_rounding, stored_shape
from openkontext.runtime.passes.nodes import Builder, int64s, is_stored, past_casts

_FLOAT = ir.DataType.FLOAT
_UINT8 = ir.DataType.UINT8
_LEVELS = 127  # of activations to each side of 0
_ZERO = 128  # what stands for 0 among unsigned bytes
_SMALLEST = 1e-30  # a token of zeros is divided by this

_MIN_SIDE = 16
"""Width below which a product is not worth rounding for."""

_KEPT = re.compile(r"time_text_embed|x_embedder|context_embedder|norm_out|^(?!.*blocks).*proj_out")
"""In the names of layers that stay as they are: what steers all blocks, and what is first and last."""


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """A product that can be computed by integers, in the words of the graph."""

    node: ir.Node
    """A MatMul or a Gemm."""
    weight: ir.Value
    """What it multiplies by, stored: [in, out], or [out, in] with `by_row`."""
    by_row: bool
    shape: tuple[int, int]
    """Of the weight: in, out."""
    branch: "Branch | None"
    """Of SVDQuant, whose product with the same input is added to it."""
    smoothing: ir.Value | None
    """Stored factors [in] that the input is multiplied by before."""

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the values that its weight is made of."""
        values = [self.weight]
        if self.branch is not None:
            values += [self.branch.down, self.branch.up]
        if self.smoothing is not None:
            values.append(self.smoothing)
        return tuple(value.name or "" for value in values)

    @property
    def ready(self) -> "tuple[ir.TensorProtocol, ir.TensorProtocol] | None":
        """Codes and steps where a data file has the weight as integers of 8 bits [in, out]; else None."""
        node = self.weight.producer()
        while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) != 2 or self.by_row:
            return None
        if node.attributes.get_int("axis", 1) not in (1, -1) or self.branch or self.smoothing:
            return None
        found = [ir.convenience.get_const_tensor(value) for value in node.inputs if value is not None]
        if [tensor and tensor.dtype for tensor in found] != [ir.DataType.INT8, _FLOAT]:
            return None
        codes, steps = found
        if not isinstance(codes, ir.ExternalTensor) or not isinstance(steps, ir.ExternalTensor):
            return None
        if tuple(codes.shape.numpy()) != self.shape or tuple(steps.shape.numpy()) != self.shape[1:]:
            return None
        return _copy(codes), _copy(steps)


@dataclass(frozen=True, eq=False)
class Branch:
    """Two thin products of a layer's input, which are added to what the layer gives."""

    add: ir.Node
    output: ir.Value
    """Of the second product."""
    down: ir.Value
    """[in, rank]."""
    up: ir.Value
    """[rank, out]."""


Codes = Callable[[Sequence[Int8Layer]], Sequence[tuple[ir.TensorProtocol, ir.TensorProtocol]]]
"""Gives of each layer the codes of its weight, int8 [in, out], and their steps, float32 [out]."""


class Int8Layers(ir.passes.InPlacePass):
    """Replace products with stored weights by integer products, in a graph for the CPU.

    What the published recipe leaves in 16 bits stays as it is, but for the layer that closes each
    single-stream block. Casts to float32 that a layer's input goes through must be all it goes through.

    Args:
        codes: makes the weights.
    """

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.codes = codes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph; layers of subgraphs stay as they are."""
        layers = list(int8_layers(model.graph))
        if not layers:
            return ir.passes.PassResult(model, modified=False)
        model.opset_imports.setdefault("com.microsoft", 1)
        rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for number, (layer, tensors) in enumerate(zip(layers, self.codes(layers), strict=True)):
            codes, steps = (
                _initializer(model.graph, f"int8/{number}/{name}", tensor)
                for name, tensor in zip(("codes", "steps"), tensors, strict=True)
            )
            x = _given(layer.node)  # not before: layers before this one have been replaced
            if layer.smoothing is not None:
                x = past_casts(_other(x.producer(), layer.smoothing))
            if x not in rounded:
                rounded[x] = _round(layer.node, x)
            _multiply(layer, *rounded[x], codes, steps)
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


def int8_layers(graph: ir.Graph) -> Iterator[Int8Layer]:
    """The products of a graph that can be computed by integers, each of its own weight or of a shared one."""
    branches = dict(_branches(graph))
    thin = {branch.output.producer() for branch in branches.values()}
    thin |= {node.inputs[0].producer() for node in thin if node is not None and node.inputs[0] is not None}
    for node in graph:
        if node in thin or not _is_product(node) or _is_kept(node):
            continue
        weight = node.inputs[1]
        assert weight is not None
        sides = stored_shape(weight)
        assert sides is not None
        by_row = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        into, out = sides[::-1] if by_row else sides
        smoothing = _smoothing(_given(node), into)
        yield Int8Layer(node, weight, by_row, (into, out), branches.get(node), smoothing)


def _branches(graph: ir.Graph) -> Iterator[tuple[ir.Node, Branch]]:
    """SVDQuant's products of low rank, each by the product of the same input that it is added to."""
    for second in graph:
        first = second.inputs[0].producer() if _is_product(second, 1) and second.inputs[0] else None
        if first is None or not _is_product(first, 1) or len(list(first.outputs[0].uses())) != 1:
            continue
        uses = list(second.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add" or second.outputs[0].is_graph_output():
            continue
        add, x = uses[0].node, past_casts(first.inputs[0])
        main = _main_product(add.inputs[1 - uses[0].idx])
        if main is None or main is second or past_casts(main.inputs[0]) is not x:
            continue
        down, up = first.inputs[1], second.inputs[1]
        assert down is not None
        assert up is not None
        yield main, Branch(add, second.outputs[0], down, up)


def _main_product(value: ir.Value | None) -> ir.Node | None:
    """The product that a value is, through Casts and stored vectors that are added to it."""
    while value is not None and (node := value.producer()) is not None:
        if _is_product(node):
            return node
        if len(list(value.uses())) != 1 or node.op_type not in ("Add", "Cast") or node.domain:
            return None
        rest = [each for each in node.inputs if not is_stored(each)]
        if len(rest) != 1:
            return None
        value = rest[0]
    return None


def _is_product(node: ir.Node, min_side: int = _MIN_SIDE) -> bool:
    """Whether a node multiplies what a caller feeds by a stored matrix, and does nothing else but add."""
    if node.domain or node.op_type not in ("MatMul", "Gemm") or not is_stored(node.inputs[1]):
        return False
    x, weight = node.inputs[:2]
    if weight is None or x is None or is_stored(x):
        return False
    sides = stored_shape(weight)
    if sides is None or len(sides) != 2 or min(sides) < min_side:
        return False
    return node.op_type == "MatMul" or (
        not node.attributes.get_int("transA", 0)
        and all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    )


def _is_kept(node: ir.Node) -> bool:
    """Whether a layer stays as it is: by its name, its weight's, or because it reads what a caller feeds."""
    if _given(node).is_graph_input():
        return True
    return any(_KEPT.search(name) for name in _names(node))


def _smoothing(value: ir.Value, width: int) -> ir.Value | None:
    """Stored factors that a value is the product with, one for each of its channels."""
    node = value.producer()
    if node is None or node.domain or node.op_type != "Mul":
        return None
    stored = [each for each in node.inputs if is_stored(each)]
    if len(stored) != 1 or stored[0] is None or math.prod(stored_shape(stored[0]) or (0,)) != width:
        return None
    return stored[0]


def _other(node: ir.Node | None, value: ir.Value) -> ir.Value:
    """What a node of two inputs takes beside one of them."""
    assert node is not None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    assert other is not None
    return other


def _names(node: ir.Node) -> Iterator[str]:
    """What the name of a node and those of the initializers behind its weight say, a dot before each."""
    yield f".{(node.name or '').strip('/')}"
    pending = [node.inputs[1]]
    while pending:
        value = pending.pop()
        if value is not None and value.is_initializer():
            yield f".{value.name}"
        elif value is not None and (producer := value.producer()) is not None:
            pending.extend(producer.inputs)


def _given(node: ir.Node) -> ir.Value:
    """What a product is given, before a file's own rounding to integers and past Casts."""
    return past_casts(before_dynamic_rounding(past_casts(node.inputs[0])))


def _copy(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """The same bytes of a data file, under a name to be given."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        tensor.location, tensor.offset, tensor.length, tensor.dtype, shape=shape, name=""
    )


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    tensor.name = name
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _round(node: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The codes of what a node is given, and the largest magnitude of each of its tokens."""
    graph = node.graph
    assert graph is not None
    build = Builder()
    x = build.cast(x, _FLOAT)
    # Not ReduceMax of Abs: magnitudes would be a second copy of the largest activations of all.
    last = build.constant(int64s(-1))
    most, least = (build(name, [x, last], _FLOAT, keepdims=1) for name in ("ReduceMax", "ReduceMin"))
    sizes = build("Max", [most, build("Neg", [least], _FLOAT), build.constant(_SMALLEST)], _FLOAT)
    codes = build("QuantizeLinear", [build("Div", [x, sizes], _FLOAT), *_grid(build, graph)], _UINT8)
    graph.insert_before(node, build.nodes)
    return codes, sizes


def _multiply(layer: Int8Layer, codes: ir.Value, sizes: ir.Value, weight: ir.Value, steps: ir.Value) -> None:
    """Put the product of integers in a layer's place, and take its branch away."""
    node = layer.node
    dtype = node.outputs[0].dtype or _FLOAT
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert node.graph is not None
    build = Builder()
    step, zero = _grid(build, node.graph)
    y = build("MatMulIntegerToFloat", [codes, weight, step, steps, zero], _FLOAT, domain="com.microsoft")
    y = build("Mul", [y, sizes], _FLOAT)
    if bias is not None:
        y = build("Add", [y, build.cast(bias, _FLOAT)], _FLOAT)
    build.replace(node, [build.cast(y, dtype)])
    if layer.branch is not None:
        Builder().replace(layer.branch.add, [_other(layer.branch.add, layer.branch.output)])


def _grid(build: Builder, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Step and zero point of the codes of activations that are 1 at most."""
    step = build.shared(graph, "int8/step", np.array(1 / _LEVELS, np.float32))
    return step, build.shared(graph, "int8/zero", np.array(_ZERO, np.uint8))
