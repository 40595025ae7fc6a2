"""`openkontext train`, `finetune` and `distill`: one stage of a model, from a recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from openkontext.cli import console
from openkontext.errors import InputError, how_to_install

Recipe = Annotated[Path, typer.Argument(help="TOML file of one stage; recipes/ holds ours.")]
Threads = Annotated[int, typer.Option(min=0, help="Processor threads; 0 takes all.")]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes that share each step on this CPU; one a core is fastest.")
]

Export = Annotated[
    Path | None, typer.Option(help="Also write a repository with the result merged into the model.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the repository in EXPORT.")]


def train(
    recipe: Recipe,
    work: Annotated[Path, typer.Option(help="Folder of all stages of this model.")] = Path("out/nano"),
    start: Annotated[
        Path | None, typer.Option(help="Begin an empty work folder with the weights of this repository.")
    ] = None,
    threads: Threads = 0,
    processes: Processes = 1,
) -> None:
    """Train one stage, or go on with it where it was stopped."""
    _prepare(threads)
    from openkontext.train.recipe import read_recipe
    from openkontext.train.scratch import run_recipe
    from openkontext.train.start import start_from

    settings = read_recipe(recipe, "train")
    console.show_notes((), settings.warnings)
    settings.check_processes(processes)
    if start is not None:
        start_from(start, work, settings.config)
    run_recipe(settings, work, processes)


def finetune(
    recipe: Recipe,
    work: Annotated[Path, typer.Option(help="Folder for the cache, the state and the result.")] = Path(
        "out/finetune"
    ),
    export: Export = None,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    processes: Processes = 1,
) -> None:
    """Teach a model from pairs of your own, or go on where it was stopped."""
    _adapt("finetune", recipe, work, export, overwrite, threads, processes)


def distill(
    recipe: Recipe,
    work: Annotated[Path, typer.Option(help="Folder of all stages of this model.")] = Path("out/nano"),
    export: Export = None,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    processes: Processes = 1,
) -> None:
    """Distil guidance, or many steps into few; or go on where it was stopped."""
    _adapt("distill", recipe, work, export, overwrite, threads, processes)


def inhibit(
    recipe: Recipe,
    work: Annotated[Path, typer.Option(help="Folder for the state and the result.")] = Path("out/inhibit"),
    export: Export = None,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    count: Annotated[
        int, typer.Option(metavar="N", min=0, help="Cases of each route in the table; 0 prints none.")
    ] = 50,
    others: Annotated[int, typer.Option(metavar="N", min=0, help="Other edits in the table.")] = 170,
) -> None:
    """Make a model unable to produce a concept, or go on where that was stopped; ends with the table."""
    _prepare(threads)
    from openkontext.cli import console, evaluation_tables
    from openkontext.evaluation import concept_scores
    from openkontext.evaluation.concepts import Concept
    from openkontext.files import alone
    from openkontext.train.inhibit import check, editor_of, export_inhibited, run_inhibit
    from openkontext.train.recipe import read_recipe

    read = read_recipe(recipe, "inhibit")
    base = check(read.settings, work, export, overwrite)
    with alone(work, "inhibition"):
        made, rounds = run_inhibit(read.settings, read.run, work, base)
    for each in rounds[1:]:
        through = ", ".join(f"{route} {n}" for route, n in each.got_through.items()) or "none"
        print(f"before round {each.number}: {each.tried} attacks, got through: {through}")
    print(f"{made} holds what was learned")
    if export is not None:
        export_inhibited(read.settings, work, export, overwrite)
        print(f"{export} is ready to edit with")
    if not count or read.settings.pairs is not None:  # pairs of one's own have no judge
        return
    concept = Concept.load(read.settings.concept)
    how: dict[str, Any] = {"seed": 0, "count": count, "others": others, "track": console.track}
    before, after = (
        concept_scores.run(editor_of(read.settings, work, loras), concept, **how)[0]
        for loras in ([], [(made, 1.0)])
    )
    evaluation_tables.print_concept(after, before)


def _adapt(
    command: str, recipe: Path, work: Path, export: Path | None, overwrite: bool, threads: int, processes: int
) -> None:
    """Run a stage that begins with a whole model."""
    _prepare(threads)
    from openkontext.train.adapt import export_stage, run_stage
    from openkontext.train.parallel import rank
    from openkontext.train.recipe import read_recipe

    read = read_recipe(recipe, command)
    console.show_notes((), read.warnings)
    made = run_stage(read.settings, read.run, work, processes)
    if rank() != 0:  # of several that `accelerate launch` has started
        return
    print(f"{made} holds what was learned")
    if export is not None:
        export_stage(read.settings, work, export, overwrite)
        print(f"{export} is ready to edit with")


def _prepare(threads: int) -> None:
    """Import what every stage needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch

        import openkontext.train.scratch  # noqa: F401
    except ImportError as error:
        raise InputError(f"training needs {error.name}; {how_to_install('train')}") from None
    if threads:
        torch.set_num_threads(threads)
