"""Finetuning begins with any file that people hold: two steps from each, its weights as they are meant."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from pair_files import write_jsonl
from peer_exports import PEER_EXPORTS, needs_peers
from safetensors.torch import load_file, save_file
from tiny import write_tiny_repository
from torch_exports import write_exported

from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.export.graph_weights import GraphFloats
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import save_transformer
from openkontext.model.config import AutoencoderConfig, ClipTextConfig, T5EncoderConfig, TransformerConfig
from openkontext.model.lora import load_lora
from openkontext.model.pipeline import Pipeline, save_pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository, RepositoryConfig
from openkontext.train.base import TeacherModel

RECIPE = """
stage = "finetune"
[finetune]
pairs = "pairs.jsonl"
model = "{model}"
{parts}
rank = 2
targets = ["attn.to_q", "proj_out"]
steps = 2
batch_size = 1
[run]
precision = "no"
"""
SETTINGS = RepositoryConfig(
    name="small", license="MIT", text_length=16, clip_length=9, sizes=((64, 64),), num_inference_steps=1
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A small model as files of several kinds, and pairs to learn from."""
    folder = tmp_path_factory.mktemp("files of a user's")
    words = write_tiny_repository(folder / "words")
    pipeline = Pipeline(
        transformer=small_models.randomize(
            FluxTransformer(TransformerConfig(64, 2, 2, 32, 4, 64, 32, True, (4, 14, 14))), 1
        ).eval(),
        autoencoder=small_models.randomize(
            Autoencoder(AutoencoderConfig((8, 8, 8, 8), 1, norm_num_groups=4)), 2
        ).eval(),
        clip=small_models.randomize(build_clip(ClipTextConfig(16, 32, 32, 1, 2, 0, 1, 9)), 3).eval(),
        t5=small_models.randomize(build_t5(T5EncoderConfig(16, 64, 16, 64, 1, 2, 16)), 4).eval(),
        tokenizer=words / "tokenizer",
        tokenizer_2=words / "tokenizer_2",
    )
    save_pipeline(pipeline, folder / "pipeline")
    SETTINGS.save(folder / "pipeline")
    save_transformer(pipeline.transformer, folder / "bfl.safetensors", "bfl")
    write_exported(pipeline, folder / "published")
    SETTINGS.save(folder / "published")
    write_jsonl(folder)
    return folder


def published(files: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    state = load_file(files / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    return files / "published", {name: tensor.bfloat16() for name, tensor in state.items()}


def quantized_graph(files: Path, precision: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The transformer as the publisher's tool quantizes one, without one in 16 bits."""
    folder = files / precision
    shutil.copytree(files / "published", folder, ignore=shutil.ignore_patterns("transformer.opt"))
    shutil.copytree(PEER_EXPORTS / precision, folder / "transformer.opt" / precision)
    floats = GraphFloats(PEER_EXPORTS / precision / "model.onnx", "transformer")
    return folder, {name: floats.read(name, 0, shape[0]) for name, shape in floats.shapes.items()}


def file(files: Path, kind: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The transformer packed in a file of its own: what the file stands for, in the file's names."""
    stored, meant = {}, {}
    path = files / f"a {kind} modèle.{'gguf' if kind == 'gguf' else 'safetensors'}"
    writer = GGUFWriter(path, "flux") if kind == "gguf" else None
    for name, tensor in load_file(files / "bfl.safetensors").items():
        if tensor.ndim != 2:
            stored[name] = meant[name] = tensor
            if writer:
                writer.add_tensor(name, tensor.numpy())
        elif writer:
            codes = quants.quantize(tensor.numpy(), GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, codes, raw_dtype=GGMLQuantizationType.Q8_0)
            meant[name] = torch.from_numpy(
                np.asarray(quants.dequantize(codes, GGMLQuantizationType.Q8_0), np.float32)
            )
        else:
            scale = tensor.abs().max() / 448 if kind == "scaled float8" else torch.tensor(1.0)
            stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
            meant[name] = stored[name].float() * scale
            if kind == "scaled float8":
                stored[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    if writer:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        save_file(stored, path)
    save_file(meant, files / "meant.safetensors")
    return path, TeacherModel.load(
        files / "meant.safetensors", files / "pipeline"
    ).pipeline.transformer.state_dict()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (published, None),
        pytest.param(quantized_graph, "fp8", marks=needs_peers),
        pytest.param(quantized_graph, "fp4_svd", marks=needs_peers),
        (file, "float8"),
        (file, "scaled float8"),
        (file, "gguf"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_steps(make, kind, files, capsys):
    path, meant = make(files, kind) if kind else make(files)
    if kind == "fp4_svd":  # the folder in the published layout is called so, or fp4
        (path / "transformer.opt" / kind).rename(path / "transformer.opt" / "fp4")
    parts = "" if path.is_dir() else 'parts = "pipeline"'
    (files / "recipe.toml").write_text(RECIPE.format(model=path.name, parts=parts))
    work = files / "work" / (kind or "published")
    exported = files / "exported" / (kind or "published")
    arguments = ["finetune", str(files / "recipe.toml"), "--work", str(work)]
    if kind in (None, "gguf"):
        arguments += ["--export", str(exported)]
    assert main(arguments) == 0, capsys.readouterr().err
    lora = load_lora(work / "lora.safetensors")
    assert len(lora) == 4 + 2
    assert max(layer.delta.abs().max() for layer in lora.values()) > 0
    found = TeacherModel.load(path, None if path.is_dir() else files / "pipeline").pipeline.transformer
    assert found.state_dict().keys() == meant.keys()
    for name, weight in found.state_dict().items():
        assert torch.equal(weight.float(), meant[name].float()), name
    if exported.exists():
        Repository.open(exported).verify("bf16")


def test_a_file_that_lacks_parts_is_told_what_a_recipe_says(files):
    with pytest.raises(InputError, match=r"lacks the CLIP text encoder.*`parts = \"FOLDER\"` in a recipe"):
        TeacherModel.load(files / "bfl.safetensors")


def test_license_and_policy_stay_with_a_finetuned_model(files, capsys):
    for name in ("LICENSE.md", "POLICY.md"):
        (files / "published" / name).write_text(f"the {name}")
    (files / "recipe.toml").write_text(RECIPE.format(model="published", parts=""))
    work, out = files / "work" / "published", files / "exported" / "again"
    assert main(["finetune", str(files / "recipe.toml"), "--work", str(work), "--export", str(out)]) == 0
    assert (out / "LICENSE.md").read_text() == "the LICENSE.md"
    assert (out / "POLICY.md").read_text() == "the POLICY.md"
