"""OpenVINO itself, where ONNX Runtime's package for it is installed: `pip install '.[openvino]'`."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from peer_exports import relative_error

import openkontext
from openkontext.places import cache_folder
from openkontext.runtime import load_graph
from openkontext.runtime.graph import Graph

pytestmark = pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-openvino in place of onnxruntime",
)
NANO = Path(openkontext.__file__).parent / "nano"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path))


def step(graph: Graph) -> np.ndarray:
    rng = np.random.default_rng(0)
    return graph.run(
        hidden_states=rng.standard_normal((1, 128, 64)),
        encoder_hidden_states=rng.standard_normal((1, 32, 192)),
        pooled_projections=rng.standard_normal((1, 128)),
        timestep=np.array([0.5]),
        img_ids=np.zeros((128, 3)),
        txt_ids=np.zeros((32, 3)),
        guidance=np.array([2.5]),
    )["latent"]


@pytest.mark.parametrize(("precision", "allowed"), [("bf16", 1e-5), ("fp8", 0.01)])
def test_a_step_is_that_of_the_cpu_provider(precision: str, allowed: float) -> None:
    path = NANO / "transformer.opt" / precision / "model.onnx"
    graph = load_graph(path, "openvino")
    assert relative_error(step(graph), step(load_graph(path, "cpu"))) < allowed


def test_fp8_is_compiled_in_few_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It writes a file for each."""
    monkeypatch.setattr(
        "openkontext.runtime.providers._standing_options",
        lambda name, device=None: {"cache_dir": str(tmp_path / "pieces")} if name == "openvino" else {},
    )
    load_graph(NANO / "transformer.opt" / "fp8" / "model.onnx", "openvino")
    assert 1 <= len(list((tmp_path / "pieces").glob("*.blob"))) <= 8


def test_a_second_opening_reads_what_the_first_compiled_or_nothing_was_kept() -> None:
    path = NANO / "clip.opt" / "model.onnx"
    first = load_graph(path, "openvino").run(input_ids=np.ones((1, 32), np.int64))["pooled_embeddings"]
    kept = {file: file.stat().st_mtime_ns for file in (cache_folder() / "openvino").glob("*")}
    second = load_graph(path, "openvino").run(input_ids=np.ones((1, 32), np.int64))["pooled_embeddings"]
    np.testing.assert_array_equal(first, second)
    assert kept == {file: file.stat().st_mtime_ns for file in (cache_folder() / "openvino").glob("*")}
