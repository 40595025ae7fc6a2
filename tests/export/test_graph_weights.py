"""Weights read back from graphs: of torch's exporter, of NVIDIA's quantizer, and of our own."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from torch_exports import write_exported

from openkontext.errors import InputError
from openkontext.export.exporting import export_repository
from openkontext.export.graph_weights import GraphFloats, rotary_numbers
from openkontext.export.loading import import_repository, open_model
from openkontext.model.checkpoints import transformer_of
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository, RepositoryConfig

PARTS = ("transformer", "autoencoder", "clip", "t5")
SETTINGS = RepositoryConfig(
    name="theirs", license="MIT", text_length=12, clip_length=9, scaling_factor=0.7, shift_factor=-0.2
)


@pytest.fixture(scope="module")
def theirs(shared_pipeline, tmp_path_factory) -> Path:
    """The model as torch's exporter writes it, in the published layout."""
    for part in PARTS:  # some weights are equal, which an exporter stores once
        with torch.no_grad():
            for name, value in getattr(shared_pipeline, part).named_parameters():
                if "norm" in name and value.ndim == 1 and ".1." in name:
                    value.fill_(1)
    folder = write_exported(shared_pipeline, tmp_path_factory.mktemp("theirs") / "repository")
    SETTINGS.save(folder)
    return folder


def test_graphs_of_torchs_exporter_hold_the_weights_that_went_in(shared_pipeline, theirs):
    back = import_repository(theirs)
    assert back.config == shared_pipeline.config  # the number of CLIP's heads and the rotary axes, too
    for part in PARTS:
        stored, returned = (getattr(each, part).state_dict() for each in (shared_pipeline, back))
        assert returned.keys() == stored.keys()
        for name, weight in returned.items():
            assert torch.equal(weight, stored[name].bfloat16()), name


def test_they_export_as_the_checkpoint_does(shared_pipeline, theirs, tmp_path):
    ours, meant = (
        export_repository(each, tmp_path / str(i)) for i, each in enumerate((theirs, shared_pipeline))
    )
    for file in meant.path.rglob("*.onn*"):
        assert file.read_bytes() == (ours.path / file.relative_to(meant.path)).read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("encoder/layers.1/mlp/fc2/MatMul", "Identity"), "the tensor|is missing"),
        (("encoder/layers.1/self_attn/Softmax", "Identity"), "something else than CLIP"),
    ],
)
def test_a_text_encoder_that_is_no_clip_is_told(change, said, theirs, tmp_path):
    for each in theirs.iterdir():
        (tmp_path / each.name).symlink_to(each)
    (tmp_path / "clip.opt").unlink()
    model = onnx.load(theirs / "clip.opt" / "model.onnx")
    (node,) = [node for node in model.graph.node if node.name.endswith(change[0])]
    node.op_type, node.input[:] = change[1], node.input[:1]
    del node.attribute[:]
    (tmp_path / "clip.opt").mkdir()
    onnx.save(model, tmp_path / "clip.opt" / "model.onnx")
    with pytest.raises(InputError, match=said) as caught:
        import_repository(tmp_path)
    assert "clip.opt" in str(caught.value)


def peer(folder: str) -> tuple[GraphFloats, onnx.ModelProto]:
    path = PEER_EXPORTS / folder / "model.onnx"
    return GraphFloats(path, "transformer"), onnx.load(path)


