"""`openkontext export`: a checkpoint -> a model repository."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError, how_to_install
from openkontext.places import cache_folder
from openkontext.version import __version__

if TYPE_CHECKING:
    from openkontext.repository import Repository


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a diffusers pipeline, a .safetensors, .sft or .gguf file, or a repository."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new repository.")],
    precision: Annotated[
        str,
        typer.Option(metavar="P,...", help="Some of bf16, fp32, fp8, fp4 and int8, for the transformer."),
    ] = "bf16",
    parts: Annotated[
        Path | None,
        typer.Option(help="Pipeline folder that a single file belongs to; the file's own when left out."),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CLIP text encoder, where the checkpoint has none: clip_l.safetensors."
        ),
    ] = None,
    t5: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="T5 encoder, likewise: t5xxl_fp16.safetensors, or a GGUF."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Autoencoder, likewise: ae.safetensors.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="CLIP's tokenizer: tokenizer/ of the pipeline.")
    ] = None,
    tokenizer_2: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="T5's tokenizer: tokenizer_2/ of the pipeline.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", metavar="FILE[:S]", help="Merge a LoRA with strength S, 1 when left out; repeatable."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recorded inputs for fp8 and fp4, an .npz; see docs/export.md."),
    ] = None,
    rank: Annotated[int, typer.Option(metavar="R", min=0, help="Of fp4's 16-bit branches; 0 for none.")] = 32,
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Search a factor for each input channel in fp4.")
    ] = True,
    feed_back: Annotated[
        bool,
        typer.Option(
            "--feedback/--no-feedback", help="Round fp4's weights beside a branch for their layer's inputs."
        ),
    ] = True,
    percentile: Annotated[
        float,
        typer.Option(metavar="P", help="Share in percent of fp8's activations that must not be clipped."),
    ] = 100.0,
    t5_fp8: Annotated[bool, typer.Option("--t5-fp8", help="Write T5 in fp8, too, as t5-fp8.opt.")] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call the model.")] = None,
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="License of the weights, where the source says none.")
    ] = None,
    old_license: Annotated[str | None, typer.Option("--licence", hidden=True)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the repository in OUT.")] = False,
    json: options.Json = False,
) -> None:
    """Write a model's graphs in the published layout, ready to edit with.

    An export that was stopped goes on where it was when the same command runs again.
    """
    with _needs_torch():
        from openkontext.export.calibration import Calibration
        from openkontext.export.loading import open_model
        from openkontext.export.parts import Parts
        from openkontext.export.precisions import QuantRecipe

    if old_license is not None:
        console.show_notes((), [options.renamed("--licence", "--license")])
    named = Parts(parts, clip, t5, vae, tokenizer, tokenizer_2)
    source = open_model(checkpoint, named, [options.parse_lora(text) for text in lora or ()])
    console.show_notes((), source.warnings)
    repository = _with_progress(
        source,
        out,
        [each.strip() for each in precision.split(",")],
        overwrite=overwrite,
        recipe=QuantRecipe(percentile=percentile, rank=rank, smooth=smooth, feed_back=feed_back),
        calibration=None if calibration is None else Calibration.load(calibration),
        t5_fp8=t5_fp8,
        name=name,
        license=license or old_license,
    )
    if json:
        console.print_json({"path": str(repository.path), "precisions": list(repository.precisions)})
    else:
        print(f"{repository.path} holds {repository.config.name} in {', '.join(repository.precisions)}")


def repository_of(checkpoint: Path, precision: str | None) -> Path:
    """The repository of a checkpoint, exported into the cache when it is first asked for.

    Args:
        checkpoint: a file or folder that `openkontext.repository.is_checkpoint` knows.
        precision: of the transformer; None for bf16.

    Raises:
        InputError: torch is not installed, or the checkpoint cannot be exported as it is.
    """
    from openkontext.repository import ALIASES, PRECISIONS, SETTINGS

    precision = ALIASES.get(precision or PRECISIONS[0], precision or PRECISIONS[0])
    state = "\n".join([__version__, precision, *_states(checkpoint)])
    digest = hashlib.sha256(state.encode()).hexdigest()[:12]
    out = cache_folder() / "exports" / f"{checkpoint.absolute().stem}-{precision}-{digest}"
    if (out / SETTINGS).is_file():
        return out
    with _needs_torch():
        from openkontext.export.loading import open_model
        from openkontext.export.parts import MissingPartsError

    try:
        source = open_model(checkpoint)
    except MissingPartsError as error:
        raise InputError(
            f"{error}. Name them with `openkontext export {checkpoint} OUT`, then edit with --model OUT"
        ) from None
    console.show_notes((f"{checkpoint} is exported once, into {out}",), ())
    return _with_progress(source, out, [precision]).path


def _states(checkpoint: Path) -> Iterator[str]:
    """Path, size and time of change of each file of a checkpoint."""
    for file in sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]:
        if file.is_file():
            status = file.stat()
            yield f"{file.absolute()} {status.st_size} {status.st_mtime_ns}"


@contextmanager
def _needs_torch() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(f"export needs {error.name}; {how_to_install('train')}") from None


def _with_progress(source: Any, out: Path, precisions: Sequence[str], **arguments: Any) -> "Repository":
    """`export_repository` with a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from openkontext.export.exporting import export_repository

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("opening", total=1.0)
        return export_repository(
            source,
            out,
            precisions,
            on_progress=lambda share, what: progress.update(task, completed=share, description=what),
            **arguments,
        )
