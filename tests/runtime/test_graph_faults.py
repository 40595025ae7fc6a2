"""Graphs and inputs that cannot be used: each is said in one clear line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny import linear, make_model, write_graph

from openkontext.errors import InputError
from openkontext.runtime import load_graph


def fails(pattern: str) -> Any:
    """Expect one line that names what is wrong."""
    return pytest.raises(InputError, match=pattern)


def test_no_such_graph(tmp_path: Path) -> None:
    with fails(re.escape(f"{tmp_path / 'model.onnx'}: no such graph")):
        load_graph(tmp_path / "model.onnx")
    with fails("cannot be read: Is a directory"):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x08\x09", bytes(range(255, 0, -1))]
)
def test_not_a_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with fails("ONNX graph"):
        load_graph(path)


def test_missing_data_file(tmp_path: Path) -> None:
    path = write_graph(tmp_path, linear())
    (tmp_path / "backbone.onnx_data").unlink()
    with fails("backbone.onnx_data: missing, and model.onnx beside it needs it"):
        load_graph(path)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_data_file_cut_short(tmp_path: Path, precision: str) -> None:
    path = write_graph(tmp_path, linear(precision))
    data = tmp_path / "backbone.onnx_data"
    data.write_bytes(data.read_bytes()[:-40])
    with fails("backbone.onnx_data: cut short, .* bytes of at least"):
        load_graph(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../secret", "must lie beside the graph"),
        ("location", "/etc/passwd", "must lie beside the graph"),
        ("location", "a\\..\\..\\b", "must lie beside the graph"),
        ("length", "7", "does not fit its place"),
        ("offset", "-4", "does not fit its place"),
        ("offset", "many", "does not fit its place"),
    ],
)
def test_data_in_an_odd_place(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = write_graph(tmp_path, linear())
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    with fails(message):
        load_graph(path)


def test_unknown_and_absent_providers(tmp_path: Path) -> None:
    path = write_graph(tmp_path, linear())
    with fails("unknown provider 'gpu': choose one of cpu, cuda, .* \\(here: cpu"):
        load_graph(path, "gpu")
    with fails("provider 'coreml' is not in the installed ONNX Runtime .*: on macOS"):
        load_graph(path, "coreml")


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.BFLOAT16])
def test_operator_that_the_provider_lacks_is_named_with_its_node(tmp_path: Path, dtype: int) -> None:
    node = helper.make_node("TRT_Unheard", ["x"], ["y"], name="blocks.0/quantizer", domain="trt")
    model = make_model([node], {"x": (dtype, [4])}, {"y": (dtype, [4])})
    model.opset_import.append(helper.make_opsetid("trt", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with fails("'cpu' has no operator trt:TRT_Unheard, which node 'blocks.0/quantizer' needs"):
        load_graph(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "input 'x' is not given; it takes x"),
        ({"x": np.ones((1, 8)), "y": np.ones(1)}, "input 'y' is unknown"),
        ({"x": np.ones((1, 9))}, r"input 'x' takes \[B, 8\], not \[1, 9\]"),
        ({"x": np.ones(8)}, r"input 'x' takes \[B, 8\], not \[8\]"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    graph = load_graph(write_graph(tmp_path, linear()))
    with fails(message):
        graph.run(**arrays)


def test_fractions_are_no_token_ids(tmp_path: Path) -> None:
    model = make_model(
        [helper.make_node("Identity", ["ids"], ["y"])],
        {"ids": (TensorProto.INT64, ["n"])},
        {"y": (TensorProto.INT64, ["n"])},
    )
    graph = load_graph(write_graph(tmp_path, model))
    with fails("input 'ids' takes int64, not float64"):
        graph.run(ids=np.ones(3))


def test_a_graph_that_fails_while_it_runs_is_named(tmp_path: Path) -> None:
    model = make_model(
        [helper.make_node("Add", ["a", "b"], ["y"], name="sum")],
        {"a": (TensorProto.FLOAT, ["n"]), "b": (TensorProto.FLOAT, ["m"])},
        {"y": (TensorProto.FLOAT, ["k"])},
    )
    graph = load_graph(write_graph(tmp_path, model))
    with fails("model.onnx: the graph failed: .*'sum'"):
        graph.run(a=np.ones(3), b=np.ones(4))


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_graph_files_give_one_clear_line(tmp_path: Path, data: st.DataObject) -> None:
    path = write_graph(tmp_path, linear("bf16"))
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    message = ""
    try:
        load_graph(path)  # some damage does no harm
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not message or str(tmp_path) in message
