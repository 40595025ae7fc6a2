"""The linear layers of a graph, found by their names in the model, whatever is quantized around them.

torch's exporters name a node after its module, `/transformer_blocks.0/attn/to_q/MatMul`, or a weight after
its parameter. Tools that optimize a graph keep one of the two.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from openkontext.runtime.passes.nodes import is_plain_gemm

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types of numbers that are not quantized."""

_QUANTIZERS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "TRT_FP8QuantizeLinear",
        "TRT_FP8DequantizeLinear",
        "TRT_FP4DynamicQuantize",
    }
)
_VECTORS: Mapping[str, Sequence[tuple[int, str]]] = {
    "Mul": ((0, "weight"), (1, "weight")),
    "Add": ((0, "bias"), (1, "bias")),
    "LayerNormalization": ((1, "weight"), (2, "bias")),
    "RMSNormalization": ((1, "weight"),),
}
"""Operator -> where it takes a parameter with one axis, and what that is called."""

_PARAMETER = re.compile(r"\.(?:weight|bias|input_quantizer|weight_quantizer)(?:[._].*)?$")
_BLOCKS: Mapping[str, re.Pattern[str]] = {
    "transformer": re.compile(
        r"(?:^|\.)((?:single_)?transformer_blocks\.\d+\..+|x_embedder|context_embedder|norm_out\.linear|proj_out"
        r"|time_text_embed\.(?:timestep|guidance|text)_embedder\.linear_[12])$"
    ),
    "clip": re.compile(r"(?:^|\.)(encoder\.layers\.\d+\..+)$"),
    "t5": re.compile(r"(?:^|\.)(encoder\.block\.\d+\..+)$"),
    "vae": re.compile(r"(?:^|\.)(decoder\.(?:conv_\w+|(?:mid_block|up_blocks\.\d+)\..+))$"),
    "vae_encoder": re.compile(r"(?:^|\.)(encoder\.(?:conv_\w+|(?:mid_block|down_blocks\.\d+)\..+))$"),
}
"""Role of a graph -> the part of a dotted name that is the layer's in diffusers' and transformers' words."""


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """One linear layer of a graph: `y = x @ weight + bias`."""

    name: str
    """In diffusers' or transformers' words."""
    x: ir.Value
    """What comes in, before it is smoothed or quantized."""
    y: ir.Value
    """What goes out, with the bias and what a branch of SVDQuant adds."""
    weight: ir.Value
    """As the product takes it, dequantized."""
    by_row: bool
    """Whether that is [out, in]; else [in, out]."""
    shape: tuple[int, int]
    """Of the model's weight: out, in."""
    bias: ir.Value | None
    smoothing: ir.Value | None
    """Factors [in] that the input is multiplied by before the product."""
    branch: tuple[ir.Node, ir.Node] | None
    """SVDQuant's two products in 16 bits, of the smoothed input."""


def canonical(name: str, role: str) -> str | None:
    """A dotted name of a module or parameter without what an exporter wraps around the model."""
    match = _BLOCKS[role].search(name)
    return match[1] if match else None


def linear_layers(graph: ir.Graph, role: str) -> dict[str, LinearLayer]:
    """Name -> linear layer, of those whose product can be told apart.

    Args:
        graph: as it was exported, its initializers not among its inputs.
        role: "transformer", "clip" or "t5".
    """
    stored = stored_values(graph)
    products: dict[str, list[ir.Node]] = {}
    for node in graph.all_nodes():
        if node.domain or node.op_type not in ("MatMul", "Gemm") or node.inputs[1] not in stored:
            continue
        name = next((found for raw in _raw_names(node) if (found := canonical(raw, role))), None)
        if name is not None and node.inputs[0] not in stored:
            products.setdefault(name, []).append(node)
    layers = (_layer(name, nodes, role, stored) for name, nodes in products.items())
    return {layer.name: layer for layer in layers if layer is not None}


