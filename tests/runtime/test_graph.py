"""Graphs opened and called: against other tools' exports, ONNX's reference evaluator and values by hand."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from tiny import NUMPY_TYPES, ONNX_TYPES, linear, make_model, weights_of, write_graph

from openkontext.runtime import graph as graph_module
from openkontext.runtime import load_graph


@needs_peers
@pytest.mark.parametrize("folded", [0, 1 << 30], ids=["mapped", "folded"])
def test_runs_a_bf16_export_of_another_tool(folded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", folded)
    graph = load_graph(PEER_EXPORTS / "bf16" / "model.onnx", role="transformer")
    cases = np.load(PEER_EXPORTS / "bf16" / "cases.npz")
    for case in range(2):
        result = graph.run(**{name: cases[f"in{case}_{name}"] for name in graph.inputs})
        # The folder's README allows 0.012; a tenth more for another order of rounding.
        assert relative_error(result["latent"], cases[f"out{case}"]) < 0.0132


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("given_as", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32])
def test_inputs_of_any_number_type(tmp_path: Path, precision: str, given_as: Any) -> None:
    model = linear(precision)
    weights = weights_of(model)
    graph = load_graph(write_graph(tmp_path, model))
    x = np.arange(-8, 16).reshape(3, 8).astype(given_as)
    result = graph.run(x=x)["y"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(
        result, x.astype(np.float32) @ weights["w"] + weights["b"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("ids", [np.int32, np.int64])
@pytest.mark.parametrize("asked", [TensorProto.INT32, TensorProto.INT64])
def test_token_ids_of_either_integer_type(tmp_path: Path, ids: Any, asked: int) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(5, 4).astype(ml_dtypes.bfloat16)
    model = make_model(
        [helper.make_node("Gather", ["rows", "input_ids"], ["y"])],
        {"input_ids": (asked, [1, "n"])},
        {"y": (TensorProto.BFLOAT16, [1, "n", 4])},
        {"rows": rows},
    )
    graph = load_graph(write_graph(tmp_path, model))
    result = graph.run(input_ids=np.array([[4, 0, 2]], dtype=ids))["y"]
    np.testing.assert_array_equal(result[0], rows[[4, 0, 2]].astype(np.float32))


def test_16_bit_types_at_the_ends_of_a_graph_that_needs_no_rewriting(tmp_path: Path) -> None:
    model = make_model(
        [
            helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0]),
            helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT16),
        ],
        {"x": (TensorProto.BFLOAT16, ["m", 3])},
        {"y": (TensorProto.BFLOAT16, [3, "m"]), "z": (TensorProto.FLOAT16, ["m", 3])},
    )
    graph = load_graph(write_graph(tmp_path, model))
    assert graph.inputs["x"].dtype == ml_dtypes.bfloat16
    assert graph.outputs["z"].dtype == np.float16
    x = np.array([[1, 2.5, -3], [0.1, 7, 1e30]], np.float32)
    rounded = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    result = graph.run(x=x)
    np.testing.assert_array_equal(result["y"], rounded.T)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result["z"], rounded.astype(np.float16).astype(np.float32))


def test_says_types_and_shapes(tmp_path: Path) -> None:
    graph = load_graph(write_graph(tmp_path, linear("fp32")))
    assert (graph.inputs["x"].dtype, graph.inputs["x"].shape) == (np.float32, ("B", 8))
    assert (graph.outputs["y"].dtype, graph.outputs["y"].shape) == (np.float32, ("B", 16))


def test_large_weights_stay_mapped_and_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_graph(tmp_path, linear(width=1 << 16))
    x = np.random.default_rng(0).standard_normal((3, 8))
    folded = load_graph(path).run(x=x)["y"]
    assert not is_mapped(tmp_path / "backbone.onnx_data")
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", 1 << 20)  # the weights take 2.3 MB in float32
    graph = load_graph(path)
    assert is_mapped(tmp_path / "backbone.onnx_data")
    np.testing.assert_allclose(graph.run(x=x)["y"], folded, rtol=1e-6)


@pytest.mark.parametrize("low_memory", [False, True])
def test_low_memory_gives_mapped_weights_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low_memory: bool
) -> None:
    path = write_graph(tmp_path, linear(width=1 << 16))
    data = tmp_path / "backbone.onnx_data"
    with data.open("rb") as file:
        os.fsync(file.fileno())  # what is not yet on disk cannot be given back
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", 1 << 20)
    graph = load_graph(path, low_memory=low_memory)
    x = np.random.default_rng(0).standard_normal((3, 8))
    first = graph.run(x=x)["y"]
    assert is_mapped(data)
    assert (resident_kib(data) == 0) == low_memory
    np.testing.assert_array_equal(graph.run(x=x)["y"], first)


def resident_kib(path: Path) -> int:
    """How much of a mapped file is in the memory of this process."""
    found, mapping = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mapping = line.endswith(str(path))
        elif mapping and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def is_mapped(path: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    return str(path) in maps.read_text()


def test_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    path = write_graph(tmp_path, linear())
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in tmp_path.iterdir()}
    load_graph(path).run(x=np.ones((1, 8)))
    assert {file: hashlib.sha256(file.read_bytes()).digest() for file in tmp_path.iterdir()} == before


def test_follows_links_as_the_hub_cache_lays_them(tmp_path: Path) -> None:
    write_graph(tmp_path / "blobs", linear())
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (snapshot / file.name).symlink_to(file)
    for precision in ("bf16", "fp32"):
        write_graph(tmp_path / "blobs", linear(precision))
        assert load_graph(snapshot / "model.onnx").run(x=np.ones((1, 8)))["y"].shape == (1, 16)


def test_initializers_among_the_inputs_are_not_asked_for(tmp_path: Path) -> None:
    model = linear()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = load_graph(write_graph(tmp_path, model))
    assert list(graph.inputs) == ["x"]
    weights = weights_of(model)
    expected = np.ones((1, 8)) @ weights["w"] + weights["b"]
    np.testing.assert_allclose(graph.run(x=np.ones((1, 8)))["y"], expected, rtol=1e-5, atol=1e-5)


STEPS = {
    "linear": ["MatMul", "Add"],
    "gemm": ["Gemm"],
    "norm": ["LayerNormalization"],
    "gelu": ["Gelu"],
    "silu": ["Sigmoid", "Mul"],
    "softmax": ["Softmax"],
    "scale": ["Constant", "Mul"],
    "root": ["Abs", "Sqrt"],
    "through float": ["Cast", "Exp", "Cast"],
    "swap": ["Split", "Neg", "Concat"],
    "conditional": ["If"],
}


def add_step(kind: str, index: int, x: str, precision: str, rng: np.random.Generator) -> Any:
    """Nodes of one step from value `x` of shape [B, 16], its weights, and the name of its result."""
    dtype, to = ONNX_TYPES[precision], NUMPY_TYPES[precision]
    name = [f"s{index}_{letter}" for letter in "abcde"]
    square = (rng.standard_normal((16, 16)) / 4).astype(np.float16).astype(to)
    row = rng.standard_normal(16).astype(np.float16).astype(to)
    if kind == "linear":
        nodes = [
            helper.make_node("MatMul", [x, name[0]], [name[1]]),
            helper.make_node("Add", [name[1], name[2]], [name[3]]),
        ]
        return nodes, {name[0]: square, name[2]: row}, name[3]
    if kind == "gemm":
        nodes = [helper.make_node("Gemm", [x, name[0], name[1]], [name[2]], transB=1, alpha=0.5)]
        return nodes, {name[0]: square, name[1]: row}, name[2]
    if kind == "norm":
        return [helper.make_node("LayerNormalization", [x, name[0]], [name[1]])], {name[0]: row}, name[1]
    if kind == "silu":
        nodes = [
            helper.make_node("Sigmoid", [x], [name[0]]),
            helper.make_node("Mul", [x, name[0]], [name[1]]),
        ]
        return nodes, {}, name[1]
    if kind == "scale":
        nodes = [
            helper.make_node("Constant", [], [name[0]], value=numpy_helper.from_array(row)),
            helper.make_node("Mul", [x, name[0]], [name[1]]),
        ]
        return nodes, {}, name[1]
    if kind == "root":
        nodes = [helper.make_node("Abs", [x], [name[0]]), helper.make_node("Sqrt", [name[0]], [name[1]])]
        return nodes, {}, name[1]
    if kind == "through float":
        nodes = [
            helper.make_node("Cast", [x], [name[0]], to=TensorProto.FLOAT),
            helper.make_node("Tanh", [name[0]], [name[1]]),
            helper.make_node("Cast", [name[1]], [name[2]], to=dtype),
        ]
        return nodes, {}, name[2]
    if kind == "swap":
        nodes = [
            helper.make_node("Split", [x], [name[0], name[1]], axis=1, num_outputs=2),
            helper.make_node("Neg", [name[1]], [name[2]]),
            helper.make_node("Concat", [name[2], name[0]], [name[3]], axis=1),
        ]
        return nodes, {}, name[3]
    if kind == "conditional":
        branches = {}
        for branch, factor in (("then_branch", 2.0), ("else_branch", 3.0)):
            value = f"{name[0]}_{branch}"
            body = [
                helper.make_node("Mul", [x, value], [value + "_out"]),
            ]
            branches[branch] = helper.make_graph(
                body,
                branch,
                [],
                [helper.make_tensor_value_info(value + "_out", dtype, ["B", 16])],
                [numpy_helper.from_array(np.array([factor], to), value)],
            )
        nodes = [
            helper.make_node("Constant", [], [name[1]], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("If", [name[1]], [name[2]], **branches),
        ]
        return nodes, {}, name[2]
    return [helper.make_node({"gelu": "Gelu", "softmax": "Softmax"}[kind], [x], [name[0]])], {}, name[0]


def chain(kinds: list[str], precision: str, seed: int) -> onnx.ModelProto:
    """A graph of some steps; for one seed its weights are the same numbers in every precision."""
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], {}, "x"
    for index, kind in enumerate(kinds):
        more, extra, value = add_step(kind, index, value, precision, rng)
        nodes += more
        weights |= extra
    ends = (ONNX_TYPES[precision], ["B", 16])
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    return make_model(nodes, {"x": ends}, {"y": ends}, weights)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kinds=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7), seed=st.integers(0, 2**16))
def test_16_bit_graphs_give_what_their_weights_give_in_float32(
    tmp_path: Path, precision: str, kinds: list[str], seed: int
) -> None:
    kinds = ["gemm", *kinds]  # not every step alone makes the CPU provider refuse a 16-bit type
    half = chain(kinds, precision, seed)
    twin = chain(kinds, "fp32", seed)
    for tensor, exact in zip(half.graph.initializer, twin.graph.initializer, strict=True):
        exact.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), exact.name))
    for node, exact_node in zip(half.graph.node, twin.graph.node, strict=True):
        if node.op_type == "Constant" and node.attribute[0].t.data_type == ONNX_TYPES[precision]:
            value = numpy_helper.to_array(node.attribute[0].t).astype(np.float32)
            exact_node.attribute[0].t.CopyFrom(numpy_helper.from_array(value))
    x = np.random.default_rng(seed + 1).standard_normal((3, 16)).astype(np.float32)
    expected = ReferenceEvaluator(twin).run(None, {"x": x})[0]
    result = load_graph(write_graph(tmp_path, half)).run(x=x)["y"]
    np.testing.assert_allclose(result, expected, rtol=2e-4, atol=2e-5)


def test_angles_are_rounded_as_the_graph_says(tmp_path: Path) -> None:
    """sin(1000 t) in bfloat16 is another number than in float32, and the one that a graph was made for."""
    model = make_model(
        [
            helper.make_node(
                "Constant", [], ["k"], value=numpy_helper.from_array(np.array(1000, ml_dtypes.bfloat16))
            ),
            helper.make_node("Mul", ["t", "k"], ["tk"]),
            helper.make_node("Cast", ["tk"], ["angle"], to=TensorProto.FLOAT),
            helper.make_node("Sin", ["angle"], ["y"]),
            helper.make_node("Mul", ["t", "t"], ["z"]),
        ],
        {"t": (TensorProto.BFLOAT16, ["n"])},
        {"y": (TensorProto.FLOAT, ["n"]), "z": (TensorProto.BFLOAT16, ["n"])},
    )
    t = np.linspace(0, 1, 101, dtype=np.float32)
    result = load_graph(write_graph(tmp_path, model)).run(t=t)
    rounded = t.astype(ml_dtypes.bfloat16) * ml_dtypes.bfloat16(1000)
    np.testing.assert_allclose(result["y"], np.sin(rounded.astype(np.float32)), atol=1e-5)
    assert np.abs(result["y"] - np.sin(1000 * t)).max() > 0.5  # the float32 angle is far off
    np.testing.assert_allclose(result["z"], t.astype(ml_dtypes.bfloat16).astype(np.float32) ** 2, rtol=1e-6)


def test_local_functions(tmp_path: Path) -> None:
    body = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 22)],
    )
    model = make_model(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        {"x": (TensorProto.BFLOAT16, [3])},
        {"y": (TensorProto.BFLOAT16, [3])},
    )
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("local", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(load_graph(path).run(x=[1, 2, 3])["y"], [2, 4, 6])


# What can be wrong with a graph
