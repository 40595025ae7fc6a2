"""Rotary position embedding by ONNX Runtime's kernel for the CPU, in place of eight operators over pairs."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from openkontext.runtime.passes.nodes import Builder, int64s, past_casts

_FLOAT = ir.DataType.FLOAT


class FusedRotary(ir.passes.InPlacePass):
    """Replace the turning of pairs of neighbors, as our exports write it, by RotaryEmbedding.

    a, b = halves of x [B, tokens, heads, width / 2, 2]
    y = a cos - b sin, a sin + b cos       cos, sin: [..., tokens, 1, width / 2, 1]
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph; subgraphs stay as they are."""
        modified = False
        for node in list(model.graph):
            modified |= _fuse(node)
        if modified:
            model.opset_imports.setdefault("com.microsoft", 1)
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _fuse(node: ir.Node) -> bool:
    """Put the kernel in place of the Reshape that closes the turning, if a node is one."""
    pairs = _producer(node.inputs[0], "Concat") if node.op_type == "Reshape" and not node.domain else None
    if pairs is None or len(pairs.inputs) != 2 or node.outputs[0].dtype != _FLOAT:
        return False
    first, second = (_terms(value, op) for value, op in zip(pairs.inputs, ("Sub", "Add"), strict=True))
    if first is None or second is None:
        return False
    # a cos - b sin; the other sum has the same four values, a with sin and b with cos
    for a, cos in (first[0], first[0][::-1]):
        for b, sin in (first[1], first[1][::-1]):
            if {frozenset(term) for term in second} == {frozenset((a, sin)), frozenset((b, cos))}:
                return _replace(node, a, b, cos, sin)
    return False


def _replace(node: ir.Node, a: ir.Value, b: ir.Value, cos: ir.Value, sin: ir.Value) -> bool:
    split = _producer(a, "Split")
    if split is None or [past_casts(value) for value in split.outputs] != [a, b]:
        return False
    shaped = _producer(split.inputs[0], "Reshape")
    if shaped is None or split.attributes.get_int("axis", 0) not in (-1, 4) or shaped.inputs[0] is None:
        return False
    x = past_casts(shaped.inputs[0])
    heads, width = (*_sizes(x), None, None)[2:4]
    if len(_sizes(x)) != 4 or x.dtype != _FLOAT or heads is None or width is None:
        return False
    half = [heads, width // 2, 1]
    if _sizes(a)[2:] != half or _sizes(b)[2:] != half:
        return False
    if not all(_turns_all_heads_alike(value, width // 2) for value in (cos, sin)):
        return False
    build = Builder()
    flat = build("Reshape", [x, build.constant(int64s(0, 0, -1))], _FLOAT)
    tables = [
        build("Reshape", [build.cast(value, _FLOAT), build.constant(int64s(-1, width // 2))], _FLOAT)
        for value in (cos, sin)
    ]
    start = build.constant(int64s(0))
    y = build("RotaryEmbedding", [flat, start, *tables], _FLOAT, domain="com.microsoft", interleaved=1)
    build.replace(node, [build("Reshape", [y, build.constant(int64s(0, 0, heads, width))], _FLOAT)])
    return True


def _terms(value: ir.Value | None, op_type: str) -> list[tuple[ir.Value, ir.Value]] | None:
    """The factors of the two products that a value is the sum or difference of."""
    node = _producer(value, op_type)
    products = [_producer(each, "Mul") for each in node.inputs] if node is not None else []
    factors = [
        tuple(past_casts(each) for each in product.inputs if each is not None)
        for product in products
        if product is not None
    ]
    return [(a, b) for a, b in factors] if len(factors) == 2 else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = past_casts(value).producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _turns_all_heads_alike(value: ir.Value, half: int) -> bool:
    """Whether a value is [1, ..., tokens, 1, half, 1]: the same for all heads and pictures."""
    sizes = _sizes(value)
    return len(sizes) >= 4 and sizes[-3:] == [1, half, 1] and all(size == 1 for size in sizes[:-4])


def _sizes(value: ir.Value) -> list[int | None]:
    """The sizes of a value's axes, None for what is not known before; empty where nothing is."""
    shape = value.shape
    return [] if shape is None else [size if isinstance(size, int) else None for size in shape]
