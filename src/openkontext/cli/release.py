"""`openkontext release`: a model with what is known of it, its card and the signed list of its files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError

if TYPE_CHECKING:
    from openkontext.release.manifest import FolderReport

_DIFFERENCES = ("altered", "missing", "extra")
_SIGNERS = {
    "given": "the key that you gave",
    "own": "the key of this installation",
    "openkontext": "the key of those who made nano",
    "unknown": "a key that this machine does not know",
}


def release(
    checkpoint: Annotated[
        str, typer.Argument(metavar="REPO", help="Folder of a model repository, as export writes it.")
    ],
    dossier: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with the reports, the license and about.md.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM with the private key; this installation's when left out."),
    ] = None,
    profile: options.Profile = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Put a model's reports, license and card into its repository and sign the list of its files.

    Nothing is written and the exit code is 2 where a report is missing, too old or of other weights.
    """
    from openkontext.release.releasing import NotReadyError
    from openkontext.release.releasing import release as release_model
    from openkontext.repository import Repository

    repository = Repository.open(checkpoint, consent=False)
    try:
        made = release_model(repository, dossier, key=key, profile=profile or "default", overwrite=overwrite)
    except NotReadyError as error:
        if json:
            console.print_json({"released": False, "gaps": [vars(gap) for gap in error.gaps]})
        else:
            print("\n".join(f"lacks: {gap}" for gap in error.gaps))
        raise
    if json:
        found = {"released": True, "path": str(made.folder), "files": made.count}
        console.print_json({**found, "key": made.key, "digests": made.digests})
        return
    print(f"{made.folder}: {console.counted(made.count, 'file')} signed with the key {made.key[:16]}")
    for precision, digest in made.digests.items():
        print(f"digest of {precision}: {digest}")
    print(f"anyone can check it: openkontext verify {made.folder} --key PUBLIC-KEY.pem")


def verify_folder(folder: Path, key: Path | None, partial: bool, json: bool) -> None:
    """Say which files of a released repository differ from its signed list.

    Raises:
        InputError: any does, or nobody known signed the list.
    """
    from openkontext.release.manifest import check

    report = check(folder, key, partial=partial)
    if json:
        names = {what: getattr(report, what) for what in _DIFFERENCES}
        found = {"valid": report.valid, "signer": report.signer, "key": report.key, "files": report.count}
        console.print_json({"path": str(folder), **found, **names})
    else:
        print("\n".join(_described(report)))
    if not report.intact:
        differing = {what: getattr(report, what) for what in _DIFFERENCES}
        told = ", ".join(
            f"{console.counted(len(names), 'file')} {what}" for what, names in differing.items() if names
        )
        raise InputError(f"{folder}: is not what was signed: {told}; get it again from who released it")
    if not report.valid:
        raise InputError(
            f"{folder}: every file is as it was signed, but nobody known signed it: compare the key "
            f"{report.key[:16]} with the publisher's, and give that with --key FILE"
        )


def _described(report: "FolderReport") -> list[str]:
    files = console.counted(report.count, "file")
    state = "all as they were signed" if report.intact else "not what was signed"
    lines = [f"{report.folder}: {files} in its list, {state}"]
    for what in _DIFFERENCES:
        lines += [f"{what + ':':<11} {name}" for name in getattr(report, what)]
    return [*lines, f"signed by:  {_SIGNERS[report.signer]}, {report.key[:16]}"]
