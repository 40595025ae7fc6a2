"""A draw of random numbers inside a graph -> the middle of what it draws from."""

import numpy as np
import onnx_ir as ir

from openkontext.runtime.passes.nodes import Builder

_OPERATORS = frozenset({"RandomNormal", "RandomNormalLike"})

_FLOAT = ir.DataType.FLOAT


class Noiseless(ir.passes.InPlacePass):
    """Replace draws of normal numbers by their mean, 0 unless the node says another.

    An image encoder that is exported as `encode(x).latent_dist.sample()` adds such a draw times a standard
    deviation to the mean: the same seed would give another picture on every run. Black Forest Labs' own code
    and diffusers' FluxKontextPipeline take the mean of a context image, which is what is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph and its subgraphs."""
        found = [node for node in model.graph.all_nodes() if not node.domain and node.op_type in _OPERATORS]
        for node in found:
            build = Builder()
            mean = ir.tensor(np.array([node.attributes.get_float("mean", 0.0)], np.float32))
            value = build("ConstantOfShape", [_shape(build, node)], _FLOAT, value=mean)
            build.replace(node, [_typed(build, node, value)])
        return ir.passes.PassResult(model, bool(found))


def _shape(build: Builder, node: ir.Node) -> ir.Value:
    if node.op_type == "RandomNormal":
        return build.constant(np.array(node.attributes["shape"].as_ints(), np.int64))
    return build("Shape", [node.inputs[0]], ir.DataType.INT64)


def _typed(build: Builder, node: ir.Node, value: ir.Value) -> ir.Value:
    """The value in the type of the draw: the one that is said, else that of its input."""
    said = node.attributes.get_int("dtype", 0)
    like = node.inputs[0] if node.inputs else None
    dtype = ir.DataType(said) if said else (_FLOAT if like is None else like.dtype)
    if dtype is None:
        return build("CastLike", [value, like], _FLOAT)
    return build.cast(value, dtype)
