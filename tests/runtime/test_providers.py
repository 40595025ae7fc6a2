"""What providers that are not here would be handed: by documentation, and by ONNX Runtime's own checks."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from kernels import documented, undocumented
from onnx import TensorProto
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from quantized_graphs import KINDS, Draft

from openkontext.runtime import graph as graph_module
from openkontext.runtime import load_graph
from openkontext.runtime.lowering import lower
from openkontext.runtime.model_file import read_model
from openkontext.runtime.providers import PROVIDERS, value_types

PRODUCTS = ("MatMul", "Gemm", "MatMulNBits")


def for_cuda(path: Path, arithmetic: str) -> onnx.ModelProto:
    model = read_model(path)
    lowered = lower(model, path, "cuda", arithmetic, documented("cuda"))
    return onnx.shape_inference.infer_shapes(model if lowered is None else lowered)


def check_types(model: onnx.ModelProto, folder: Path) -> None:
    """ONNX Runtime checks types before it looks for kernels, of which the CPU has none in bfloat16."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    failure = ""
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception as error:
        failure = str(error)
    assert not failure or "NOT_IMPLEMENTED" in failure


def product_types(model: onnx.ModelProto) -> set[int]:
    types = value_types(model)
    return {types[node.output[0]] for node in model.graph.node if node.op_type in PRODUCTS}


@needs_peers
@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [("bf16", "faithful"), ("fp8", "faithful"), ("fp4", "faithful"), ("fp4_svd", "fast")],
)
def test_cuda_is_handed_documented_kernels_that_multiply_in_16_bits(name: str, arithmetic: str) -> None:
    path = PEER_EXPORTS / name / "model.onnx"
    assert list(undocumented(read_model(path), "cuda"))  # the file itself it could not run
    model = for_cuda(path, arithmetic)
    assert list(undocumented(model, "cuda")) == []
    check_types(model, path.parent)
    operators = {node.op_type for node in model.graph.node}
    assert ("MatMulNBits" in operators) == (name.startswith("fp4") and arithmetic == "fast")
    types = product_types(model)
    # Attention in FP8 multiplies in float32, as its file says.
    assert TensorProto.BFLOAT16 in types
    assert types <= {TensorProto.BFLOAT16, TensorProto.FLOAT}
    wide = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims[1:]]
    assert set(wide) <= {"e2m1_values"}  # weights stay as they are stored


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_layers_on_cuda(tmp_path: Path, kind: str, arithmetic: str, seed: int) -> None:
    """The graph made for CUDA is right by type there, and by value once the CPU has it in float32."""
    rng = np.random.default_rng(seed)
    precision = str(rng.choice(["bf16", "fp16", "fp32"]))
    x = rng.standard_normal((3, 48)).astype(np.float32)
    draft = Draft(rng, precision, {"x": x}, fast=arithmetic == "fast")
    y = draft.linear("x", rng.standard_normal((24, 48)).astype(np.float32), kind, None, seed % 2 == 0)
    path = draft.save(tmp_path, y, {"x": ["B", 48]})
    model = for_cuda(path, arithmetic)
    assert list(undocumented(model, "cuda")) == []
    check_types(model, tmp_path)
    (tmp_path / "cuda.onnx").write_bytes(model.SerializeToString())
    result = load_graph(tmp_path / "cuda.onnx").run(x=draft.values["x"])["y"]
    allowed = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 1e-2}[precision]
    if kind.startswith("fp4") and arithmetic == "fast":
        allowed = 2e-2  # the CPU's kernel rounds activations to 8 bits
    elif kind in ("fp4 smoothed", "fp4 svd"):
        allowed = 0.06  # a value at an edge comes out a whole step of E2M1 away
    assert relative_error(result, draft.values[y]) < allowed


@pytest.mark.parametrize("provider", ["tensorrt", "nvtensorrtrtx"])
@pytest.mark.parametrize("kind", ["fp8", "fp4"])
def test_tensorrt_is_given_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, kind: str
) -> None:
    rng = np.random.default_rng(0)
    draft = Draft(rng, "bf16", {"x": rng.standard_normal((3, 32)).astype(np.float32)})
    y = draft.linear("x", rng.standard_normal((16, 32)).astype(np.float32), kind)
    path = draft.save(tmp_path, y, {"x": ["B", 32]})
    given: dict[str, Any] = {}

    class Session:
        """Stands for a session of a provider that needs a GPU."""

        def __init__(self, source: Any, options: Any, **arguments: Any) -> None:
            given.update(arguments, source=source)

        def get_providers(self) -> list[str]:
            return given["providers"]

        def get_inputs(self) -> list[Any]:
            return []

        get_outputs = get_inputs

    monkeypatch.setattr(graph_module, "available_providers", lambda: ["cpu", "cuda", provider])
    monkeypatch.setattr(graph_module, "check_provider", lambda name: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    before = path.read_bytes()
    for arithmetic in ("faithful", "fast"):
        load_graph(path, provider, arithmetic=arithmetic)
        assert given["source"] == str(path)
        assert given["providers"] == [PROVIDERS[name] for name in (provider, "cuda", "cpu")]
        assert given["disabled_optimizers"] is None
    assert path.read_bytes() == before
