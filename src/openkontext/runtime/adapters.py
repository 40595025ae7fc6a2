"""Adapters on the graphs of a repository: what they fit, and the graph that they are beside."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from openkontext.errors import InputError
from openkontext.lora import Change
from openkontext.runtime.model_file import read_model
from openkontext.runtime.opened_graph import opened_graph, typed_model

STRENGTHS = "lora/strengths"
"""Input of a graph with adapters: 1, then the strength of each; float32."""

Feed = Mapping[str, NDArray[np.float32]]
"""Inputs that are the same in every call, by their names."""


def parameter_shapes(path: Path, role: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters of a graph that an adapter can change, in the words of the model.

    Args:
        path: of `model.onnx`.
        role: "transformer", "clip" or "t5".

    Raises:
        InputError: the graph cannot be read.
    """
    from openkontext.runtime.passes.layers import linear_layers, stored_shape, vectors

    graph = opened_graph(typed_model(read_model(path), path), path).graph
    shapes: dict[str, tuple[int, ...]] = {}
    for name, ((node, index), *_) in vectors(graph, role).items():
        value = node.inputs[index]
        shapes[name] = (stored_shape(value) or ())[-1:] if value is not None else ()
    for name, layer in linear_layers(graph, role).items():
        shapes[f"{name}.weight"] = layer.shape
        if layer.bias is not None:
            shapes[f"{name}.bias"] = (layer.shape[0],)
    return shapes


def strength_vector(strengths: Sequence[float]) -> NDArray[np.float32]:
    """The value of `STRENGTHS`."""
    return np.array([1, *strengths], np.float32)


def beside(
    model: ModelProto, path: Path, role: str, adapters: Sequence[Mapping[str, Change]]
) -> tuple[ModelProto, Feed]:
    """A graph with adapters beside its layers, and what their inputs are given.

    Args:
        model: the graph read from `path`.
        path: where its data files lie.
        role: "transformer", "clip" or "t5".
        adapters: of each the changes, by parameters that the graph has, in their shapes.

    Raises:
        InputError: the graph cannot be rewritten.
    """
    import onnx_ir as ir

    from openkontext.runtime.passes.layers import linear_layers
    from openkontext.runtime.passes.side_branches import SideBranches
    from openkontext.runtime.stored_weights import stored_weight

    typed = typed_model(model, path)

    @cache
    def layers() -> Mapping[str, Any]:
        return linear_layers(opened_graph(typed, path).graph, role)

    @cache
    def read(name: str) -> NDArray[np.float32]:
        return stored_weight(typed, path, layers()[name.removesuffix(".weight")])

    opened = opened_graph(typed, path)
    branches = SideBranches(role, adapters, read, STRENGTHS)
    try:
        branches(opened)
        return ir.serde.serialize_model(opened), branches.feed
    except Exception as error:  # a damaged graph makes each library fail in its own ways
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(f"{path}: cannot take a LoRA: {reason}") from error
