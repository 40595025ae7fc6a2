"""Values of a graph that depend on no input, computed part by part: a weight as a layer multiplies by it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from openkontext.onnx_runtime import onnxruntime
from openkontext.runtime.model_file import data_files, resolve_links


class StoredValues:
    """The values of a graph that are the same in every call; each is computed when it is asked for.

    Args:
        model: a graph, its functions inlined.
        path: where its data files lie beside.
        prepare: makes a part of the graph one that the CPU provider runs; None where the whole is one.
    """

    def __init__(
        self,
        model: ModelProto,
        path: Path,
        prepare: Callable[[ModelProto], ModelProto] | None = None,
    ) -> None:
        self._model = model
        self._path = path
        self._prepare = prepare
        self._producers = {
            name: (place, node) for place, node in enumerate(model.graph.node) for name in node.output
        }
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(self, names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Some of the values, in float32."""
        part = self.part(names)
        files = data_files(part, self._path)
        if self._prepare is not None:
            part = self._prepare(part)
        folder = resolve_links(part, files) or self._path.parent.absolute()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        return [np.asarray(array) for array in session.run(None, {})]

    def part(self, names: Sequence[str]) -> ModelProto:
        """The part of the graph that computes some stored values."""
        found: dict[int, NodeProto] = {}
        needed: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name in needed:
                continue
            needed.add(name)
            if name in self._producers:
                place, node = self._producers[name]
                found[place] = node
                pending.extend(each for each in node.input if each)
        nodes = [found[place] for place in sorted(found)]
        nodes += [helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT) for name in names]
        ends = [helper.make_tensor_value_info(f"{name}/wide", TensorProto.FLOAT, None) for name in names]
        weights = [self._weights[name] for name in sorted(needed) if name in self._weights]
        types = [value for value in self._model.graph.value_info if value.name in needed]
        graph = helper.make_graph(nodes, "weights", [], ends, weights, value_info=types)
        return helper.make_model(
            graph, ir_version=self._model.ir_version, opset_imports=self._model.opset_import
        )
