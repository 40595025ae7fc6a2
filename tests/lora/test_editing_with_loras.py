"""LoRAs while the edit runs: the picture is that of the merged export; records tell of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openkontext import InputError, images, load
from openkontext.cli import main
from openkontext.export.exporting import export_repository
from openkontext.export.loading import open_model
from openkontext.provenance import verify
from openkontext.repository import Repository
from openkontext.runtime.adapters import parameter_shapes

PICTURE = np.full((128, 128, 3), (90, 150, 60), np.uint8)
PICTURE[30:80, 20:100] = (200, 60, 40)
WORDS = "make it night"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For nano: attention and perceptrons of every block, and CLIP, in kohya's names."""
    generator = torch.Generator().manual_seed(0)
    nano, tensors = Repository.open("nano"), {}
    for role, prefix in (("transformer", "lora_transformer_"), ("clip", "lora_te1_text_model_")):
        for name, shape in parameter_shapes(nano.graph(role, "bf16"), role).items():
            if len(shape) == 2 and any(part in name for part in ("attn", "ff", "mlp", "proj_out")):
                stem = prefix + name.removesuffix(".weight").replace(".", "_")
                tensors[f"{stem}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator) * 0.12
                tensors[f"{stem}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.12
                tensors[f"{stem}.alpha"] = torch.tensor(8.0)
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def merged(lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with the LoRA in its weights."""
    folder = tmp_path_factory.mktemp("models") / "merged"
    export_repository(open_model(Repository.open("nano").path, loras=[(lora, 0.8)]), folder, ["bf16"])
    return folder


def picture(editor, steps: int = 2) -> np.ndarray:
    result = editor.edit(PICTURE, WORDS, seed=5, num_inference_steps=steps, keep_unchanged=False)
    return np.asarray(result.image, np.float32)


def test_the_picture_is_that_of_the_merged_export(lora: Path, merged: Path) -> None:
    expected, plain = picture(load(merged)), picture(load())
    changed = np.abs(plain - expected).mean()
    assert changed > 5
    assert np.abs(picture(load(loras=[(lora, 0.8)])) - expected).mean() < 0.02 * changed
    for precision in ("fp8", "fp4"):
        made = picture(load(precision=precision, loras=[(lora, 0.8)]))
        assert np.abs(made - expected).mean() < 0.4 * changed, precision


def test_strengths_and_files_change_on_an_open_editor(lora: Path, tmp_path: Path) -> None:
    plain, editor = picture(load(), 1), load(loras=[lora])
    full = picture(editor, 1)
    transformer = editor.components._graph("transformer")
    editor.set_loras([(str(lora), 0.25)])
    weak = picture(editor, 1)
    assert editor.components._graph("transformer") is transformer  # not opened anew
    assert 0 < np.abs(weak - plain).mean() < np.abs(full - plain).mean()
    editor.set_loras([])
    np.testing.assert_array_equal(picture(editor, 1), plain)
    editor.set_loras([(lora, 1.0)])
    np.testing.assert_array_equal(picture(editor, 1), full)
    wide = {f"transformer.x_embedder.lora_{side}.weight": torch.zeros(3, 3) for side in "AB"}
    save_file(wide, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"x_embedder is for a weight of \[3, 3\], where this model has \[192, 64\]"
    ):
        editor.set_loras([tmp_path / "other.safetensors"])
    assert [used.strength for used in editor.loras] == [1.0]


def test_metadata_the_signed_record_and_json_tell_of_it(lora: Path, tmp_path: Path, capsys) -> None:
    images.write(tmp_path / "in.png", images.encode(PICTURE, "PNG"))
    arguments = ["edit", str(tmp_path / "in.png"), WORDS, "--steps", "1", "--seed", "1", "--json"]
    arguments += ["--lora", f"{lora}:0.5", "-o", str(tmp_path / "out.png")]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)["loras"]
    assert [(each["name"], each["strength"], len(each["digest"])) for each in said] == [
        ("style.safetensors", 0.5, 64)
    ]
    assert json.loads(images.read_metadata(tmp_path / "out.png")["loras"]) == said
    (step,) = verify(tmp_path / "out.png").chain[-1:]
    assert step.loras == (f"style.safetensors at 0.5, {said[0]['digest']}",)


@pytest.mark.parametrize(
    ("text", "said"),
    [("nothing.safetensors", "no such file"), ("nothing.safetensors:much", "is no strength; write FILE:0.8")],
)
def test_a_lora_that_cannot_be_used_is_one_line(text: str, said: str, tmp_path: Path, capsys) -> None:
    images.write(tmp_path / "in.png", images.encode(PICTURE, "PNG"))
    arguments = ["edit", str(tmp_path / "in.png"), WORDS, "--lora", text, "-o", str(tmp_path / "out.png")]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
