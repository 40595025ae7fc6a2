"""A folder as `optimum-cli export onnx` leaves it opens as a repository and computes the same."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny import POOLED_WIDTH, TEXT_WIDTH, TINY, write_tiny_repository

from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.runtime.components import Components

INPUTS = {"vae_decoder": {"latent": "latent_sample"}, "vae_encoder": {"images": "sample"}}
OUTPUTS = {
    "text_encoder": {"pooled_embeddings": "pooler_output"},
    "text_encoder_2": {"text_embeddings": "last_hidden_state"},
    "transformer": {"latent": "out_hidden_states"},
    "vae_decoder": {"images": "sample"},
}
PLACES = {
    "text_encoder": "clip.opt",
    "text_encoder_2": "t5.opt",
    "transformer": "transformer.opt/{}",
    "vae_decoder": "vae.opt",
    "vae_encoder": "vae_encoder.opt",
}


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)


def moments(model: onnx.ModelProto) -> None:
    """The encoder gives mean and logarithm of the variance, one behind the other."""
    for node in model.graph.node:
        node.output[:] = ["mean" if name == "latent" else name for name in node.output]
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("Neg", ["mean"], ["log_variance"]))
    model.graph.node.append(
        helper.make_node("Concat", ["mean", "log_variance"], ["latent_parameters"], axis=1)
    )
    output.name = "latent_parameters"
    output.type.tensor_type.shape.dim[1].dim_value = 32


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def both(request, tmp_path_factory) -> tuple[Repository, Repository]:
    """A repository in the published layout, and the same model as optimum lays it out."""
    precision = request.param
    source = write_tiny_repository(tmp_path_factory.mktemp("published") / "tiny", (precision,))
    out = tmp_path_factory.mktemp("optimum") / "tiny-onnx"
    for folder, place in PLACES.items():
        model = onnx.load(source / place.format(precision) / "model.onnx")
        rename(model, INPUTS.get(folder, {}) | OUTPUTS.get(folder, {}))
        if folder == "vae_encoder":
            moments(model)
        (out / folder).mkdir(parents=True)
        onnx.save_model(
            model, out / folder / "model.onnx", save_as_external_data=True, location="model.onnx_data"
        )
    said = {"scaling_factor": 0.5, "shift_factor": 0.25, "latent_channels": 16}
    write(out / "vae_decoder" / "config.json", said)
    write(out / "transformer" / "config.json", {"num_layers": 2, "num_single_layers": 2})
    write(out / "text_encoder" / "config.json", {"max_position_embeddings": TINY.clip_length})
    write(out / "scheduler" / "scheduler_config.json", {"base_shift": 0.4, "max_shift": 0.9})
    write(out / "model_index.json", {"_class_name": "FluxPipeline"})
    for tokenizer in ("tokenizer", "tokenizer_2"):
        (out / tokenizer).mkdir()
        content = (source / tokenizer / "tokenizer.json").read_bytes()
        (out / tokenizer / "tokenizer.json").write_bytes(content)
    write(out / "tokenizer_2" / "tokenizer_config.json", {"model_max_length": TINY.text_length})
    return Repository.open(source), Repository.open(out)


def write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_its_own_files_say_the_numbers(both):
    published, found = both
    assert found.precisions == published.precisions
    found.verify(found.precisions[0])
    config = found.config
    assert (config.name, config.license) == ("tiny-onnx", "not stated")
    assert (config.scaling_factor, config.shift_factor) == (0.5, 0.25)
    assert (config.base_shift, config.max_shift) == (0.4, 0.9)
    assert (config.clip_length, config.text_length) == (TINY.clip_length, TINY.text_length)
    assert config.position_rule == "offset"


def test_its_graphs_compute_what_the_published_ones_do(both):
    theirs, ours = (Components(each, each.precisions[0]) for each in reversed(both))
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    latent = ours.encode(images)
    np.testing.assert_array_equal(theirs.encode(images), latent)
    np.testing.assert_array_equal(theirs.decode(latent), ours.decode(latent))
    clip_ids, t5_ids = np.ones((1, TINY.clip_length), int), np.ones((1, TINY.text_length), int)
    np.testing.assert_array_equal(theirs.clip(clip_ids), ours.clip(clip_ids))
    np.testing.assert_array_equal(theirs.t5(t5_ids), ours.t5(t5_ids))
    feed = {
        "hidden_states": rng.standard_normal((1, 6, 64)),
        "encoder_hidden_states": rng.standard_normal((1, TINY.text_length, TEXT_WIDTH)),
        "pooled_projections": rng.standard_normal((1, POOLED_WIDTH)),
        "timestep": np.array([0.5]),
        "img_ids": np.ones((6, 3)),
        "txt_ids": np.zeros((TINY.text_length, 3)),
        "guidance": np.array([2.5]),
    }
    np.testing.assert_array_equal(theirs.transformer(**feed), ours.transformer(**feed))


def test_one_of_the_published_shape_is_under_its_license(both, tmp_path):
    _, found = both
    folder = tmp_path / "renamed"
    folder.mkdir()
    for each in found.path.iterdir():
        if each.name != "transformer":
            (folder / each.name).symlink_to(each)
    (folder / "transformer").mkdir()
    for file in found.path.joinpath("transformer").glob("model*"):
        (folder / "transformer" / file.name).symlink_to(file)  # and no config.json
    assert Repository.open(folder, consent=False).terms.required


def test_a_missing_graph_is_named(both, tmp_path):
    _, found = both
    folder = tmp_path / "part"
    folder.mkdir()
    for each in found.path.iterdir():
        if each.name != "vae_encoder":
            (folder / each.name).symlink_to(each)
    with pytest.raises(InputError, match="lacks vae_encoder"):
        Repository.open(folder).verify(found.precisions[0])
