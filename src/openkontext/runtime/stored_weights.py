"""The weights of a graph's linear layers as numbers, however they are stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from openkontext.runtime.lowering import lower
from openkontext.runtime.model_file import data_files, resolve_links
from openkontext.runtime.passes.layers import LinearLayer


def stored_weight(model: ModelProto, path: Path, layer: LinearLayer) -> NDArray[np.float32]:
    """The weight [out, in] that a layer multiplies by, dequantized, SVDQuant's branch and smoothing included.

    Args:
        model: the graph read from `path`, before it is rewritten.
        path: where its data files lie.
        layer: one of it.
    """
    asked = [layer.weight, layer.smoothing, *(node.inputs[1] for node in layer.branch or ())]
    names = [value.name for value in asked if value is not None and value.name]
    found = dict(zip(names, _evaluate(model, path, names), strict=True))
    weight = found[layer.weight.name or ""]
    if not layer.by_row:
        weight = weight.T
    if layer.branch is not None:
        down, up = (found[node.inputs[1].name] for node in layer.branch)  # type: ignore[union-attr,index]
        weight = weight + (down @ up).T
    if layer.smoothing is not None:
        weight = weight * found[layer.smoothing.name or ""].reshape(1, -1)
    return np.ascontiguousarray(weight, np.float32)


def _evaluate(model: ModelProto, path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """Values of a graph that depend on no input, in float32."""
    part = _part(model, names)
    files = data_files(part, path)
    part = lower(part, path, "cpu") or part
    folder = resolve_links(part, files) or path.parent.absolute()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    return [np.asarray(array) for array in session.run(None, {})]


def _part(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The part of a graph that computes some stored values."""
    producers = {output: node for node in model.graph.node for output in node.output}
    needed: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            pending.extend(each for each in producers[name].input if each)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    nodes += [helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT) for name in names]
    graph = helper.make_graph(
        nodes,
        "weights",
        [],
        [helper.make_tensor_value_info(f"{name}/wide", TensorProto.FLOAT, None) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
        value_info=[value for value in model.graph.value_info if value.name in needed],
    )
    return helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)
