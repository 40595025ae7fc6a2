"""Attention by ONNX Runtime's kernel for the CPU, block by block (FlashAttention, Dao et al. 2022).

    softmax(q k^T * scale) v     q, k, v: [B, tokens, heads, width of a head]

As MatMul, Softmax and MatMul it holds tokens * tokens numbers a head, twice. For the 12B model at 1024x1024
with one reference that is 7 GiB each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from openkontext.runtime.passes.layers import stored_shape
from openkontext.runtime.passes.nodes import Builder, int64s, is_stored, past_casts, scalar

_FLOAT = ir.DataType.FLOAT
_BY_HEAD = (0, 2, 1, 3)  # tokens, heads -> heads, tokens
_BY_COLUMN = (0, 2, 3, 1)  # of keys: heads, width, tokens
_OF_NUMBERS = frozenset({"Cast", "Sqrt", "Div", "Mul", "Reciprocal"})


@dataclass(frozen=True)
class _Operand:
    """What a product of attention takes, before it was laid out by heads."""

    value: ir.Value
    """[B, tokens, heads, width]."""
    factor: float
    """That it was multiplied by."""
    factors: tuple[ir.Value, ...]
    """That it was multiplied by, too, of one number each: some exporters compute them from shapes."""


class FusedAttention(ir.passes.InPlacePass):
    """Replace MatMul, Softmax and MatMul of float32 by MultiHeadAttention.

    Attention with a mask, or with rounding between its steps as in published FP8, stays as it is.
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
    """Put the kernel in place of the second product of an attention, if a node is one."""
    if not _is(node, "MatMul") or node.outputs[0].dtype != _FLOAT:
        return False
    softmax = _only_used_here(node.inputs[0])
    if not _is(softmax, "Softmax") or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return False
    scores = _only_used_here(softmax.inputs[0])
    if not _is(scores, "MatMul"):
        return False
    found = [
        _before_layout(scores.inputs[0], _BY_HEAD),
        _before_layout(scores.inputs[1], _BY_COLUMN),
        _before_layout(node.inputs[1], _BY_HEAD),
    ]
    operands = [each for each in found if each is not None]
    heads = next((size for each in operands[::-1] if (size := _heads(each.value))), None)
    if len(operands) < 3 or heads is None or any(each.value.dtype != _FLOAT for each in operands):
        return False
    query, key, value = operands
    scale = query.factor * key.factor
    if value.factor != 1 or value.factors or scale == 0:  # a scale of 0 would stand for the usual one
        return False
    build = Builder()
    queries = query.value
    for factor in (*query.factors, *key.factors):
        queries = build("Mul", [queries, factor], _FLOAT)
    shape = build.constant(int64s(0, 0, -1))
    flat = [build("Reshape", [each, shape], _FLOAT) for each in (queries, key.value, value.value)]
    kernel = "MultiHeadAttention"
    y = build(kernel, flat, _FLOAT, domain="com.microsoft", num_heads=heads, scale=scale)
    y = build("Reshape", [y, build.constant(int64s(0, 0, heads, -1))], _FLOAT)
    # Whoever lays it out by tokens undoes this, and ONNX Runtime takes both away.
    build.replace(node, [build("Transpose", [y], _FLOAT, perm=_BY_HEAD)])
    return True


def _before_layout(value: ir.Value | None, layout: Sequence[int]) -> _Operand | None:
    """What a value was before Transposes that together give a layout, and before it was scaled after them."""
    axes, factor = tuple(range(4)), 1.0
    factors: list[ir.Value] = []
    while value is not None and axes != tuple(layout):
        value = past_casts(value)
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", ())
            if len(order) != len(axes):
                return None
            axes = tuple(order[axis] for axis in axes)
            value = node.inputs[0]
        elif node.op_type == "Mul":
            single = [_is_single(each) for each in node.inputs]
            if single.count(True) != 1:
                return None
            value, by = node.inputs[single.index(False)], node.inputs[single.index(True)]
            if (number := scalar(by)) is not None:
                factor *= number
            elif by is not None:
                factors.append(by)
        else:
            return None
    return None if value is None else _Operand(past_casts(value), factor, tuple(factors))


def _is_single(value: ir.Value | None) -> bool:
    """Whether a value is known to be one number, with at most one axis."""
    if value is None or scalar(value) is not None:
        return value is not None
    if value.shape is not None and all(isinstance(size, int) for size in value.shape):
        return len(value.shape) <= 1 and all(size == 1 for size in value.shape)
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type in _OF_NUMBERS:
        return all(_is_single(each) for each in node.inputs)
    if node.op_type != "Slice" or len(node.inputs) > 3:
        return False
    begin, end = (scalar(each) for each in node.inputs[1:])
    return _is(_producer(node.inputs[0]), "Shape") and begin == -1 and end is not None and end > 0


def _heads(value: ir.Value) -> int | None:
    """The heads of a value [B, tokens, heads, width]: by its shape, or by the Reshape that split them."""
    size = value.shape[2] if value.shape is not None and len(value.shape) == 4 else None
    if isinstance(size, int):
        return size
    while _is(node := _producer(value), "Concat"):  # of tokens
        value = past_casts(node.inputs[0])
    if not _is(node, "Reshape") or node.inputs[0] is None:
        return None
    given, sizes = _last_size(node.inputs[0]), _producer(node.inputs[1])
    if given is None or not _is(sizes, "Concat"):
        return None
    # As torch exports `unflatten(-1, (heads, width))`, one of them -1: sizes before, these two, none behind.
    known = [ir.convenience.get_const_tensor(each) for each in sizes.inputs if each is not None]
    pairs = [tensor.numpy() for tensor in known if tensor is not None and tensor.size == 2]
    if len(pairs) != 1:
        return None
    heads, width = (int(each) for each in pairs[0])
    heads = heads if heads > 0 else given // width
    return heads if heads > 0 and given % heads == 0 and width in (-1, given // heads) else None


def _last_size(value: ir.Value | None) -> int | None:
    """The size of a value's last axis: by its shape, or by the linear layer that it comes from."""
    size = value.shape[-1] if value is not None and value.shape is not None and len(value.shape) else None
    if isinstance(size, int):
        return size if size > 1 else None  # a vector of one is added to any
    node = _producer(value)
    if _is(node, "Add"):
        return next((size for each in node.inputs if (size := _last_size(each))), None)
    weight = node.inputs[1] if _is(node, "MatMul") else None
    sides = stored_shape(weight) if weight is not None and is_stored(weight) else None
    return sides[-1] if sides else None


def _only_used_here(value: ir.Value | None) -> ir.Node | None:
    """The node that gives a value, past Casts, where nobody else reads it."""
    before = None if value is None else past_casts(value)
    if any(each is None or len(list(each.uses())) != 1 or each.is_graph_output() for each in (value, before)):
        return None
    return _producer(before)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else past_casts(value).producer()


def _is(node: ir.Node | None, op_type: str) -> TypeGuard[ir.Node]:
    return node is not None and node.op_type == op_type and not node.domain