def constants(model: onnx.ModelProto) -> dict[str, NDArray]:
    """Every stored array by its name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in found.items()
        if tensor.data_type != TensorProto.FLOAT4E2M1
    }


@needs_peers
def test_fp8_is_code_times_scale():
    floats, model = peer("fp8")
    stored, checked = constants(model), 0
    for node in model.graph.node:
        if node.op_type != "TRT_FP8QuantizeLinear" or not node.input[0].startswith("m."):
            continue
        weight, scale = (np.asarray(stored[name], np.float32) for name in node.input)
        codes = np.clip(weight / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        meant = (codes * scale).astype(ml_dtypes.bfloat16)  # as the graph has it
        name = node.input[0].removeprefix("m.")
        found = floats.read(name, 0, len(weight))
        assert found.dtype == torch.bfloat16
        np.testing.assert_array_equal(found.float().numpy(), meant.astype(np.float32))
        checked += 1
    assert checked > 30


def e2m1(tensor: TensorProto) -> NDArray[np.float32]:
    codes = np.frombuffer(tensor.raw_data, np.uint8)
    codes = np.stack((codes & 15, codes >> 4), axis=-1).reshape(-1)
    return codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32).reshape(tensor.dims)


@needs_peers
@pytest.mark.parametrize("folder", ["fp4", "fp4_svd"])
def test_fp4_is_code_times_scales_and_svdquants_branch(folder):
    floats, model = peer(folder)
    stored, checked = constants(model), 0
    for tensor in model.graph.initializer:
        if not tensor.name.endswith("weight_f4"):
            continue
        layer = tensor.name.removesuffix(".weight_f4")
        steps = stored[f"{layer}.weight_f8_scale"].astype(np.float32)
        steps = steps * stored[f"{layer}.weight_f8_scale_f32_scale"]
        meant = e2m1(tensor) * np.repeat(steps, 16, axis=1)
        if folder == "fp4_svd":
            down, up, smooth = (
                stored[f"{layer}.{name}"].astype(np.float32)
                for name in (
                    "weight_quantizer._svdquant_lora_a",
                    "weight_quantizer._svdquant_lora_b",
                    "input_quantizer._pre_quant_scale",
                )
            )
            meant = meant.astype(ml_dtypes.bfloat16).astype(np.float32) + up @ down
            meant = meant * smooth.reshape(1, -1)
        name = f"{layer.removeprefix('m.')}.weight"
        found = floats.read(name, 0, len(meant)).float().numpy()
        np.testing.assert_allclose(found, meant, rtol=2**-7, atol=1e-4 * np.abs(meant).max())
        checked += 1
    assert checked > 20


@needs_peers
@pytest.mark.parametrize(
    ("folder", "allowed"), [("bf16", 0.01), ("fp8", 0.03), ("fp4", 0.08), ("fp4_svd", 0.08)]
)
def test_torch_computes_with_them_what_the_graph_was_made_from(folder, allowed):
    """In float32, at the timestep and guidance that bfloat16 makes of theirs times 1000."""
    floats, _ = peer(folder)
    network = transformer_of(floats, **rotary_numbers(floats.graph))
    assert network.config.axes_dims_rope == (8, 12, 12)
    model = FluxTransformer(network.config).eval()
    model.load_state_dict({name: network.read(name).float() for name in network.shapes})
    cases, meant = (np.load(PEER_EXPORTS / each / "cases.npz") for each in (folder, "bf16"))
    inputs = {name[4:]: torch.from_numpy(cases[name]) for name in cases.files if name.startswith("in0_")}
    for name in ("timestep", "guidance"):
        inputs[name] = (inputs[name].bfloat16() * 1000).float() / 1000
    with torch.no_grad():
        assert relative_error(model(**inputs).numpy(), meant["out0"]) < allowed


def test_nanos_fp4_graph_holds_its_weights_to_its_precision():
    """Its weights were rounded with feedback, which moves them by more than the next value."""
    path = Repository.open("nano").path
    exact, found = (
        GraphFloats(path / "transformer.opt" / each / "model.onnx", "transformer") for each in ("bf16", "fp4")
    )
    assert exact.shapes == found.shapes
    for name in ("transformer_blocks.1.attn.to_q.weight", "single_transformer_blocks.3.proj_mlp.bias"):
        weights = [each.read(name, 0, each.shapes[name][0]).float().numpy() for each in (found, exact)]
        assert relative_error(*weights) < (0.25 if name.endswith("weight") else 1e-9), name


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        open_model(tmp_path / "nothing")
    with pytest.raises(InputError, match="not fetched yet"):
        open_model("somebody/something")
    (tmp_path / "transformer.opt" / "bf16").mkdir(parents=True)
    Path(tmp_path / "transformer.opt" / "bf16" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="lacks clip"):
        open_model(tmp_path)
