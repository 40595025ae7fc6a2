"""CLIP's picture encoder: pictures come to it as transformers brings them, and what is missing is said."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openkontext import InputError
from openkontext.evaluation.embedding import PREDICTOR, SETTINGS, Clip

SIDE, WIDTH = 32, 6
PROCESSOR = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "size": {"shortest_edge": SIDE},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
WEIGHTS = np.random.default_rng(1).normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An encoder in the layout of the exports: here one linear layer over all pixels."""
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["image_embeds"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["B", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["B", WIDTH])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / SETTINGS).write_text(json.dumps(PROCESSOR))
    return tmp_path


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (90, 50), (41, 77), (20, 16)])
def test_pictures_are_prepared_as_transformers_does(folder: Path, size: tuple[int, int]):
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil(**PROCESSOR)(picture(*size), return_tensors="np")["pixel_values"]
    expected = pixels.reshape(-1) @ WEIGHTS
    found = Clip(folder).embed(picture(*size))
    assert found @ (expected / np.linalg.norm(expected)) > 0.9999
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_the_aesthetic_score_is_linear_in_the_embedding(folder: Path):
    embedding = Clip(folder).embed(picture(40, 40))
    assert Clip(folder).aesthetic(embedding) is None  # no predictor there
    weight = np.arange(WIDTH, dtype=np.float32)
    np.savez(folder / PREDICTOR, weight=weight[None], bias=np.array([5.0]))
    assert Clip(folder).aesthetic(embedding) == pytest.approx(5 + weight @ embedding, abs=1e-5)


def test_what_is_missing_or_damaged_is_said_in_a_line(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match=r"holds no model.onnx of CLIP: fetch it with `hf download"):
        Clip(empty)
    np.savez(folder / PREDICTOR, other=np.zeros(1))
    with pytest.raises(InputError, match="holds no arrays `weight` and `bias`"):
        Clip(folder)
    (folder / SETTINGS).write_text("[]")
    with pytest.raises(InputError, match="sets up no CLIPImageProcessor"):
        Clip(folder)
    (folder / SETTINGS).write_text(json.dumps(PROCESSOR))
    (folder / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="cannot be opened"):
        Clip(folder)
