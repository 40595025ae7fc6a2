"""Recipes: what is read, and what is refused in one line."""

from pathlib import Path

import pytest

from openkontext.errors import InputError
from openkontext.train.flow import FlowRecipe, rate_factor
from openkontext.train.recipe import read_recipe, run_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "nano"


def test_the_shipped_recipes_read() -> None:
    stages = [read_recipe(path).stage for path in sorted(RECIPES.glob("*.toml"))]
    assert stages == ["text", "autoencoder", "latents", "flow"]


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
