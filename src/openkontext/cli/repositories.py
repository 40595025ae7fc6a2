"""`openkontext pull`: models on this machine."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import console, options

if TYPE_CHECKING:
    from openkontext.hub import Plan


def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face Hub.")],
    precision: Annotated[str, typer.Option(metavar="P", help="Precision of the transformer.")] = "bf16",
    t5_fp8: Annotated[bool, typer.Option("--t5-fp8", help="Take T5 in FP8, half as large.")] = False,
    json: options.Json = False,
) -> None:
    """Fetch a model repository; what an earlier try fetched is kept."""
    from openkontext.hub import pull

    found = pull(repository, precision, t5_fp8=t5_fp8, on_plan=_show_plan)
    if json:
        console.print_json({"path": str(found.path), "precisions": list(found.precisions)})
    else:
        print(f"{repository} is in {found.path} ({', '.join(found.precisions)})")


def _show_plan(plan: "Plan") -> None:
    """Print on stderr how much will be fetched, and how much of it is here."""
    if not plan.total:  # a hub that says no sizes
        return
    width = max(map(len, plan.folders))
    for folder, size in plan.folders.items():
        print(f"{folder:<{width}}  {_bytes(size):>9}", file=sys.stderr)
    here = f", {_bytes(plan.here)} of it are here" if plan.here else ""
    print(f"{_bytes(plan.total)} in all{here}, {_bytes(plan.left)} to fetch", file=sys.stderr)


def _bytes(size: int) -> str:
    """A size as people read it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
