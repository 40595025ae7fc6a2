"""The parameters that a graph stores as plain numbers, by their names in the model.

An exporter keeps the name of a parameter, or names the node that takes it after its module. Of equal
parameters it stores one, and gives the others their names by an Identity.
"""

import math
import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from openkontext.runtime.passes.layers import canonical, scope_of, stored_shape

_TAKEN: Mapping[str, tuple[tuple[int, str], ...]] = {
    "Conv": ((1, "weight"), (2, "bias")),
    "Gather": ((0, "weight"),),
    "Mul": ((0, "weight"), (1, "weight")),
    "Add": ((0, "bias"), (1, "bias")),
    "LayerNormalization": ((1, "weight"), (2, "bias")),
    "RMSNormalization": ((1, "weight"),),
    "GroupNormalization": ((1, "weight"), (2, "bias")),
}
"""Operator -> where it takes a parameter, and what that is called."""

_TABLES = frozenset(
    {"token_embedding", "position_embedding", "shared", "embed_tokens", "relative_attention_bias"}
)
"""Last parts of the names of layers that look rows up; others gather from what they compute."""

_VECTORS = _TAKEN.keys() - {"Conv", "Gather"}
_SAME_NUMBERS = frozenset({"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"})
_OUTSIDE: Mapping[str, re.Pattern[str]] = {
    "clip": re.compile(r"(?:^|\.)(embeddings\.(?:token|position)_embedding|final_layer_norm)$"),
    "t5": re.compile(r"(?:^|\.)(shared|encoder\.(?:embed_tokens|final_layer_norm))$"),
    "vae": re.compile(r"(?:^|\.)(post_quant_conv)$"),
    "vae_encoder": re.compile(r"(?:^|\.)(quant_conv)$"),
}
"""Role of a graph -> names of layers outside its blocks."""

_WITHOUT = re.compile(r"\.norm(?:\d|\d_context)?\.norm$|\.norm2(?:_context)?$|^norm_out\.norm$")
"""Norms of the transformer that have no parameters; a graph may hold ones and zeros in their place."""


def parameters(graph: ir.Graph, role: str) -> dict[str, ir.Value]:
    """Name in the model -> initializer or constant with its numbers, of all that can be told apart.

    Vectors may be stored with axes of size 1 beside their own.

    Args:
        graph: as it was exported, its initializers not among its inputs.
        role: "transformer", "clip", "t5", "vae" or "vae_encoder".
    """
    found: dict[str, ir.Value] = {}
    for raw, value in _named(graph):
        name, _, parameter = raw.rpartition(".")
        if parameter in ("weight", "bias") and (layer := _layer(name, role)):
            found.setdefault(f"{layer}.{parameter}", value)
    for node in graph.all_nodes():
        for index, parameter in _TAKEN.get(node.op_type if not node.domain else "", ()):
            taken = _stored(node.inputs[index]) if index < len(node.inputs) else None
            layer = _layer(scope_of(node), role)
            if taken is not None and layer and _suits(taken, node.op_type, layer.rpartition(".")[2]):
                found.setdefault(f"{layer}.{parameter}", taken)
    return found


def _named(graph: ir.Graph) -> Iterator[tuple[str, ir.Value]]:
    """The initializers, each under all names that it goes by."""
    for value in graph.initializers.values():
        yield value.name or "", value
    for node in graph.all_nodes():
        if node.op_type == "Identity" and (same := _stored(node.outputs[0])) is not None:
            yield node.outputs[0].name or "", same


def _layer(name: str, role: str) -> str | None:
    layer = canonical(name, role)
    if layer is None and role in _OUTSIDE and (match := _OUTSIDE[role].search(name)):
        layer = match[1]
    return None if layer is None or (role == "transformer" and _WITHOUT.search(layer)) else layer


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer or constant behind a value that has its numbers in the same order."""
    while value is not None and ir.convenience.get_const_tensor(value) is None:
        node = value.producer()
        if node is None or node.domain or node.op_type not in _SAME_NUMBERS:
            return None
        value = node.inputs[0]
    return value


def _suits(value: ir.Value, op_type: str, layer: str) -> bool:
    """Whether a stored value is of a parameter's form: a vector where an operator takes one."""
    shape = stored_shape(value) or ()
    if op_type == "Gather":
        return layer in _TABLES and len(shape) == 2
    size = math.prod(shape)
    return size > 1 and (op_type not in _VECTORS or size == max(shape))
