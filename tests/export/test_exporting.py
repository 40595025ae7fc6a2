"""Whole repositories: what lies where, the way back into torch, and what is left when something fails."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.export import exporting as export
from openkontext.export import work
from openkontext.export.exporting import export_repository
from openkontext.export.loading import import_repository
from openkontext.model.checkpoints import save_autoencoder, save_transformer
from openkontext.model.pipeline import save_pipeline
from openkontext.repository import Repository, RepositoryConfig
from openkontext.runtime import load_graph

PARTS = ("transformer", "autoencoder", "clip", "t5")


def test_layout_is_the_published_one(pipeline, tmp_path):
    out = export_repository(pipeline, tmp_path / "out", ("bf16", "fp32")).path
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "clip.opt/model.onnx",
        "t5.opt/model.onnx",
        "t5.opt/backbone.onnx_data",
        "transformer.opt/bf16/model.onnx",
        "transformer.opt/bf16/backbone.onnx_data",
        "transformer.opt/fp32/model.onnx",
        "transformer.opt/fp32/backbone.onnx_data",
        "vae.opt/model.onnx",
        "vae_encoder.opt/model.onnx",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer.json",
        "openkontext.json",
    }
    assert json.loads((out / "tokenizer_2/tokenizer.json").read_text()) == {"of": "tokenizer_2"}
    for folder, dtype in (("bf16", onnx.TensorProto.BFLOAT16), ("fp32", onnx.TensorProto.FLOAT)):
        model = onnx.load(out / "transformer.opt" / folder / "model.onnx", load_external_data=False)
        weights = dict(pipeline.transformer.named_parameters())
        assert {weight.name for weight in model.graph.initializer} == set(weights)
        for weight in model.graph.initializer:
            assert weight.data_type == dtype
            assert {entry.key: entry.value for entry in weight.external_data}[
                "location"
            ] == "backbone.onnx_data"
    for file in out.rglob("model.onnx"):
        onnx.checker.check_model(file, full_check=True)


def test_settings_come_from_the_checkpoint_and_the_caller(pipeline, tmp_path):
    config = RepositoryConfig(name="small", license="Apache-2.0", sizes=((128, 96),), scaling_factor=9.0)
    repository = export_repository(pipeline, tmp_path / "out", config=config)
    repository.verify("bf16")
    assert repository == Repository.open(tmp_path / "out")
    assert repository.config == RepositoryConfig(
        name="small",
        license="Apache-2.0",
        sizes=((128, 96),),
        scaling_factor=0.7,
        shift_factor=-0.2,
        text_length=12,
        clip_length=9,
        base_shift=0.3,
        max_shift=0.9,
    )
    save_pipeline(pipeline, tmp_path / "checkpoint")
    config.save(tmp_path / "checkpoint")
    assert export_repository(tmp_path / "checkpoint", tmp_path / "again").config == repository.config


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_weights_come_back_as_stored(pipeline, tmp_path, precision, dtype):
    export_repository(pipeline, tmp_path / "out", (precision,))
    back = import_repository(tmp_path / "out", precision)
    assert back.config == pipeline.config
    assert (back.base_shift, back.max_shift) == (0.3, 0.9)
    for part in PARTS:
        stored, returned = getattr(pipeline, part).state_dict(), getattr(back, part).state_dict()
        assert returned.keys() == stored.keys()
        for name, weight in returned.items():
            assert torch.equal(weight, stored[name].to(dtype)), name
    back.transformer.float()(**_inputs(back)).sum().backward()  # it can be trained on
    assert back.t5.encoder.embed_tokens.weight is back.t5.shared.weight


def test_a_second_export_of_what_came_back_is_the_same(pipeline, tmp_path):
    first = export_repository(pipeline, tmp_path / "first").path
    second = export_repository(import_repository(first), tmp_path / "second").path
    for file in first.rglob("*.onn*"):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


def test_our_runtime_gives_what_torch_gives(pipeline, tmp_path, relative_error):
    """The runtime computes bfloat16 graphs in float32; what is left is what is rounded in the file."""
    repository = export_repository(pipeline, tmp_path / "out")
    model = import_repository(tmp_path / "out").transformer.float()
    inputs = {name: tensor.bfloat16().float() for name, tensor in _inputs(pipeline).items()}
    graph = load_graph(repository.graph("transformer", "bf16"))
    out = graph.run(**{name: tensor.numpy() for name, tensor in inputs.items()})["latent"]
    with torch.no_grad():
        assert relative_error(torch.from_numpy(out), model(**inputs)) < 5e-4


def test_single_files_give_the_same_graphs(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "checkpoint")
    folder = export_repository(tmp_path / "checkpoint", tmp_path / "folder").path
    save_transformer(pipeline.transformer, tmp_path / "bfl/flux.safetensors", "bfl")
    save_autoencoder(pipeline.autoencoder, tmp_path / "bfl/ae.safetensors", "bfl")
    for part in ("transformer", "vae"):
        for file in (tmp_path / "checkpoint" / part).iterdir():
            file.unlink()
    arguments = [tmp_path / "bfl/flux.safetensors", tmp_path / "single", "--parts", tmp_path / "checkpoint"]
    assert main(["export", *map(str, arguments)]) == 0
    for file in folder.rglob("*.onn*"):
        assert file.read_bytes() == (tmp_path / "single" / file.relative_to(folder)).read_bytes()


def test_command(pipeline, tmp_path, capsys):
    save_pipeline(pipeline, tmp_path / "checkpoint")
    arguments = ["export", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--precision", "fp32, bf16"]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"path": str(tmp_path / "out"), "precisions": ["bf16", "fp32"]}
    clip = onnx.load(tmp_path / "out/clip.opt/model.onnx")
    assert {weight.data_type for weight in clip.graph.initializer} == {onnx.TensorProto.FLOAT}
    assert main(arguments) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_an_existing_repository_is_replaced_only_when_asked(pipeline, tmp_path):
    out = export_repository(pipeline, tmp_path / "out", ("bf16", "fp32")).path
    before = _contents(out)
    with pytest.raises(InputError, match="--overwrite"):
        export_repository(pipeline, out)
    assert _contents(out) == before
    export_repository(pipeline, out, ("fp32",), overwrite=True)
    assert Repository.open(out).precisions == ("fp32",)
    assert not (out / "transformer.opt/bf16").exists()


def test_only_repositories_are_replaced(pipeline, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="is no model repository"):
            export_repository(pipeline, tmp_path / name, overwrite=True)
    assert (tmp_path / "photos/cat.png").read_bytes() == b"cat"
    assert export_repository(pipeline, tmp_path / "empty").precisions == ("bf16",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_weights_that_cannot_be_stored_leave_the_folder_as_it_was(pipeline, tmp_path, value):
    out = export_repository(pipeline, tmp_path / "out").path
    before, beside = _contents(out), sorted(tmp_path.iterdir())
    with torch.no_grad():
        pipeline.transformer.proj_out.weight[0, 0] = value
    with pytest.raises(InputError, match=r"the weight proj_out\.weight holds values that"):
        export_repository(pipeline, out, overwrite=True)
    assert _contents(out) == before
    assert sorted(tmp_path.iterdir()) == beside


@pytest.mark.parametrize("place", ["a graph", "the weights", "the new folder's name"])
def test_a_failing_disk_leaves_the_folder_as_it_was(pipeline, tmp_path, monkeypatch, place):
    out = export_repository(pipeline, tmp_path / "out").path
    before, beside = _contents(out), sorted(tmp_path.iterdir())

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    if place == "a graph":
        monkeypatch.setattr(export.ir, "save", fail)
    elif place == "the weights":
        monkeypatch.setattr(work.os, "fsync", fail)
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda p, to: fail() if p.name == "new" else rename(p, to))
    with pytest.raises(InputError, match=r"cannot write the repository .*out.*No space left"):
        export_repository(pipeline, out, overwrite=True)
    assert _contents(out) == before
    assert sorted(tmp_path.iterdir()) == beside


@pytest.mark.parametrize(("precisions", "said"), [(("fp7",), "'fp7'"), ((), "no precision"), (("",), "''")])
def test_unknown_precisions(pipeline, tmp_path, precisions, said):
    with pytest.raises(InputError, match=f"{said}.*choose from bf16, fp32"):
        export_repository(pipeline, tmp_path / "out", precisions)
    assert not (tmp_path / "out").exists()


def test_import_of_a_repository_that_does_not_suit(pipeline, tmp_path):
    out = export_repository(pipeline, tmp_path / "out").path
    with pytest.raises(InputError, match="has no fp32 transformer"):
        import_repository(out, "fp32")
    file = out / "transformer.opt/bf16/model.onnx"
    model = onnx.load(file, load_external_data=False)
    model.metadata_props[0].value = "[]"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="says numbers of its network that are damaged"):
        import_repository(out)
    data = out / "t5.opt/backbone.onnx_data"
    os.truncate(data, data.stat().st_size - 10)
    with pytest.raises(InputError, match=r"t5\.opt.*cut short"):
        import_repository(out)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _inputs(pipeline) -> dict[str, torch.Tensor]:
    config, generator = pipeline.config, torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 12, config.transformer.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(1, config.t5.length, config.t5.d_model, generator=generator),
        "pooled_projections": torch.randn(1, config.clip.hidden_size, generator=generator),
        "timestep": torch.tensor([0.75]),
        "img_ids": torch.from_numpy(np.indices((1, 4, 3)).reshape(3, -1).T.astype(np.float32)),
        "txt_ids": torch.zeros(config.t5.length, 3),
        "guidance": torch.tensor([2.5]),
    }
