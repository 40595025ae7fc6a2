"""What TensorRT would be given: options as a session records them, and graphs of operators that it knows."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from tiny import TINY, write_tiny_repository

from openkontext.errors import InputError
from openkontext.latents import PREFERRED_SIZES
from openkontext.repository import Repository
from openkontext.runtime import graph as graph_module
from openkontext.runtime import load_graph, providers
from openkontext.runtime.components import Components
from openkontext.runtime.lowering import lower
from openkontext.runtime.model_file import read_model
from openkontext.runtime.providers import split_device
from openkontext.runtime.tensorrt import axis_ranges


@pytest.fixture
def recorded(monkeypatch) -> list[dict[str, Any]]:
    """What a session is opened with on a machine that has these providers; the CPU stands in for them."""
    calls: list[dict[str, Any]] = []
    session = onnxruntime.InferenceSession

    class Recording(session):
        def __init__(self, source, options, providers, provider_options, **rest):
            calls.append(dict(zip(providers, provider_options, strict=True)))
            self.asked = providers
            super().__init__(source, options, providers=["CPUExecutionProvider"], **rest)

        def get_providers(self):
            return self.asked

    monkeypatch.setattr(graph_module.onnxruntime, "InferenceSession", Recording)
    names = ["cpu", "cuda", "tensorrt", "nvtensorrtrtx"]
    monkeypatch.setattr(providers, "available_providers", lambda: names)
    monkeypatch.setattr(graph_module, "available_providers", lambda: names)
    return calls


def shapes(text: str) -> dict[str, list[int]]:
    """As ONNX Runtime reads them: name:1x2x3,name:4x5."""
    return {
        name: [int(size) for size in sizes.split("x")]
        for name, _, sizes in (each.partition(":") for each in text.split(","))
    }


def test_the_transformer_is_told_sizes_caches_and_device(recorded, tmp_path):
    repository = Repository.open(write_tiny_repository(tmp_path / "tiny", ("fp32",)))
    Components(repository, "fp32", "tensorrt:2").preload()
    by_role = dict(zip(("clip", "t5", "transformer", "vae", "vae_encoder"), recorded, strict=True))
    options = by_role["transformer"]["TensorrtExecutionProvider"]
    assert options["device_id"] == "2"
    assert by_role["transformer"]["CUDAExecutionProvider"] == {"device_id": "2"}
    assert by_role["transformer"]["CPUExecutionProvider"] == {}
    for cache in ("engine", "timing"):
        assert options[f"trt_{cache}_cache_enable"] == "1"
        assert Path(options[f"trt_{cache}_cache_path"]).is_dir()
    least, usual, most = (shapes(options[f"trt_profile_{key}_shapes"]) for key in ("min", "opt", "max"))
    # 64x64, 96x64 and 64x96 pixels are 16, 24 and 24 tokens; a sixteenth of the pixels is worked at, too.
    assert least["hidden_states"] == [1, 1, 64]
    assert usual["hidden_states"] == [1, 32, 64]
    assert most["hidden_states"] == [4, 5 * 24, 64]
    assert (least["img_ids"], usual["img_ids"], most["img_ids"]) == ([1, 3], [32, 3], [120, 3])
    assert usual["timestep"] == [1]
    assert "txt_ids" not in usual  # fixed in the graph
    encoder = by_role["vae_encoder"]["TensorrtExecutionProvider"]
    assert shapes(encoder["trt_profile_max_shapes"]) == {"images": [4, 3, 96, 96]}
    decoder = by_role["vae"]["TensorrtExecutionProvider"]
    assert shapes(decoder["trt_profile_opt_shapes"]) == {"latent": [1, 16, 8, 8]}


def test_tensorrt_rtx_has_names_of_its_own(recorded, tmp_path):
    repository = Repository.open(write_tiny_repository(tmp_path / "tiny", ("fp32",)))
    load_graph(
        repository.graph("transformer", "fp32"),
        "nvtensorrtrtx",
        role="transformer",
        ranges=axis_ranges(TINY.sizes, TINY.min_area),
    )
    options = recorded[-1]["NvTensorRTRTXExecutionProvider"]
    assert options["device_id"] == "0"
    assert Path(options["nv_runtime_cache_path"]).is_dir()
    assert shapes(options["nv_profile_max_shapes"])["hidden_states"] == [4, 120, 64]


def test_the_ranges_hold_all_seventeen_sizes():
    ranges = axis_ranges(PREFERRED_SIZES, 1 / 16)
    for width, height in PREFERRED_SIZES:
        tokens = width // 16 * (height // 16)
        for contexts in range(5):  # text to image, an edit, up to three references
            assert ranges["tokens"].least <= (1 + contexts) * tokens <= ranges["tokens"].most
        assert ranges["width"].least <= width <= ranges["width"].most
        assert ranges["latent_height"].least <= height // 8 <= ranges["latent_height"].most
    assert ranges["tokens"].usual == 2 * 4096
    assert (ranges["height"].usual, ranges["width"].usual) == (1024, 1024)


@pytest.mark.parametrize(("name", "device"), [("cuda", 0), ("cuda:0", 0), ("tensorrt:3", 3)])
def test_a_device_stands_behind_a_colon(name, device):
    assert split_device(name) == (name.partition(":")[0], device)


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cpu:1", "coreml:0"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(InputError, match="as cuda:1"):
        split_device(name)


@needs_peers
@pytest.mark.parametrize(("name", "allowed"), [("fp8", 0.022), ("fp4", 0.052), ("fp4_svd", 0.046)])
@pytest.mark.parametrize("provider", ["tensorrt", "nvtensorrtrtx"])
def test_where_tensorrts_operators_are_not_known_the_standard_ones_stand_for_them(
    name, allowed, provider, tmp_path
):
    path = PEER_EXPORTS / name / "model.onnx"
    model = read_model(path)
    assert lower(model, path, provider, computes=lambda *_: True) is None  # knows them: the file as it is
    lowered = lower(model, path, provider, computes=lambda _model, node, _case: not node.domain)
    assert lowered is not None
    assert not {node.domain for node in lowered.graph.node} & {"trt"}
    if name == "fp8":
        codes = [value for value in lowered.graph.node if value.op_type == "QuantizeLinear"]
        assert codes
        types = {each.name: each.data_type for each in lowered.graph.initializer}
        assert TensorProto.FLOAT8E4M3FN in types.values() or any(
            attribute.t.data_type == TensorProto.FLOAT8E4M3FN
            for node in lowered.graph.node
            for attribute in node.attribute
        )
    (tmp_path / "model.onnx").write_bytes(lowered.SerializeToString())
    for data in (PEER_EXPORTS / name).glob("*data*"):
        (tmp_path / data.name).symlink_to(data)
    cases = np.load(PEER_EXPORTS / name / "cases.npz")
    feed = {key.removeprefix("in0_"): cases[key] for key in cases.files if key.startswith("in0_")}
    (found,) = load_graph(tmp_path / "model.onnx").run(**feed).values()
    assert relative_error(found, cases["out0"]) <= allowed


def test_an_operator_is_known_where_onnx_runtime_finds_it():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "trt": 1]>
        one (float[4] x0, float x1) => (uint8[4] y0) { y0 = trt.TRT_FP8QuantizeLinear (x0, x1) }"""
    )
    assert not providers._registers(model.SerializeToString(), "cpu")
