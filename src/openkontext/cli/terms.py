"""`openkontext terms`: the license and usage policy of a model, and accepting them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError

if TYPE_CHECKING:
    from openkontext.terms import Terms

app = typer.Typer(help="The license and usage policy of a model, and accepting them.", no_args_is_help=True)

Repository = Annotated[
    str, typer.Argument(metavar="REPO", help="A folder, 'nano', or OWNER/NAME, fetched or on the Hub.")
]


@app.command()
def show(repository: Repository = "nano", json: options.Json = False) -> None:
    """Show the terms that a model repository carries, and whether they are accepted."""
    from openkontext.hub import find_terms

    terms = find_terms(repository)
    if json:
        console.print_json({**_described(terms), "texts": dict(terms.texts)})
        return
    print(terms.text.rstrip())
    print()
    print(f"{terms.name}: {terms.license}, version {terms.version}, sha256 {terms.digest}")
    consent = terms.consent()
    if consent:
        print(f"accepted {consent.time}")
    elif terms.required:
        print(f"not accepted yet: openkontext terms accept {repository}")
    else:
        print("nothing needs to be accepted")


@app.command()
def accept(
    repository: Repository,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Accept only the very texts of this digest.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Accept the terms of a model repository; by that you say that you have read them."""
    from openkontext.hub import find_terms

    terms = find_terms(repository)
    if digest is not None and digest != terms.digest:
        raise InputError(
            f"{terms.name}: its terms have the digest {terms.digest}, not {digest}; read them again"
        )
    consent = terms.accept()
    if json:
        console.print_json(_described(terms))
    else:
        print(f"{terms.name}: {consent.license}, version {consent.version}, accepted {consent.time}")


def _described(terms: "Terms") -> dict[str, Any]:
    consent = terms.consent()
    return {
        "name": terms.name,
        "license": terms.license,
        "licence": terms.license,  # as it was spelled, for one more version
        "version": terms.version,
        "digest": terms.digest,
        "required": terms.required,
        "accepted": consent.time if consent else None,
    }
