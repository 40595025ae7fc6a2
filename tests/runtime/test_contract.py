"""Graphs held against the role that they are opened for."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import make_model, write_tiny_repository

from openkontext.errors import InputError
from openkontext.runtime import load_graph
from openkontext.runtime.contract import CONTRACT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_repository(tmp_path_factory.mktemp("repository"), ["fp32"])


def graph_path(folder: Path, role: str) -> Path:
    return folder / f"{role}.opt" / ("fp32" if role == "transformer" else "") / "model.onnx"


@pytest.mark.parametrize("role", CONTRACT)
def test_every_graph_fits_its_own_role_and_no_other(folder: Path, role: str) -> None:
    graph = load_graph(graph_path(folder, role), role=role)
    assert list(graph.inputs) == list(CONTRACT[role].inputs)
    for other in CONTRACT.keys() - {role}:
        with pytest.raises(InputError, match=f"model.onnx: (not a {other} graph|'input_ids')|not the right"):
            # CLIP and T5 share their input and are told apart by their output.
            load_graph(graph_path(folder, role), role=other)


def saved(tmp_path: Path, inputs: dict[str, list[object]], outputs: dict[str, list[object]]) -> Path:
    """A graph without nodes: only its ends matter here."""
    ends = [{name: (TensorProto.FLOAT, shape) for name, shape in end.items()} for end in (inputs, outputs)]
    model = make_model([], ends[0], ends[1])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            {"picture": ["B", 3, "H", "W"]},
            {"latent": ["B", 16, "h", "w"]},
            "no input 'images', only 'picture'",
        ),
        ({"images": ["B", 3, "H", "W"]}, {"mean": ["B", 16, "h", "w"]}, "no output 'latent', only 'mean'"),
        (
            {"images": ["B", 3, "H", "W"], "noise": [1]},
            {"latent": ["B", 16, "h", "w"]},
            "asks for an input 'noise'",
        ),
        ({"images": [3, "H", "W"]}, {"latent": ["B", 16, "h", "w"]}, "'images' has 3 axes where"),
        (
            {"images": ["B", 4, "H", "W"]},
            {"latent": ["B", 16, "h", "w"]},
            r"'images' is \[B, 4, H, W\] where",
        ),
    ],
)
def test_a_graph_of_another_shape_is_told_what_it_lacks(
    tmp_path: Path, inputs: dict[str, list[object]], outputs: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_graph(saved(tmp_path, inputs, outputs), role="vae_encoder")


def test_sizes_within_a_graph_must_agree(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(graph_path(folder, "transformer"))
    ids = next(value for value in model.graph.input if value.name == "txt_ids")
    ids.CopyFrom(helper.make_tensor_value_info("txt_ids", TensorProto.FLOAT, [9, 3]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"'txt_ids': text_length is 9, but 8 in .*'encoder_hidden_states'"):
        load_graph(tmp_path / "model.onnx", role="transformer")


def test_a_graph_that_says_nothing_of_its_shapes_is_taken(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(graph_path(folder, "clip"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    load_graph(tmp_path / "model.onnx", role="clip")
