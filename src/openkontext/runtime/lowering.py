"""Rewriting a graph into what a provider can execute."""

import logging
from collections.abc import Collection
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import ModelProto

from openkontext.errors import InputError
from openkontext.runtime.model_file import nodes, tensor_bytes, tensors
from openkontext.runtime.providers import COMPILERS, HALF_TYPES, refused_half_types


def lower(model: ModelProto, path: Path, provider: str) -> ModelProto | None:
    """The graph as a provider can execute it, or None where it can take the file as it is.

    What a provider can execute is found by trying (`providers.refused_half_types`). Weights in external data
    files stay there: the result refers to the same files.

    Args:
        model: the graph read from `path`.
        path: for the messages.
        provider: short name of an available provider.

    Raises:
        InputError: the graph cannot be rewritten since it is damaged.
    """
    if provider in COMPILERS or not _mentions_half(model):
        return None
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        model = onnx.shape_inference.infer_shapes(model)
        refused = refused_half_types(model, provider)
        return _rewrite(model, refused) if refused else None
    except Exception as error:  # a damaged graph makes each library fail in its own ways
        raise InputError(
            f"{path}: cannot be rewritten for provider '{provider}', it may be damaged: fetch or export it "
            f"again ({' '.join(str(error).split())[:200]})"
        ) from error


def half_weight_bytes(model: ModelProto) -> int:
    """Bytes that the 16-bit weights of a graph would take in float32."""
    return sum(2 * tensor_bytes(t) for t in model.graph.initializer if t.data_type in HALF_TYPES)


def _rewrite(model: ModelProto, refused: Collection[int]) -> ModelProto:
    # Imported here since it takes a third of a second that graphs in float32 need not pay.
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveInitializersFromInputsPass

    from openkontext.runtime.passes import ComputeInFloat32

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what is wrong with a graph is raised
    rewritten = ir.serde.deserialize_model(model)
    ir.passes.Sequential(
        RemoveInitializersFromInputsPass(),
        ComputeInFloat32({ir.DataType(dtype) for dtype in refused}),
    )(rewritten)
    return ir.serde.serialize_model(rewritten)


def _mentions_half(model: ModelProto) -> bool:
    """Whether any 16-bit float enters the graph: as an input, a weight, a constant or by a Cast."""
    return (
        any(value.type.tensor_type.elem_type in HALF_TYPES for value in model.graph.input)
        or any(tensor.data_type in HALF_TYPES for tensor in tensors(model))
        or any(
            attribute.name == "to" and attribute.i in HALF_TYPES
            for node in nodes(model)
            for attribute in node.attribute
        )
    )
