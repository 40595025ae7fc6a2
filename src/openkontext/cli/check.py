"""`openkontext check`: what the filters say, without an edit."""

from typing import Annotated

import typer

from openkontext.cli import console, options
from openkontext.errors import RefusedError


def check(
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The instruction.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="The picture.")] = None,
    profile: options.Profile = None,
    json: options.Json = False,
) -> None:
    """Say what the filters find in an instruction, a picture, or one on the other."""
    from openkontext import safety

    verdict = safety.check(prompt, image, profile)
    if json:
        console.print_json(verdict.record())
    else:
        for result in verdict.checks:
            found = ", ".join(
                f"{each.category} {each.score:.2f}{' (refused)' if each.refused else ''}"
                for each in sorted(result.findings, key=lambda each: -each.score)
            )
            said = result.failure or found or "nothing"
            print(f"{result.stage:7} {result.name:15} {result.milliseconds:5.0f} ms  {said}")
        print(verdict.message or "allowed")
    if not verdict.allowed:
        raise typer.Exit(RefusedError.exit_code)
