"""`openkontext edit` and `openkontext generate`: one picture each; `many.py` has several."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import console, groups, options
from openkontext.errors import InputError

if TYPE_CHECKING:
    from openkontext.request import EditRequest
    from openkontext.result import EditStep

Preview = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Write the picture as foreseen after each step into this folder."),
]


@groups.expanded
def edit(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help='JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF; or a folder, "*.jpg" or LIST.jsonl.',
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help='What to change: "make it night".')
    ] = None,
    *,
    saving: groups.Saving,
    asking: groups.Asking,
    setup: groups.Setup,
    batch: groups.PictureBatch,
    fit: options.FitMode = "stretch",
    mask: Annotated[
        str | None, typer.Option(metavar="FILE", help="Transparent, or white, where the picture may change.")
    ] = None,
    crop_to_mask: options.CropToMask = False,
    extend: options.Extend = None,
    repaint: options.Repaint = False,
    preview: Preview = None,
    json: options.Json = False,
) -> None:
    """Edit a picture, or many, as an instruction says."""
    from openkontext import many
    from openkontext.cli.many import edit_many, with_settings_of
    from openkontext.request import EditRequest

    fields = asking.fields | {"mask_image": mask, "fit": fit, "keep_unchanged": not repaint}
    fields |= {"crop_to_mask": crop_to_mask, "extend": options.parse_extend(extend or ())}
    if prompt is not None:
        fields["prompt"] = prompt
    if batch.from_metadata is not None:
        fields = with_settings_of(batch.from_metadata, fields)
    if batch.wanted or many.is_many(image):
        if preview is not None:
            raise InputError("--preview is for one picture; leave it out")
        edit_many(image, fields, setup, saving, batch, json)
        return
    if "prompt" not in fields:
        raise InputError("Missing argument 'PROMPT'; see openkontext edit --help")
    request = EditRequest(image=image, **fields)
    _make(request, saving.target(f"{Path(image).stem}-edited"), setup, saving, preview, json)


@groups.expanded
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture shows.")],
    saving: groups.Saving,
    asking: groups.Asking,
    setup: groups.Setup,
    preview: Preview = None,
    json: options.Json = False,
) -> None:
    """Make a picture from a text alone."""
    from openkontext.request import EditRequest

    request = EditRequest(prompt=prompt, **asking.fields)
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:40].strip("-_")
    _make(request, saving.target(words or "generated"), setup, saving, preview, json)


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Have Python look for garbage seldom: one edit leaves little, among much that it opens and keeps."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000)  # the objects of a first edit are half as many
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@_seldom_collecting()
def _make(
    request: "EditRequest",
    target: Path,
    setup: groups.Setup,
    saving: groups.Saving,
    preview: str | None,
    json: bool,
) -> None:
    """Run a request, write its picture, and show what was done."""
    from openkontext import images
    from openkontext.provenance import default_signer

    images.check_output(target, saving.overwrite)
    folder = _preview_folder(preview, saving.overwrite)
    default_signer()  # without it nothing is written: that is to be known before the steps
    editor = setup.load()

    with console.progress("editing" if request.image else "making") as show:

        def on_step(step: "EditStep") -> None:
            if step.index == 1:
                editor.components.close("t5", "clip", "vae_encoder")  # all is encoded
            if step.index == step.count:
                editor.components.close("transformer")
            show(step)
            if folder is not None:
                _save_preview(folder, step)

        result = editor.run(request, on_step)
    editor.components.close()  # signing needs some of the memory
    result.save(target, **saving.arguments)
    console.show_notes(result.notes, result.warnings)
    if json:
        console.print_json({"output": str(target), **console.result_record(result)})
    else:
        width, height = result.image.size
        steps, seed, seconds = result.num_inference_steps, result.seed, result.seconds
        print(f"{target}: {width}x{height}, {steps} steps, seed {seed}, {seconds:.1f} s")


def _preview_folder(name: str | None, overwrite: bool) -> Path | None:
    if name is None:
        return None
    folder = Path(name)
    try:
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            raise InputError(f"{name}: is not empty; name a new folder for the previews, or --overwrite")
    except OSError as error:
        raise InputError(f"{name}: cannot hold the previews ({error.strerror}); name a folder") from error
    return folder


def _save_preview(folder: Path, step: "EditStep") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
    name = f"step-{step.index:0{len(str(step.count))}}.png"
    step.save(folder / name, overwrite=True)
