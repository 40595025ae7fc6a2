"""Write the reference pages from what the program itself says, so that they cannot be stale.

    python scripts/reference.py [docs]

`commands.md` comes from the command line, `settings.md` from the service's settings, `recipes.md` from the
stages of training, and `addresses.md` from the service's OpenAPI document.
"""

import ast
import dataclasses
import inspect
import itertools
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic_core import PydanticUndefined
from typer.main import get_command

from openkontext.cli import app
from openkontext.service.http.app import create_app
from openkontext.service.settings import Settings
from openkontext.train.loop import RunRecipe
from openkontext.train.recipe import STAGES

ROOT = Path(__file__).parents[1]
NOTE = "<!-- Made by `make reference`. Change the program, not this page. -->"


def commands() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Every command and option",
        NOTE,
        "[command-line.md](command-line.md) tells what holds for all commands. Every command takes `--help`, "
        "and `--debug`, which shows the traceback of an error.",
    ]
    for name, command in _leaves(get_command(app), ("openkontext",)):
        context = command.context_class(command, info_name=" ".join(name))
        usage = " ".join([*name, *command.collect_usage_pieces(context)])
        lines += [f"## {' '.join(name[1:])}", f"```\n{usage}\n```", inspect.cleandoc(command.help or "")]
        records = [each.get_help_record(context) for each in command.params]
        rows = [(f"`{name}`", said) for name, said in filter(None, records)]
        if rows:
            lines.append(_table(("argument or option", "meaning"), rows))
    return _page(lines)


def settings() -> str:
    """Every setting of the service."""
    said = documented(Settings)
    rows = [
        (f"`OPENKONTEXT_{name.upper()}`", _default(field), said[name])
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        [
            "# Settings of the service",
            NOTE,
            "Each setting is an environment variable. [service.md](service.md) tells how to run the service.",
            _table(("variable", "default", "meaning"), rows),
        ]
    )


def recipes() -> str:
    """Every setting of a recipe."""
    lines = [
        "# Settings of a recipe",
        NOTE,
        "A recipe is a TOML file of one stage. [training.md](training.md) tells how to run it.",
        "## run",
        "The table `[run]` says how a stage runs. A stage refuses a setting that does nothing in it.",
    ]
    stages = {
        field.name: [n for n, s in STAGES.items() if field.name in s.run] for field in _fields(RunRecipe)
    }
    said = documented(RunRecipe)
    lines.append(
        _table(
            ("setting", "default", "meaning", "stages"),
            [
                (f"`{field.name}`", _value(field), said[field.name], ", ".join(stages[field.name]))
                for field in _fields(RunRecipe)
                if stages[field.name]
            ],
        )
    )
    for name, stage in STAGES.items():
        said = documented(stage.settings)
        lines += [f"## {name}", f"`openkontext {stage.command}` runs it. {inspect.getdoc(stage.settings)}"]
        rows = [(f"`{each.name}`", _value(each), said.get(each.name, "")) for each in _fields(stage.settings)]
        lines.append(_table(("setting", "default", "meaning"), rows))
    return _page(lines)


def addresses() -> str:
    """Every address of the service."""
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings.model_validate({"data": Path(folder)})).openapi()
    rows = [
        (f"`{method.upper()} {path}`", _first_line(operation), _answers(operation))
        for path, methods in sorted(document["paths"].items())
        for method, operation in methods.items()
    ]
    return _page(
        [
            "# Every address of the service",
            NOTE,
            "[http-api.md](http-api.md) explains them. `GET /openapi.json` describes each field.",
            _table(("address", "what it does", "answers"), rows),
        ]
    )


PAGES = {"commands.md": commands, "settings.md": settings, "recipes.md": recipes, "addresses.md": addresses}


def documented(kind: type) -> dict[str, str]:
    """What the strings below a class's fields say, base classes included."""
    found: dict[str, str] = {}
    for each in reversed([k for k in kind.__mro__ if k.__module__.startswith("openkontext")]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for one, following in itertools.pairwise(body):
            if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
                found[one.target.id] = ast.literal_eval(following.value)  # type: ignore[union-attr]
    return {name: " ".join(text.split()) for name, text in found.items()}


def _leaves(command: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, each in command.commands.items():
        if not each.hidden:
            yield from _leaves(each, (*name, word))


def _fields(kind: type) -> list[Any]:
    return [each for each in dataclasses.fields(kind) if each.name in get_type_hints(kind)]


def _value(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return f"`{made!r}`" if len(repr(made)) < 60 else "a table"
    return "needed"


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "the folder for data"
    value = getattr(field.default, "get_secret_value", lambda: field.default)()
    return "none" if value in ("", None, ()) else f"`{value}`"


def _first_line(operation: dict[str, Any]) -> str:
    return operation.get("description", operation.get("summary", "")).split("\n")[0]


def _answers(operation: dict[str, Any]) -> str:
    return ", ".join(operation["responses"])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])


def _page(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    for page, write in PAGES.items():
        (folder / page).write_text(write(), encoding="utf-8")
