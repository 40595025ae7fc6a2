"""`openkontext verify`: what a signed record says of a picture or of a model's files."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import console, options
from openkontext.cli.release import verify_folder
from openkontext.errors import InputError

if TYPE_CHECKING:
    from openkontext.provenance import Report, Step

_TRUST = {
    "anchor": "certified by an authority that you trust",
    "own": "this installation",
    "unknown": "nobody that this machine knows: the name is the signer's own word",
}


def verify(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE|REPO", help="A picture, or the folder of a released model.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM with the public key that must have signed the model."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of a model that was fetched in part: no file is missing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say who signed a picture or a model's files, and whether they were changed since.

    Of a picture it says what made it from what, of a model which files differ, are missing or too many.
    Ends with 2 where there is no record, anything was changed, or nobody known signed a model.
    """
    from openkontext.provenance import verify

    if (folder := _released(image)) is not None:
        verify_folder(folder, key, partial, json)
        return
    if key is not None or partial:
        raise InputError("--key and --partial are for a model's folder; a picture's record has its own key")
    report = verify(image)
    if json:
        signature = asdict(report.signature) if report.signature else None
        found = {"valid": report.valid, "signature": signature, "model": report.model}
        found |= {"digest": report.digest, **asdict(report)}
        console.print_json({"path": image, **found})
    elif report.signed:
        print("\n".join(_described(image, report)))
    if report.remote:
        raise InputError(f"{image}: its record lies elsewhere and is not fetched: {report.remote}")
    if not report.signed and report.watermark:
        if not json:
            print(f"{image}: carries no signed record, but an invisible mark:")
            print(f"mark:       openkontext made it, with a model whose digest begins {report.watermark}")
        raise typer.Exit(2)
    if not report.signed:
        raise InputError(f"{image}: carries no signed record; nothing is known of where it comes from")
    if report.tampering:
        raise InputError(f"{image}: {report.tampering[0]}; do not believe its record")


def _released(name: str) -> Path | None:
    """The folder of a model, as `Repository.open` finds it, whatever state it is in; None for a picture."""
    from openkontext.repository import is_hub_name, pulled_folder, shipped_folder

    if os.path.isdir(name):  # noqa: PTH112 - pathlib's raises for odd names
        return Path(name)
    if name == "nano" and not Path(name).exists():
        return shipped_folder()
    if is_hub_name(name) and not Path(name).exists() and pulled_folder(name).is_dir():
        return pulled_folder(name)
    return None


def _described(image: str, report: "Report") -> list[str]:
    lines = [f"{image}: {'changed' if report.tampering else 'unchanged'} since it was signed"]
    lines += [f"changed:    {what}" for what in report.tampering]
    if (signature := report.signature) is not None:
        lines.append(f"signed by:  {signature.name} ({signature.organisation}), {signature.algorithm}")
        lines.append(f"time-stamp: {signature.time or 'none'}")
    if report.trust:
        lines.append(f"which is:   {_TRUST[report.trust]}")
    if report.model:
        lines.append(f"model:      {report.model} {report.digest or ''}".rstrip())
    if report.watermark:
        lines.append(f"mark:       invisible, of a model whose digest begins {report.watermark}")
    for number, step in enumerate(report.chain, 1):
        if number == 1 and step.unsigned_parent:
            lines.append("  0. a picture without a signed record")
        lines += _step(number, step)
    return lines


def _step(number: int, step: "Step") -> list[str]:
    what = step.action.removeprefix("c2pa.")
    model = f" with {step.model}" if step.model else ""
    more = f", from {step.inputs} further picture{'s' * (step.inputs > 1)}" if step.inputs else ""
    when = f", {step.time}" if step.time else ""
    lines = [f"  {number}. {what}{model}{more} ({step.software}, signed by {step.signature.name}{when})"]
    lines += [f'     "{step.prompt}"'] if step.prompt else []
    lines += [f"     LoRA {lora}" for lora in step.loras]
    return [*lines, *(f"     its input: {warning}" for warning in step.warnings)]
