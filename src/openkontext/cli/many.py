"""`openkontext edit` over many pictures: one editor, one progress bar, and what came of each."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openkontext.cli import console, groups, options
from openkontext.errors import InputError, RefusedError

if TYPE_CHECKING:
    from openkontext.many import ManyOutcome
    from openkontext.result import EditStep

_SIZE = ("size", "width", "height", "aspect_ratio")


def edit_many(
    source: str,
    fields: dict[str, Any],
    setup: groups.Setup,
    saving: groups.Saving,
    batch: groups.PictureBatch,
    json: bool,
) -> None:
    """Edit all pictures of a folder, a pattern or a list, or one of them several times.

    Args:
        source: the folder, pattern, list or picture.
        fields: of the `EditRequest`, for all.
        setup: which model.
        saving: how results are written; its output is a folder.
        batch: seeds and instructions.
        json: whether to print one object in place of lines.

    Raises:
        InputError: there is nothing to do, or it is not said what.
        typer.Exit: with 2 where a picture failed, with 3 where some were refused and none failed.
    """
    from openkontext import many

    folder = _folder(source, saving.output)
    prompts = _lines(batch.prompts)
    if prompts and "prompt" in fields and batch.from_metadata is None:
        raise InputError("give either PROMPT or --prompts, not both")
    seeds = options.parse_seeds(batch.seeds)
    if seeds and fields.get("seed") is not None and batch.from_metadata is None:
        raise InputError("give either --seed or --seeds, not both")
    jobs = many.plan(many.find(source), folder, prompts=prompts, seeds=seeds, fields=fields)
    editor = setup.load()
    outcomes: list[ManyOutcome] = []
    with console.batch_progress(len(jobs)) as show:

        def on_step(step: "EditStep") -> None:
            show(len(outcomes) + step.index / (step.count + 1), str(jobs[len(outcomes)].source))

        for outcome in many.run(editor, jobs, on_step=on_step, **saving.arguments):
            outcomes.append(outcome)
            show(len(outcomes), str(outcome.job.source))
            if not json:
                _tell(outcome)
    _report(outcomes, json)


def with_settings_of(picture: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The settings that a picture was made with; what the command line sets goes before.

    Args:
        picture: path of the picture.
        fields: of the `EditRequest`, as the command line has them.

    Raises:
        InputError: the picture holds no settings.
    """
    from openkontext import images
    from openkontext.request import EditRequest, of_metadata

    try:
        found = of_metadata(images.read_metadata(picture))
    except InputError as error:
        message = str(error)
        raise InputError(message if picture in message else f"{picture}: {message}") from None
    plain = {name: value for name, value in vars(EditRequest(prompt="x")).items() if name != "prompt"}
    chosen = {name: value for name, value in fields.items() if name not in plain or value != plain[name]}
    if any(name in chosen for name in _SIZE):
        found = {name: value for name, value in found.items() if name not in _SIZE}
    return found | chosen


def _folder(source: str, output: str | None) -> Path:
    path = Path(source)
    if output is None:
        return Path(f"{path.resolve().name}-edited" if path.is_dir() else "edited")
    if Path(output).exists() and not Path(output).is_dir():
        raise InputError(f"{output}: is a file; with several pictures -o names a folder")
    if Path(output).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"):
        raise InputError(f"{output}: with several pictures -o names a folder, without .png or the like")
    return Path(output)


def _lines(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise InputError(f"{file}: is no text in UTF-8; write one instruction a line") from None
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{file}: holds no instruction; write one a line")
    return found


def _tell(outcome: "ManyOutcome") -> None:
    target, result = outcome.job.target, outcome.result
    if result is not None:
        width, height = result.image.size
        steps, seed, seconds = result.num_inference_steps, result.seed, result.seconds
        print(f"{target}: {width}x{height}, {steps} steps, seed {seed}, {seconds:.1f} s")
    elif outcome.status == "skipped":
        print(f"{target}: is there already, made the same way")


def _report(outcomes: list["ManyOutcome"], json: bool) -> None:
    """Say what failed and how many were made; end with its exit code."""
    counts = Counter(outcome.status for outcome in outcomes)
    for outcome in outcomes:
        if outcome.result is not None:
            source = str(outcome.job.source)
            warnings = [f"{source}: {warning}" for warning in outcome.result.warnings]
            console.show_notes((), warnings)
    for outcome in outcomes:
        if outcome.error:
            print("error:", console.one_line(options.in_options(_error(outcome))), file=sys.stderr)
    said = {name: counts[name] for name in ("made", "skipped", "refused", "failed")}
    if json:
        console.print_json({**said, "pictures": [_record(outcome) for outcome in outcomes]})
    else:
        told = ", ".join(f"{count} {name}" for name, count in said.items() if count)
        print(f"{console.counted(len(outcomes), 'picture')}: {told}", file=sys.stderr)
    if counts["failed"]:
        raise typer.Exit(InputError.exit_code)
    if counts["refused"]:
        raise typer.Exit(RefusedError.exit_code)


def _error(outcome: "ManyOutcome") -> str:
    source, target = str(outcome.job.source), str(outcome.job.target)
    named = outcome.error.startswith((f"{source}: ", f"{target}: "))
    return outcome.error if named else f"{source}: {outcome.error}"


def _record(outcome: "ManyOutcome") -> dict[str, Any]:
    found: dict[str, Any] = {"image": str(outcome.job.source), "status": outcome.status}
    if outcome.error:
        return {**found, "error": console.one_line(options.in_options(_error(outcome)))}
    found["output"] = str(outcome.job.target)
    return found if outcome.result is None else {**found, **console.result_record(outcome.result)}
