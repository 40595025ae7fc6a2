"""The command line: thin commands over `openkontext.Editor` and its neighbors.

Each group of commands is a module here and is registered below; it imports what it runs inside the
command, so that starting `openkontext` stays quick and needs none of the optional packages.
"""

import copy
import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from openkontext.cli import (
    accounts,
    chat,
    check,
    console,
    curate,
    doctor,
    edit,
    evaluate,
    export,
    known,
    provenance,
    redteam,
    release,
    repositories,
    review,
    serve,
    terms,
    train,
)
from openkontext.cli.options import in_options
from openkontext.errors import InputError, OpenKontextError
from openkontext.files import not_written
from openkontext.version import __version__

app = typer.Typer(
    epilog="Every command takes --debug, which shows the traceback of an error.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"openkontext {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Edit images from text instructions with FLUX.1 Kontext."""


app.command()(edit.edit)
app.command()(edit.generate)
app.command()(chat.chat)
app.command()(provenance.verify)
app.command()(check.check)
app.add_typer(review.app, name="review")
app.add_typer(known.lists, name="lists")
app.add_typer(known.quarantine, name="quarantine")
app.command()(repositories.pull)
app.command()(doctor.doctor)
app.add_typer(terms.app, name="terms")
app.command()(serve.serve)
app.add_typer(accounts.accounts, name="accounts")
app.add_typer(accounts.keys, name="keys")
app.command()(train.train)
app.command()(train.finetune)
app.command()(train.distill)
app.command()(train.inhibit)
app.command()(curate.curate)
app.command()(export.export)
app.add_typer(evaluate.app, name="evaluate")
app.command()(redteam.redteam)
app.command()(release.release)


def main(args: list[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0 done; 1 a defect of ours; 2 bad use or bad input; 3 refused by a filter; 4 consent missing;
    5 a threshold missed; 130 stopped with Ctrl-C. An error is one line on stderr.
    """
    args = list(sys.argv[1:] if args is None else args)
    words = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in words
    if debug:
        args.remove("--debug")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        return _only(args)(args or ["--help"], prog_name="openkontext", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            raise
        return _report(error)


def _only(args: list[str]) -> typer.Typer:
    """The program with only the command that is asked for: to describe all takes longer than to run some."""
    chosen = copy.copy(app)
    chosen.registered_groups = [each for each in app.registered_groups if [each.name] == args[:1]]
    chosen.registered_commands = [
        each for each in app.registered_commands if each.callback and [each.callback.__name__] == args[:1]
    ]
    return chosen if chosen.registered_groups or chosen.registered_commands else app


def run() -> NoReturn:
    """Run the command line of this process and end it.

    A check that was given up on, since it took too long or Ctrl-C came, may still be inside native code, in
    which Python cannot stop a thread without an abort (SIGABRT in place of the exit code). Then the process
    ends here; what it had to write and to put away, `main` has done.
    """
    code = main()
    checks = sys.modules.get("openkontext.safety.side_by_side")
    if checks is not None and not checks.let_finish():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _report(error: Exception) -> int:
    """Tell the user about an error in one line; returns the exit code."""
    if isinstance(error, typer.TyperException):
        if not error.format_message():  # the help was shown in place of a missing subcommand
            return error.exit_code
        command = getattr(getattr(error, "ctx", None), "command_path", "openkontext")
        message, code = f"{error.format_message().rstrip('.')}; see {command} --help", error.exit_code
    elif isinstance(error, OpenKontextError) and type(error) is not OpenKontextError:
        message, code = in_options(str(error)), error.exit_code
    elif (told := not_written(error)) is not None:
        message, code = told, InputError.exit_code
    else:
        detail = f"{type(error).__name__}: {error}"
        message, code = f"this is a defect of openkontext ({detail}); --debug shows where", 1
    print("error:", console.one_line(message), file=sys.stderr)
    return code
