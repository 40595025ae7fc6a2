"""`openkontext lists` and `openkontext quarantine`: lists of known material, and what was found on them."""

import os
from pathlib import Path
from typing import Annotated

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError

lists = typer.Typer(help="Lists of known material.", no_args_is_help=True)
quarantine = typer.Typer(help="Known material that was found, sealed.", no_args_is_help=True)

USER, PASSWORD = "OPENKONTEXT_CYBERTIPLINE_USER", "OPENKONTEXT_CYBERTIPLINE_PASSWORD"
"""Environment variables with the account at the CyberTipline."""

Publisher = Annotated[str, typer.Argument(metavar="PUBLISHER", help="Its name, as its updates give it.")]
Incident = Annotated[str, typer.Argument(metavar="INCIDENT", help="Its id, or the beginning of it.")]


@lists.command("show")
def show(json: options.Json = False) -> None:
    """Show the lists in force; never what is in them."""
    from openkontext.places import list_folders
    from openkontext.safety.known.material import KnownMaterial

    rows = [
        {
            "publisher": each.publisher,
            "update": each.serial,
            "material": each.material,
            "hashes": {kind: count for kind, count in each.index.counts.items() if count},
        }
        for each in KnownMaterial(list_folders()).lists()
    ]
    if json:
        console.print_json({"lists": rows})
        return
    for row in rows:
        print("  ".join(str(value) for value in row.values()))
    if not rows:
        print("no lists are installed; see docs/safety.md for where they come from")


@lists.command("trust")
def trust(
    publisher: Publisher,
    key: Annotated[str, typer.Argument(metavar="KEY.pem", help="Its public Ed25519 key.")],
) -> None:
    """Accept updates of a publisher from now on."""
    from openkontext.safety.known import updates

    updates.trust(_folder(), publisher, Path(key))
    print(f"{publisher}: updates that it signed will be installed")


@lists.command("install")
def install(update: Annotated[str, typer.Argument(metavar="UPDATE.zip", help="As it came.")]) -> None:
    """Check a signed update and put it in force; running editors take it up by themselves."""
    from openkontext.safety.known.updates import install_update

    manifest = install_update(_folder(), Path(update))
    print(f"{manifest.publisher}: update {manifest.serial} is in force, {len(manifest.lists)} lists")


@lists.command("sign")
def sign(
    output: Annotated[str, typer.Argument(metavar="UPDATE.zip", help="What to write.")],
    lists: Annotated[list[str], typer.Argument(metavar="LIST=KIND ...", help="Such as ours.csv=pdq.")],
    publisher: Annotated[str, typer.Option(metavar="NAME", help="Who signs.")],
    serial: Annotated[int, typer.Option(metavar="N", help="A number that grows with each update.")],
    key: Annotated[str, typer.Option(metavar="KEY.pem", help="Private Ed25519 key without a password.")],
    material: Annotated[str, typer.Option(metavar="csam|ncii", help="What the lists are of.")] = "csam",
) -> None:
    """Make a signed update of your own lists."""
    from openkontext.safety.known.updates import sign_update

    pairs = [name.rpartition("=") for name in lists]
    if any(not separator for _, separator, _ in pairs):
        raise InputError("name each list with its kind of hash, such as ours.csv=pdq")
    files = {Path(name): kind for name, _, kind in pairs}
    manifest = sign_update(Path(output), files, publisher, serial, Path(key), material)
    print(f"{output}: update {manifest.serial} of {manifest.publisher}, {len(manifest.lists)} lists")


@quarantine.command("list")
def list_incidents(json: options.Json = False) -> None:
    """List incidents and how far their reports have come; nothing is opened for it."""
    from openkontext.safety.quarantine import Quarantine

    found = Quarantine().incidents()
    if json:
        console.print_json({"incidents": [each.model_dump(mode="json") for each in found]})
        return
    for each in found:
        state = f"reported as {each.report}" if each.finished else "not reported"
        print(f"{each.id[:8]}  {each.time:%Y-%m-%d %H:%M}  {state}")
    if not found:
        print("the quarantine is empty")


@quarantine.command("report")
def report(
    incident: Incident,
    key: Annotated[str | None, typer.Option(metavar="KEY.pem", help="The recipient's private key.")] = None,
    production: Annotated[
        bool, typer.Option("--production", help="To where it counts; NCMEC's test system when left out.")
    ] = False,
) -> None:
    """Send the report of an incident to NCMEC's CyberTipline; nothing is ever sent without this command."""
    from pydantic import SecretStr

    from openkontext.safety.quarantine import Quarantine
    from openkontext.safety.submission import PRODUCTION_URL, TEST_URL, CyberTipline, ServiceAccount, submit

    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if not (user and password):
        raise InputError(f"set ${USER} and ${PASSWORD} to the account that NCMEC gave you")
    tipline = CyberTipline(
        ServiceAccount(user, SecretStr(password)), PRODUCTION_URL if production else TEST_URL
    )
    done = submit(Quarantine(), incident, tipline, Path(key) if key else None)
    print(f"incident {done.id[:8]} is reported as {done.report}")


def _folder() -> Path:
    from openkontext.places import data_folder

    return data_folder() / "lists"
