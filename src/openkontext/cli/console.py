"""What a command shows: results on stdout, progress and warnings on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from openkontext.cli.options import in_options

if TYPE_CHECKING:
    from openkontext.result import EditResult, EditStep

Item = TypeVar("Item")

_JOINERS = "\u200c\u200d"  # not seen, but they make the shape of words and of emoji


@contextmanager
def progress(description: str) -> Iterator[Callable[["EditStep"], None]]:
    """A progress bar on stderr with the step and the time left; yields the callback that moves it.

    On a terminal it moves and is gone afterwards; elsewhere its last state is one line.
    """
    from rich.console import Console  # late, as below: `openkontext --help` shows none
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[step]}"),
        TimeRemainingColumn(compact=True),
    )
    bar = Progress(*columns, console=console, transient=console.is_terminal)
    task = bar.add_task(description, total=None, step="opening the model")

    def on_step(step: "EditStep") -> None:
        bar.update(task, completed=step.index, total=step.count, step=f"step {step.index}/{step.count}")
        bar.start()  # elsewhere than on a terminal only now: an edit that fails before has nothing to show

    if console.is_terminal:
        bar.start()
    try:
        yield on_step
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def batch_progress(total: int) -> Iterator[Callable[[float, str], None]]:
    """One progress bar on stderr for many edits; yields what moves it.

    Args:
        total: how many edits.

    Yields:
        A function of how many are done, in parts too, and of what is being done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("editing"),
        BarColumn(),
        TextColumn("{task.fields[count]}/{task.total} {task.fields[name]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("editing", total=total, count=0, name="")

        def show(done: float, name: str) -> None:
            bar.update(task, completed=done, count=int(done), name=one_line(name))

        yield show


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """The items one after the other, with a progress bar on stderr."""
    import rich.progress
    from rich.console import Console

    yield from rich.progress.track(
        items, description, total, console=Console(stderr=True), transient=sys.stderr.isatty()
    )


def show_notes(notes: Iterable[str], warnings: Iterable[str]) -> None:
    """Print notes and warnings on stderr, one a line."""
    for note in notes:
        print("note:", one_line(in_options(note)), file=sys.stderr)
    for warning in warnings:
        print("warning:", one_line(in_options(warning)), file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """So many of a thing: "1 case", "3 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(message: str) -> str:
    """A message as one line that no terminal takes for commands, whatever text it quotes."""
    seen = "".join(c if c.isprintable() or c in _JOINERS else " " for c in message)
    return " ".join(seen.split())


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    encoding = sys.stdout.encoding or "ascii"  # a pipe's on Windows is none of Unicode's
    print(json.dumps(record, ensure_ascii=not encoding.lower().startswith("utf"), indent=2))


def result_record(result: "EditResult") -> dict[str, Any]:
    """A result as JSON."""
    apart = ("image", "record", "verdict", "loras", "settings", "output_type", "latents", "others")
    fields = {name: value for name, value in vars(result).items() if name not in apart}
    size = {"width": result.image.width, "height": result.image.height}
    loras = {"loras": [asdict(lora) for lora in result.loras]} if result.loras else {}
    return {**size, **fields, **loras, "verdict": result.verdict.record()}
