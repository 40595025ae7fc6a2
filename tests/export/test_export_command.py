"""`openkontext export` from the command line: bad input, a full disk, and a stop at any point."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openkontext.cli import main
from openkontext.export import exporting as export
from openkontext.export import work
from openkontext.export.exporting import export_repository
from openkontext.export.source import open_source
from openkontext.model.lora import LoraLayer, save_lora
from openkontext.model.pipeline import save_pipeline
from openkontext.repository import Repository

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(pipeline, tmp_path) -> Path:
    save_pipeline(pipeline, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def out(tmp_path) -> Path:
    """Where a repository is already."""
    folder = tmp_path / "out"
    (folder / "transformer.opt" / "bf16").mkdir(parents=True)
    (folder / "transformer.opt" / "bf16" / "model.onnx").write_bytes(b"before")
    (folder / "openkontext.json").write_text('{"name": "before"}')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def shard(checkpoint: Path) -> Path:
    """The transformer in two shards, as large checkpoints are."""
    folder = checkpoint / "transformer"
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    files = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def change(checkpoint: Path, name: str, value: float | None = None) -> None:
    path = checkpoint / "transformer" / WEIGHTS
    state = load_file(path)
    if value is None:
        state[name] = state[name][:-1].clone()
    else:
        state[name][(0,) * state[name].ndim] = value
    save_file(state, path)


def lora(checkpoint: Path, layer: str, width: int) -> None:
    save_lora(
        {layer: LoraLayer(torch.ones(2, width), torch.ones(64, 2), 2.0)}, checkpoint / "lora.safetensors"
    )


FAULTS = {
    "a truncated file": (lambda c: cut(c / "transformer" / WEIGHTS), "cannot be read as safetensors"),
    "a truncated shard": (lambda c: cut(sorted(shard(c).glob("*2-of*"))[0]), "cannot be read as safetensors"),
    "a missing shard": (lambda c: sorted(shard(c).glob("*2-of*"))[0].unlink(), "no such file"),
    "a shard of another": (
        lambda c: shutil.copy(c / "vae" / WEIGHTS, sorted(shard(c).glob("*2-of*"))[0]),
        "but it does not",
    ),
    "the autoencoder in its place": (
        lambda c: shutil.copy(c / "vae" / WEIGHTS, c / "transformer" / WEIGHTS),
        "is no FLUX.1 transformer",
    ),
    "no weights at all": (lambda c: (c / "transformer" / WEIGHTS).write_bytes(b"<html>"), "cannot be read"),
    "a wrong shape": (lambda c: change(c, "proj_out.bias"), "proj_out.bias has the shape"),
    "a wrong T5": (
        lambda c: cut(c / "text_encoder_2" / "model.safetensors"),
        "text_encoder_2.*cannot be read",
    ),
    "not a number": (
        lambda c: change(c, "single_transformer_blocks.1.proj_mlp.weight", float("nan")),
        "the weight single_transformer_blocks.1.proj_mlp.weight holds values that are infinite, or not",
    ),
    "infinity": (
        lambda c: change(c, "transformer_blocks.1.attn.norm_k.weight", float("inf")),
        "the weight transformer_blocks.1.attn.norm_k.weight holds values",
    ),
    "a LoRA of an unknown layer": (lambda c: lora(c, "transformer_blocks.9.attn.to_q", 64), "does not have"),
    "a LoRA of another size": (lambda c: lora(c, "transformer_blocks.0.attn.to_q", 32), "of another size"),
    "an unknown LoRA key": (
        lambda c: save_file({"double_blocks.0.gate": torch.ones(2)}, c / "lora.safetensors"),
        "double_blocks.0.gate is no part of a LoRA",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_and_leaves_all_as_it_was(checkpoint, out, tmp_path, capsys, fault):
    damage, said = FAULTS[fault]
    damage(checkpoint)
    before, beside = contents(out), sorted(tmp_path.iterdir())
    arguments = ["export", str(checkpoint), str(out), "--overwrite", "--precision", "fp8,fp4", "--rank", "4"]
    if (checkpoint / "lora.safetensors").exists():
        arguments += ["--lora", f"{checkpoint / 'lora.safetensors'}:0.5"]
    capsys.readouterr()
    assert main(arguments) == 2
    # The progress bar is the only other thing on stderr.
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each and "%" not in each]
    assert re.search(said, line), line
    assert contents(out) == before
    assert sorted(tmp_path.iterdir()) == beside


@pytest.mark.parametrize(
    "arguments", [["--lora", "x.safetensors:much"], ["--percentile", "0"], ["--precision", "fp6"]]
)
def test_bad_options(checkpoint, tmp_path, capsys, arguments):
    assert main(["export", str(checkpoint), str(tmp_path / "new"), *arguments]) == 2
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_is_told_of_before_the_work(checkpoint, out, tmp_path, monkeypatch, capsys):
    before, beside = contents(out), sorted(tmp_path.iterdir())
    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _path: free)
    assert main(["export", str(checkpoint), str(out), "--overwrite"]) == 2
    assert "has 0.0 GB free, and the repository takes about 0.3 GB" in capsys.readouterr().err
    assert contents(out) == before
    assert sorted(tmp_path.iterdir()) == beside


def test_a_full_disk_keeps_what_is_done_for_the_next_try(checkpoint, out, tmp_path, monkeypatch, capsys):
    before = contents(out)
    arguments = ["export", str(checkpoint), str(out), "--overwrite", "--precision", "bf16"]
    append, written = work.TensorFile.append, []

    def fail_late(file, name, *rest):
        if name.startswith("single_transformer_blocks.1."):
            raise OSError(28, "No space left on device")
        written.append(name)
        append(file, name, *rest)

    monkeypatch.setattr(work.TensorFile, "append", fail_late)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "run the same command to go on" in said
    assert contents(out) == before
    monkeypatch.setattr(
        work.TensorFile, "append", lambda f, n, *rest: (written.append(n), append(f, n, *rest))
    )
    assert main(arguments) == 0
    assert len(written) == len(set(written))  # no weight was written twice
    assert Repository.open(out).config.name != "before"
    assert not list(tmp_path.glob(".out*"))


class Stop(BaseException):
    """As a kill: nothing catches it."""


def test_a_stop_at_any_point_is_gone_on_from(checkpoint, tmp_path):
    precisions = ("bf16", "fp8", "fp4")
    recipe = export.QuantRecipe(rank=4)
    steps: list[str] = []
    whole = export_repository(
        checkpoint,
        tmp_path / "whole",
        precisions,
        recipe=recipe,
        on_progress=lambda _share, what: steps.append(what),
    )
    assert len(steps) >= 4 + 5 + 3  # graphs, the transformer's parts, the transformer's graphs
    seen = []
    for _ in steps:  # stopped at each step in turn, each try goes on from the last

        def stop(_share: float, what: str) -> None:
            if what not in seen:
                seen.append(what)
                raise Stop

        with pytest.raises(Stop):
            export_repository(
                open_source(checkpoint), tmp_path / "out", precisions, recipe=recipe, on_progress=stop
            )
        assert not (tmp_path / "out").exists()
    assert seen == steps
    resumed = export_repository(checkpoint, tmp_path / "out", precisions, recipe=recipe)
    expected, found = contents(whole.path), contents(resumed.path)
    assert expected.keys() == found.keys()
    for name, data in expected.items():
        if name != "openkontext.json":  # its name is the folder's
            assert found[name] == data, name
    assert not list(tmp_path.glob(".out*"))


def test_other_options_begin_anew(checkpoint, tmp_path):
    def stop(_share: float, what: str) -> None:
        if what == "transformer: single_transformer_blocks.0":
            raise Stop

    with pytest.raises(Stop):
        export_repository(
            checkpoint, tmp_path / "out", ("fp4",), recipe=export.QuantRecipe(rank=4), on_progress=stop
        )
    steps: list[str] = []
    export_repository(
        checkpoint,
        tmp_path / "out",
        ("fp4",),
        recipe=export.QuantRecipe(rank=8),
        on_progress=lambda _share, what: steps.append(what),
    )
    assert "clip.opt" in steps


def test_a_repository_can_be_exported_again_in_other_precisions(checkpoint, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["export", str(checkpoint), str(first)]) == 0
    assert main(["export", str(first), str(second), "--precision", "bf16,fp8"]) == 0
    name = "transformer.opt/bf16/backbone.onnx_data"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    assert Repository.open(second).precisions == ("bf16", "fp8")


def test_a_merged_lora_is_in_the_weights(checkpoint, tmp_path):
    layer = LoraLayer(torch.full((2, 64), 0.5), torch.full((64, 2), 0.25), 4.0)
    save_lora({"transformer_blocks.0.attn.to_q": layer}, tmp_path / "lora.safetensors")
    name = "transformer_blocks.0.attn.to_q.weight"
    merged = open_source(checkpoint, loras=[(tmp_path / "lora.safetensors", 0.5)]).transformer.read(name)
    # alpha / rank = 2; each entry of up @ down is 2 * 0.25 * 0.5
    torch.testing.assert_close(merged, open_source(checkpoint).transformer.read(name) + 0.5 * 2 * 0.25)
