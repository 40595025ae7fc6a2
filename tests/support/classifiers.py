"""Classifiers of pictures as ONNX files, whose answers are known."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def save_bright(path: Path, first: str = "Identity") -> None:
    """A classifier of two classes: the picture's mean as it is fed, and that times -1.

    Args:
        path: of the file.
        first: operator that the mean passes through.
    """
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["average"], keepdims=0),
        helper.make_node(first, ["average"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["first"]),
        helper.make_node("Neg", ["first"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["y"], axis=1),
    ]
    numbers = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        numbers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