def vectors(graph: ir.Graph, role: str) -> dict[str, list[tuple[ir.Node, int]]]:
    """Name in the model -> where a graph takes it, of parameters with one axis: norms.

    By the nodes that take them, since exporters store equal ones, such as norms of ones, but once.
    """
    stored = stored_values(graph)
    found: dict[str, list[tuple[ir.Node, int]]] = {}
    for node in graph.all_nodes():
        for index, parameter in _VECTORS.get(node.op_type if not node.domain else "", ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value not in stored or not is_vector(value):
                continue
            scopes = [scope_of(node)] if scope_of(node) else list(_stored_names(value))
            name = next((layer for raw in scopes if (layer := canonical(raw, role))), None)
            if name is not None:
                found.setdefault(f"{name}.{parameter}", []).append((node, index))
    return found


def stored_values(graph: ir.Graph) -> set[ir.Value | None]:
    """The values that are the same in every call: stored, or computed from such alone; in one pass."""
    found: set[ir.Value | None] = set(graph.initializers.values())
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant" or (inputs and all(value in found for value in inputs)):
            found.update(node.outputs)
    return found


def scope_of(node: ir.Node) -> str:
    """What a node's name says of its module; empty where it says nothing."""
    return (node.name or "").strip("/").rpartition("/")[0].replace("/", ".")


def _raw_names(node: ir.Node) -> Iterator[str]:
    """What a node's own name says of its module, then what the names of its weights say."""
    if scope := scope_of(node):
        yield scope
    assert node.inputs[1] is not None
    yield from _stored_names(node.inputs[1])


def _stored_names(value: ir.Value) -> Iterator[str]:
    """What the names of the initializers behind a stored value say of their module."""
    pending: list[ir.Value | None] = [value]
    while pending:
        current = pending.pop()
        if current is not None and current.is_initializer() and current.name:
            yield _PARAMETER.sub("", current.name)
        elif current is not None and (producer := current.producer()) is not None:
            pending.extend(producer.inputs)


def _layer(
    name: str, nodes: Sequence[ir.Node], role: str, stored_values: Set[ir.Value | None]
) -> LinearLayer | None:
    pairs = [
        (first, second)
        for second in nodes
        for first in nodes
        if second.inputs[0] is not None and second.inputs[0].producer() is first
    ]
    rest = [node for node in nodes if not any(node in pair for pair in pairs)]
    if len(rest) != 1 or len(pairs) > 1:
        return None
    node = rest[0]
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    stored = stored_shape(weight)
    plain = node.op_type == "MatMul" or is_plain_gemm(node)
    if stored is None or len(stored) != 2 or not plain:
        return None
    by_row = bool(node.attributes.get_int("transB", 0))
    out, into = stored if by_row else stored[::-1]
    x = _before_quantizers(x)
    smoothing = _smoothing(x, name, role, stored_values)
    if smoothing is not None:
        producer = x.producer()
        assert producer is not None
        others = [value for value in producer.inputs if value is not smoothing]
        if len(others) != 1 or others[0] is None:
            return None
        x = others[0]
    y, bias = _output(node, pairs[0][1].outputs[0] if pairs else None, stored_values)
    return LinearLayer(name, x, y, weight, by_row, (out, into), bias, smoothing, pairs[0] if pairs else None)


def stored_shape(value: ir.Value) -> tuple[int, ...] | None:
    """Shape of a stored value, also where inference stops at operators that are not ONNX's."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tuple(int(size) for size in tensor.shape.numpy())
    node = value.producer()
    if node is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type == "Cast" or node.op_type in _QUANTIZERS:
            return stored_shape(node.inputs[0])
        if node.op_type == "Transpose" and (shape := stored_shape(node.inputs[0])) is not None:
            order = node.attributes.get_ints("perm", None) or range(len(shape))[::-1]
            return tuple(shape[axis] for axis in order)
    if value.shape is not None and value.shape.is_static():
        return tuple(int(size) for size in value.shape.numpy())
    return None


def before_dynamic_rounding(value: ir.Value) -> ir.Value:
    """What a value was before each of its tokens was rounded to multiples of a step of its own.

    The chain is Div by the steps, QuantizeLinear, DequantizeLinear, Mul by the steps.
    """
    product = value.producer()
    if product is None or product.op_type != "Mul" or product.domain:
        return value
    for index, node in enumerate(each.producer() if each else None for each in product.inputs):
        if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            continue
        quantizer = node.inputs[0].producer()
        if quantizer is None or quantizer.op_type != "QuantizeLinear" or quantizer.inputs[0] is None:
            continue
        quotient = quantizer.inputs[0].producer()
        if (
            quotient is not None
            and quotient.op_type == "Div"
            and quotient.inputs[1] is product.inputs[1 - index]
            and quotient.inputs[0] is not None
        ):
            return quotient.inputs[0]
    return value


def _before_quantizers(x: ir.Value) -> ir.Value:
    """What a layer's input was before it was rounded; casts that serve the rounding are gone with it."""
    if (before := before_dynamic_rounding(x)) is not x:
        return before
    found, value = False, x
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type in _QUANTIZERS:
            found = True
        elif node.op_type != "Cast":
            break
        value = node.inputs[0]
    return value if found else x


def _smoothing(x: ir.Value, name: str, role: str, stored: Set[ir.Value | None]) -> ir.Value | None:
    """The factors that a layer's input is multiplied by, where it is SVDQuant's or AWQ's doing."""
    node = x.producer()
    if node is None or node.op_type != "Mul":
        return None
    for value in node.inputs:
        if value is None or value not in stored:
            continue
        if canonical(scope_of(node), role) == name or "_pre_quant_scale" in (value.name or ""):
            return value
    return None


def _output(
    node: ir.Node, branch: ir.Value | None, stored: Set[ir.Value | None]
) -> tuple[ir.Value, ir.Value | None]:
    """What a layer gives once its bias and the branch are added, and the bias."""
    value = node.outputs[0]
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    while True:
        uses = list(value.uses())
        adder = uses[0].node if len(uses) == 1 else None
        if adder is None or adder.op_type != "Add" or adder.domain or value.is_graph_output():
            return value, bias
        other = adder.inputs[1 - uses[0].idx]
        if other is None:
            return value, bias
        if branch is not None and other is branch:
            branch = None
        elif bias is None and other in stored and is_vector(other):
            bias = other
        else:
            return value, bias
        value = adder.outputs[0]


def float_type(layer: LinearLayer, graph: ir.Graph) -> ir.DataType:
    """The type that a layer computes in."""
    for value in (layer.bias, layer.y, *graph.outputs):
        if value is not None and value.dtype in FLOATS:
            return value.dtype
    return ir.DataType.FLOAT


def is_vector(value: ir.Value) -> bool:
    """Whether a stored value has numbers along its last axis alone."""
    shape = stored_shape(value)
    return shape is not None and len(shape) > 0 and 1 < int(np.prod(shape)) == shape[-1]
