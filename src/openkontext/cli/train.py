"""`openkontext train`: one stage of a model, from a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from openkontext.errors import InputError


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file of one stage; recipes/nano holds nano's.")],
    work: Annotated[Path, typer.Option(help="Folder of all stages of this model.")] = Path("out/nano"),
    start: Annotated[
        Path | None, typer.Option(help="Begin an empty work folder with the weights of this repository.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 takes all.")] = 0,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share a step of the stage flow; one a core is fastest.")
    ] = 1,
) -> None:
    """Train one stage, or go on with it where it was stopped."""
    try:
        import torch

        from openkontext.train.recipe import read_recipe, run_recipe, start_from
    except ImportError as error:
        raise InputError(
            f"training needs the extra packages ({error.name}): pip install 'openkontext[train]'"
        ) from None
    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(recipe)
    if start is not None:
        start_from(start, work)
    run_recipe(settings, work, processes)
