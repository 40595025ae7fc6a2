"""Finetuning from the command line: a LoRA from pairs, and a repository that edits with it."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_files import write_jsonl

from openkontext.cli import main
from openkontext.export.loading import import_repository
from openkontext.model.lora import load_lora, merge_lora
from openkontext.repository import Repository
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, TextFeatures, logit_normal
from openkontext.train.finetune import flow_loss

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
stage = "finetune"
[finetune]
pairs = "pairs.jsonl"
rank = 2
targets = ["attn.to_q", "proj_out"]
steps = 2
batch_size = 2
learning_rate = 0.05
held_out = 1
[run]
log_steps = 1
"""


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_a_lora_from_a_folder_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    pairs = write_jsonl(tmp_path)
    pairs.write_text(pairs.read_text().replace("make it night", "make it glitter"))
    (tmp_path / "recipe.toml").write_text(f'{RECIPE}precision = "{precision}"')
    work, out = tmp_path / "work", tmp_path / "glittering"
    assert main(["finetune", str(tmp_path / "recipe.toml"), "--work", str(work), "--export", str(out)]) == 0
    assert "3 pairs, 0 skipped" in capsys.readouterr().err
    assert (work / "run" / "metrics.csv").read_text().startswith("step,seconds,loss,norm\n0,")
    assert (work / "run" / "samples" / "step-000002.png").exists()
    lora = load_lora(work / "lora.safetensors")
    assert len(lora) == 3 + 8 + 8  # to_q of all eleven blocks, proj_out of the single-stream ones
    assert max(layer.delta.abs().max() for layer in lora.values()) > 0
    expected = copy.deepcopy(TeacherModel.load("nano").pipeline.transformer)
    merge_lora(expected, lora)
    exported = import_repository(out).transformer.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in expected.state_dict().items())
    config = Repository.open(out).config
    assert config.name == "glittering"
    assert "glitter" in config.words
    assert main(["finetune", str(tmp_path / "recipe.toml"), "--work", str(work), "--export", str(out)]) == 2
    assert "add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"attn.to_q"', '"attn.to_z"', "the target 'attn.to_z' is no linear layer"),
        ("held_out = 1", "held_out = 3", "leaves nothing to train on"),
        ("rank = 2", "rank = -1", "rank and held_out are 0 or more"),
        ('"pairs.jsonl"', '"pears.jsonl"', "no such file or folder of pairs"),
        ("log_steps = 1", "log_steps = 0", "log_steps and accumulate are 1 or more"),
    ],
)
def test_a_bad_recipe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    write_jsonl(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    assert main(["finetune", str(tmp_path / "recipe.toml"), "--work", str(tmp_path / "work")]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_another_commands_stage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text('stage = "text"')
    assert main(["finetune", str(tmp_path / "recipe.toml")]) == 2
    assert "is run by `openkontext train" in capsys.readouterr().err


def a_batch(count: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = (torch.randn(count, *size, generator=generator) for size in ((2, 5), (4,)))
    text = TextFeatures(tokens, pooled)
    empty = TextFeatures(torch.zeros(1, 2, 5), torch.zeros(1, 4))
    target, context = (torch.randn(count, n, 8, generator=generator) for n in (6, 4))
    return Batch(target, context, torch.zeros(10, 3), (2, 3), text, empty)


def test_the_loss_is_that_of_the_straight_path() -> None:
    """A model that knows the picture, and so the velocity (x_t - x_0) / t, has no loss; 2 off makes it 4."""
    batch, seen = a_batch(), []

    def knows(offset: float, **inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        tokens = inputs["hidden_states"][:, :6]
        exact = (tokens - batch.target) / inputs["timestep"][:, None, None]
        return torch.cat((exact + offset, inputs["hidden_states"][:, 6:]), dim=1)

    for offset, expected in ((0.0, 0.0), (2.0, 4.0)):
        loss, _ = flow_loss(
            partial(knows, offset),
            batch,
            np.random.default_rng(0),
            timestep_mean=0.5,
            guidance=2.5,
            text_dropout=0.4,
        )
        assert loss.item() == pytest.approx(expected, abs=1e-4)
    inputs = seen[0]
    torch.testing.assert_close(inputs["hidden_states"][:, 6:], batch.context)
    assert inputs["guidance"].tolist() == [2.5] * 16
    dropped = inputs["encoder_hidden_states"].abs().sum((1, 2)) == 0
    assert dropped.any()
    assert not dropped.all()
    assert torch.equal(dropped, inputs["pooled_projections"].abs().sum(1) == 0)


def test_timesteps_are_shifted_as_the_schedule_is() -> None:
    base = TeacherModel.load("nano")
    mu = base.shift(256)
    assert mu == base.config.base_shift
    assert base.shift(4096) == pytest.approx(base.config.max_shift)
    # Half of all draws lie above the shifted middle of the schedule, exp(mu) / (exp(mu) + 1).
    draws = logit_normal(20_000, mu, np.random.default_rng(0))
    assert (draws > np.exp(mu) / (np.exp(mu) + 1)).float().mean().item() == pytest.approx(0.5, abs=0.015)
