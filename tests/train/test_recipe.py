"""Recipes: what is read, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openkontext.errors import InputError
from openkontext.export.repository import import_repository
from openkontext.model.config import PRESETS
from openkontext.repository import Repository
from openkontext.runtime.components import Components
from openkontext.text import Tokenizers
from openkontext.train.flow import FlowRecipe, rate_factor
from openkontext.train.recipe import load_text_encoders, read_recipe, run_recipe, start_from

RECIPES = Path(__file__).parents[2] / "recipes" / "nano"


def test_the_shipped_recipes_read() -> None:
    stages = [read_recipe(path).stage for path in sorted(RECIPES.glob("*.toml"))]
    assert stages == ["text", "autoencoder", "latents", "flow", "guidance", "ladd"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stage = 'flou'", "stage = 'flou' is not known"),
        ("stage = 'flow'\npreset = 'huge'", "preset = 'huge' is not known"),
        ("stage = 'flow'\n[flow]\nstep = 3", "flow.step is not a setting"),
        ("stage = 'flow'\n[flow]\nsteps = 'many'", "flow.steps = 'many'"),
        ("stage = 'flow'\nstages = 1", "stages is not a setting"),
        ("stage =", "cannot read the recipe"),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value).replace(text, "")


def test_a_missing_recipe_and_a_missing_stage_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="run the stage autoencoder"):
        run_recipe(read_recipe(RECIPES / "3-latents.toml"), tmp_path)


def test_learning_rates_rise_stay_and_fall() -> None:
    recipe = FlowRecipe(steps=1000, warm_up=10, decay=0.2)
    assert rate_factor(0, recipe) == 0.1
    assert rate_factor(9, recipe) == rate_factor(500, recipe) == rate_factor(800, recipe) == 1
    assert rate_factor(900, recipe) == 0.5
    assert rate_factor(999, recipe) == pytest.approx(1 / 200)


def test_a_repository_begins_a_work_folder(tmp_path: Path) -> None:
    repository = Repository.open("nano")
    start_from(repository.path, tmp_path / "work")
    text = load_text_encoders(tmp_path / "work", PRESETS["nano"]).eval()
    prompt = "make the red house blue"
    with torch.no_grad():
        pooled, tokens = text([prompt])
    # What the repository's own graphs give, whose weights and arithmetic are bfloat16 (eight bits).
    ids, components = Tokenizers(repository).encode(prompt), Components(repository, "bf16")
    for ours, theirs in ((tokens, components.t5(ids.t5_ids)), (pooled, components.clip(ids.clip_ids))):
        assert np.linalg.norm(ours.numpy() - theirs) < 0.02 * np.linalg.norm(theirs)
    weights = torch.load(tmp_path / "work" / "start.pt")["transformer"]
    published = import_repository(repository.path).transformer.state_dict()
    assert all(torch.equal(weights[name], value.float()) for name, value in published.items())
    with pytest.raises(InputError, match="is in use: leave out --start"):
        start_from(repository.path, tmp_path / "work")
