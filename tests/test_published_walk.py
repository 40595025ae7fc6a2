"""The way of someone who gets a gated model as it is published, command by command, to a signed picture."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub import client_environment, serving
from safetensors.numpy import save_file

import openkontext
from openkontext.images import read_metadata
from openkontext.provenance import verify

NANO = Path(openkontext.__file__).parent / "nano"
SCENE = Path(__file__).parents[1] / "examples" / "scene.png"
NAME, TOKEN = "labs/Drawn-onnx", "hf_of_one_who_agreed"
LICENSE = "FLUX.1 [dev] Non-Commercial License"


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Path]:
    """nano as a publisher would lay it out: graphs in one repository, tokenizers and texts in another."""
    graphs, main = tmp_path / "hub" / "graphs", tmp_path / "hub" / "main"
    for each in ("clip.opt", "t5.opt", "transformer.opt/fp8", "vae.opt", "vae_encoder.opt"):
        shutil.copytree(NANO / each, graphs / each)
    for each in ("tokenizer", "tokenizer_2"):
        shutil.copytree(NANO / each, main / each)
    settings = json.loads((NANO / "openkontext.json").read_text())
    settings.pop("licence", None)
    (graphs / "openkontext.json").write_text(json.dumps(settings | {"name": NAME, "license": LICENSE}))
    for folder in (graphs, main):
        (folder / "LICENSE.md").write_text("Use it for good.")
    return {NAME: graphs, NAME.removesuffix("-onnx"): main}


def lora(path: Path) -> Path:
    rng = np.random.default_rng(0)
    layer = "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight"
    shapes = {"A": (4, 192), "B": (192, 4)}
    save_file(
        {layer.format(k): rng.standard_normal(s).astype(np.float32) / 10 for k, s in shapes.items()}, path
    )
    return path


def test_from_pull_to_a_picture(published: dict[str, Path], tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "edited.png"

    def run(*arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        environment = client_environment(endpoint, home, token) | {"OPENKONTEXT_DATA": str(tmp_path / "data")}
        command = [sys.executable, "-m", "openkontext", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    pull = ("pull", NAME, "--precision", "fp8")
    with serving(published, gated=frozenset(published)) as (endpoint, handler):
        handler.tokens = frozenset({TOKEN})
        refused = run(*pull, token="")
        assert (refused.returncode, "hf auth login" in refused.stderr) == (4, True), refused.stderr
        refused = run(*pull)
        assert refused.returncode == 4, refused.stderr
        assert f"openkontext terms accept {NAME}" in refused.stderr
        assert not any("onnx" in line.rpartition(" ")[2] and "clip.opt" in line for line in handler.log)
        assert "Use it for good." in run("terms", "show", NAME).stdout
        assert run("terms", "accept", NAME).returncode == 0
        assert (fetched := run(*pull)).returncode == 0, fetched.stderr
        assert "transformer.opt/fp8" in fetched.stderr  # the sizes, before the graphs come
    edit = ("edit", SCENE, "make it night", "--model", NAME, "--precision", "fp8", "--steps", 1, "--seed", 1)
    done = run(*edit, "--lora", f"{lora(tmp_path / 'style.safetensors')}:0.8", "-o", out)
    assert done.returncode == 0, done.stderr
    metadata = read_metadata(out)
    assert json.loads(metadata["loras"])[0]["strength"] == 0.8
    assert metadata["model"] == NAME
    report = verify(out)
    assert report.valid
    assert report.model == NAME
    assert "style.safetensors" in str(report.chain)
