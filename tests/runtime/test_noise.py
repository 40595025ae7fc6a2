"""An image encoder that samples, as the publisher's exporter wraps it, gives the mean on every provider."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL
from onnx import TensorProto, helper
from tiny import make_model
from torch import nn

from openkontext.runtime import load_graph
from openkontext.runtime.lowering import lower, needs_lowering
from openkontext.runtime.model_file import read_model

PROVIDERS = ("cpu", "cuda", "tensorrt", "nvtensorrtrtx", "openvino")


class Sampling(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images):
        return self.vae.encode(images).latent_dist.sample()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def exported(request, vae, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vae") / "model.onnx"
    dtype = getattr(torch, request.param)
    module = Sampling(vae).to(dtype)
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, 16, 16, dtype=dtype),),
        str(path),
        input_names=["images"],
        output_names=["latent"],
        dynamo=False,
        opset_version=20,
    )
    vae.float()
    return path


@pytest.mark.filterwarnings("ignore")
def test_the_mean_comes_out_and_every_time(exported, vae):
    assert "RandomNormalLike" in {node.op_type for node in onnx.load(exported).graph.node}
    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    graph = load_graph(exported)
    first, second = (graph.run(images=images)["latent"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with torch.no_grad():
        wanted = vae.float().encode(torch.from_numpy(images)).latent_dist.mode().numpy()
    assert np.linalg.norm(first - wanted) / np.linalg.norm(wanted) < 2**-7
    np.testing.assert_array_equal(load_graph(exported).run(images=images)["latent"], first)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_provider_is_given_the_draw(exported, provider):
    model = read_model(exported)
    assert needs_lowering(model, provider)
    lowered = lower(model, exported, provider, computes=lambda *_: True)
    assert lowered is not None
    assert not {"RandomNormal", "RandomNormalLike"} & {node.op_type for node in lowered.graph.node}


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("RandomNormal", [], {"shape": [2, 3], "mean": 0.5}),
        ("RandomNormalLike", ["x"], {"mean": -2.0}),
        ("RandomNormalLike", ["x"], {"dtype": TensorProto.FLOAT, "seed": 3.0}),
    ],
)
def test_a_draw_becomes_its_mean(op_type, inputs, attributes, tmp_path):
    nodes = [
        helper.make_node(op_type, inputs, ["n"], **attributes),
        helper.make_node("Add", ["x", "n"], ["y"]),
    ]
    shape = (TensorProto.FLOAT, [2, 3])
    onnx.save(make_model(nodes, {"x": shape}, {"y": shape}), tmp_path / "model.onnx")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = load_graph(tmp_path / "model.onnx").run(x=x)["y"]
    np.testing.assert_array_equal(found, x + np.float32(attributes.get("mean", 0)))
