"""The weights of a graph's linear layers as numbers, however they are stored."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from openkontext.runtime.lowering import lower
from openkontext.runtime.passes.layers import LinearLayer
from openkontext.runtime.stored_values import StoredValues


def stored_weight(model: ModelProto, path: Path, layer: LinearLayer) -> NDArray[np.float32]:
    """The weight [out, in] that a layer multiplies by, dequantized, SVDQuant's branch and smoothing included.

    Args:
        model: the graph read from `path`, before it is rewritten.
        path: where its data files lie.
        layer: one of it.
    """
    asked = [layer.weight, layer.smoothing, *(node.inputs[1] for node in layer.branch or ())]
    names = [value.name for value in asked if value is not None and value.name]
    values = StoredValues(model, path, lambda part: lower(part, path, "cpu") or part)
    found = dict(zip(names, values.read(names), strict=True))
    weight = found[layer.weight.name or ""]
    if not layer.by_row:
        weight = weight.T
    if layer.branch is not None:
        down, up = (found[node.inputs[1].name] for node in layer.branch)  # type: ignore[union-attr,index]
        weight = weight + (down @ up).T
    if layer.smoothing is not None:
        weight = weight * found[layer.smoothing.name or ""].reshape(1, -1)
    return np.ascontiguousarray(weight, np.float32)
