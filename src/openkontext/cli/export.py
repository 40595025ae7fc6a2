"""`openkontext export`: a checkpoint -> a model repository."""

from pathlib import Path
from typing import Annotated

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Folder of a diffusers pipeline, or a transformer in one .safetensors file."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new repository.")],
    precision: Annotated[
        str,
        typer.Option(
            metavar="P,...", help="bf16, fp32 or both; the first is that of all but the transformer."
        ),
    ] = "bf16",
    parts: Annotated[
        Path | None,
        typer.Option(help="Pipeline folder that a single file belongs to; the file's own when left out."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the repository in OUT.")] = False,
    json: options.Json = False,
) -> None:
    """Write a model's graphs in the published layout, ready to edit with."""
    try:
        from openkontext.export.repository import export_repository, load_checkpoint
    except ImportError as error:
        raise InputError(
            f"export needs the extra packages ({error.name}): pip install 'openkontext[train]'"
        ) from None
    precisions = [each.strip() for each in precision.split(",")]
    repository = export_repository(load_checkpoint(checkpoint, parts), out, precisions, overwrite=overwrite)
    if json:
        console.print_json({"path": str(repository.path), "precisions": list(repository.precisions)})
    else:
        print(f"{repository.path} holds {repository.config.name} in {', '.join(repository.precisions)}")
