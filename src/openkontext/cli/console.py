"""What a command shows: results on stdout, progress and warnings on stderr."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from openkontext.activity import LOG
from openkontext.cli.options import in_options

if TYPE_CHECKING:
    from openkontext.result import EditResult, EditStep

Item = TypeVar("Item")

_QUIET_SECONDS = 60
"""Where no bar moves, such as in a file, a line comes at most so often before the last."""

_JOINERS = "\u200c\u200d"  # not seen, but they make the shape of words and of emoji


class Pace:
    """How fast steps come.

    The steps of `--cache` that are foreseen take no time, so the mean of all so far tells more than the last.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._steps = False

    def stage(self) -> None:
        """Something else is done from now on; the last of these before the first step is what begins it."""
        if not self._steps:
            self._begun = time.monotonic()

    def step(self, index: int, count: int) -> str:
        """What to say after a step.

        Args:
            index: which it was, from 1.
            count: of how many.
        """
        self._steps = True
        each = (time.monotonic() - self._begun) / index
        left = timedelta(seconds=round(each * (count - index)))
        digits = 1 if each < 10 else 0
        return f"step {index}/{count}, {each:.{digits}f} s each" + (f", {left} left" if index < count else "")


class _Stages(logging.Handler):
    """Hands what is said to `openkontext.activity` on."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def progress(description: str) -> Iterator[Callable[["EditStep"], None]]:
    """What an edit does, then its steps, seconds a step and the time left; yields the callback for a step.

    On a terminal it is a bar that moves and is gone afterwards. Elsewhere there is a line a minute at most,
    and one at the end.
    """
    from rich.console import Console  # late, as below: `openkontext --help` shows none
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    said = TextColumn("{task.fields[said]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(20), said, TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=console.is_terminal)
    task = bar.add_task(description, total=None, said="opening the model")
    pace, told = Pace(), time.monotonic()

    def say(text: str) -> None:
        nonlocal told
        bar.update(task, said=text)
        if not console.is_terminal and time.monotonic() - told > _QUIET_SECONDS:
            print(f"{description}: {text}", file=sys.stderr, flush=True)
            told = time.monotonic()

    def on_stage(text: str) -> None:
        pace.stage()
        say(text)

    paced = ""

    def on_step(step: "EditStep") -> None:
        nonlocal paced
        bar.update(task, completed=step.index, total=step.count)
        paced = pace.step(step.index, step.count)
        say(paced)

    stages = _Stages(on_stage)
    level = LOG.level
    LOG.addHandler(stages)
    LOG.setLevel(logging.DEBUG)
    if console.is_terminal:
        bar.start()
    try:
        yield on_step
    finally:
        LOG.setLevel(level)
        LOG.removeHandler(stages)
        # Elsewhere than on a terminal only now: an edit that failed before its steps has nothing to show.
        if bar.live.is_started or bar.tasks[0].completed:
            bar.update(task, said=paced)  # not what came after the last step
            bar.start()  # where it has begun already, nothing happens
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
    # An edit may take hours: its time is told from all that was seen, where half a minute is usual.
    seen = 365 * 24 * 3600.0
    with Progress(
        *columns, console=console, transient=console.is_terminal, speed_estimate_period=seen
    ) as bar:
        task = bar.add_task("editing", total=total, count=0, name="")

        def show(done: float, name: str) -> None:
            bar.update(task, completed=done, count=int(done), name=one_line(name))

        yield show


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """The items one after the other, with a progress bar on stderr.

    Elsewhere than on a terminal it is one line at the end, and none where there was no item.
    """
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    screen = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(elapsed_when_finished=True))
    bar = Progress(*columns, console=screen, transient=screen.is_terminal)
    task = bar.add_task(description, total=total)
    if screen.is_terminal:
        bar.start()
    try:
        for item in items:
            bar.advance(task)
            yield item
    finally:
        if bar.live.is_started or bar.tasks[0].completed:
            bar.start()  # where it has begun already, nothing happens
            bar.stop()


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
