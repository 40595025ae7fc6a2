"""Modulated norms in one operator: LayerNormalization takes scale and shift of the block's conditioning."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from openkontext.runtime.passes.nodes import Builder, past_casts

_FLOAT = ir.DataType.FLOAT


class ModulatedNorms(ir.passes.InPlacePass):
    """Replace `norm(x) * scale + shift` by a LayerNormalization that multiplies and adds by itself.

    The norm has no parameters of its own, x is [B, tokens, width], and scale and shift are [B, 1, width].
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph; subgraphs stay as they are."""
        modified = False
        for node in list(model.graph):
            modified |= _fuse(node)
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _fuse(node: ir.Node) -> bool:
    """Put the norm in place of the sum that closes it, if a node is one."""
    if node.op_type != "Add" or node.domain or node.outputs[0].dtype != _FLOAT:
        return False
    for product, shift in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        scaled = _only_used_here(product, "Mul")
        for norm, scale in (tuple(scaled.inputs), tuple(scaled.inputs)[::-1]) if scaled is not None else ():
            found = _only_used_here(norm, "LayerNormalization")
            if found is not None and _is_plain(found) and _steers(scale) and _steers(shift):
                build = Builder()
                y = build(
                    "LayerNormalization",
                    [found.inputs[0], scale, shift],
                    _FLOAT,
                    axis=-1,
                    epsilon=found.attributes.get_float("epsilon", 1e-5),
                )
                build.replace(node, [y])
                return True
    return False


def _is_plain(norm: ir.Node) -> bool:
    """Whether a norm over the last of three axes multiplies by ones and adds nothing."""
    x = norm.inputs[0]
    if x is None or x.dtype != _FLOAT or x.shape is None or len(x.shape) != 3:
        return False
    if norm.attributes.get_int("axis", -1) not in (-1, 2) or len(norm.outputs) > 1:
        return False
    for value, plain in zip(norm.inputs[1:], (1, 0), strict=False):
        tensor = ir.convenience.get_const_tensor(past_casts(value)) if value is not None else None
        if value is not None and (tensor is None or (np.asarray(tensor.numpy(), np.float32) != plain).any()):
            return False
    return True


def _steers(value: ir.Value | None) -> bool:
    """Whether a value has one vector a picture: [B, 1, width]."""
    if value is None or value.dtype != _FLOAT or value.shape is None:
        return False
    return len(value.shape) == 3 and value.shape[1] == 1


def _only_used_here(value: ir.Value | None, op_type: str) -> ir.Node | None:
    if value is None or len(list(value.uses())) != 1 or value.is_graph_output():
        return None
    node = value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None
