"""Exports in int8: the numbers that are stored, the graph in plain ONNX Runtime, size, error, and edits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from openkontext.export.exporting import export_repository
from openkontext.model.pipeline import Pipeline
from openkontext.repository import Repository
from openkontext.runtime import graph as graph_module
from openkontext.runtime import int8_weights, load_graph


@pytest.fixture(scope="module")
def exported(shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The small model in int8 and what it is compared with."""
    out = tmp_path_factory.mktemp("int8") / "out"
    return export_repository(shared_pipeline, out, ("fp32", "bf16", "int8"))


@pytest.fixture
def given(transformer_inputs: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in transformer_inputs(2, (48, 64), (32, 80)).items()}


def stored(path: Path) -> dict[str, np.ndarray]:
    """The weights of a graph by their names."""
    model = onnx.load(path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_weights_are_rounded_per_output_channel(exported: Repository) -> None:
    exact, codes = (stored(exported.graph("transformer", p)) for p in ("fp32", "int8"))
    layers = {name for name, array in codes.items() if array.dtype == np.int8}
    assert layers == {name for name, array in exact.items() if array.ndim == 2 and "blocks" in name}
    for name in layers:
        steps = codes[f"{name}_scale"]
        np.testing.assert_allclose(steps, np.abs(exact[name]).max(1) / 127, rtol=1e-6)
        assert np.abs(codes[name]).max(0).min() == 127
        error = codes[name].T * steps[:, None] - exact[name]
        assert (np.abs(error) <= 0.50001 * steps[:, None]).all()
    rest = [array for name, array in codes.items() if name not in layers]
    assert {array.dtype for array in rest} == {np.dtype(np.float32)}


def test_opens_in_plain_onnx_runtime(exported: Repository, given: dict[str, np.ndarray]) -> None:
    """With operators of ONNX alone, and the numbers of the rule."""
    path = exported.graph("transformer", "int8")
    model = onnx.load(path, load_external_data=False)
    assert {opset.domain for opset in model.opset_import} == {""}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["latent"], given)[0]
    exact = load_graph(exported.graph("transformer", "fp32")).run(**given)["latent"]
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.024  # what FP8 as published costs


@pytest.mark.parametrize("bits", [8, 7])
def test_our_products_of_integers_give_the_same(
    exported: Repository,
    given: dict[str, np.ndarray],
    bits: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path))
    monkeypatch.setattr(graph_module, "weight_bits", lambda: bits)
    path = exported.graph("transformer", "int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # it would round in blocks besides
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    said = session.run(["latent"], given)[0]
    if bits == 8:
        monkeypatch.setattr(int8_weights, "quantize", None)  # the file's own weights are taken
    faithful, found = (
        load_graph(path, arithmetic=name, role="transformer").run(**given)["latent"]
        for name in ("faithful", "int8")
    )
    # A code at an edge may fall the other way.
    np.testing.assert_allclose(faithful, said, atol=2e-3 * np.abs(said).max())
    error = np.linalg.norm(found - said) / np.linalg.norm(said)
    assert error < (2e-3 if bits == 8 else 0.024)
    assert (tmp_path / "weights").exists() == (bits == 7)


def test_the_size_is_that_of_a_byte_a_weight(exported: Repository) -> None:
    path = exported.graph("transformer", "int8")
    arrays = list(stored(path).values())
    codes = sum(array.size for array in arrays if array.dtype == np.int8)
    rest = 4 * sum(array.size for array in arrays if array.dtype != np.int8)
    places = 64 * len(arrays) + 4096 * sum(array.nbytes >= 1 << 16 for array in arrays)
    assert codes + rest <= path.with_name("backbone.onnx_data").stat().st_size <= codes + rest + places


def test_a_lora_stands_beside_integer_layers(exported: Repository, given: dict[str, np.ndarray]) -> None:
    from openkontext.lora import LowRank
    from openkontext.runtime.adapters import parameter_shapes

    path = exported.graph("transformer", "int8")
    shapes = parameter_shapes(path, "transformer")
    assert shapes == parameter_shapes(exported.graph("transformer", "fp32"), "transformer")
    rng = np.random.default_rng(0)
    changes = {
        name: LowRank(rng.normal(size=(2, shape[1])), rng.normal(size=(shape[0], 2)) * 0.1, 2.0)
        for name, shape in shapes.items()
        if len(shape) == 2 and ("to_q" in name or "proj_out" in name)
    }
    results = {
        precision: load_graph(
            exported.graph("transformer", precision), role="transformer", adapters=[changes], strengths=[1.0]
        ).run(**given)["latent"]
        for precision in ("fp32", "int8")
    }
    plain = load_graph(exported.graph("transformer", "fp32")).run(**given)["latent"]
    norm = np.linalg.norm(results["fp32"])
    assert np.linalg.norm(results["int8"] - results["fp32"]) / norm < 0.024
    assert np.linalg.norm(plain - results["fp32"]) / norm > 0.05
