"""`openkontext curate`: pairs in, each kept or dropped with a reason."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import console, options

if TYPE_CHECKING:
    from openkontext.curation.runner import Watched


def curate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Table, shard or folder of pairs.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the output; one of ours goes on.")],
    rules: Annotated[
        str, typer.Option(metavar="RULES.toml", help="pre-training, post-training, or a file of rules.")
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="jsonl|parquet|webdataset", help="Of the kept pairs.")
    ] = "jsonl",
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Processes here, or Ray Data on one machine or many.")
    ] = "local",
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that look at records.")] = 1,
    block: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=100_000, help="Records that a kill costs at most, a worker."),
    ] = 128,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.5, help="After which a record that hangs is dropped.")
    ] = 120.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another curation that the folder holds.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Filter pairs of before, after and instruction for training, and write a data card."""
    from openkontext.curation import runner

    with _progress() as watch:
        card = runner.curate(
            source,
            out,
            rules,
            overwrite=overwrite,
            watch=watch,
            engine=engine,
            workers=workers,
            block=block,
            kind=form,
            seconds=seconds,
        )
    if json:
        console.print_json(card)
        return
    print(f"{out}: {card['kept']} of {console.counted(card['records'], 'record')} kept")
    for stage, reasons in card["dropped_by"].items():
        for reason, count in reasons.items():
            print(f"  {count:>8} dropped, {stage}: {reason}")
    if card["sealed"]:
        known = console.counted(card["sealed"], "picture")
        print(f"{known} of known material sealed; see: openkontext quarantine list")
    print(f"data card: {out}/report.html and report.json")


@contextmanager
def _progress() -> Iterator[Callable[["Watched"], None]]:
    """A progress bar on stderr with records a second, what was kept and dropped so far, and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[said]}"),
        TimeRemainingColumn(compact=True),
    )
    bar = Progress(*columns, console=screen, transient=screen.is_terminal)
    task = bar.add_task("", total=0, said="")
    phase = ""

    def watch(seen: "Watched") -> None:
        nonlocal phase
        if seen.phase != phase:
            phase = seen.phase
            bar.reset(task, total=seen.total, completed=0, description=phase)
            bar.start()
        speed = bar.tasks[0].speed
        rate = f"{speed:.1f} records/s, " if speed else ""
        said = f"{rate}{seen.kept} kept, {seen.dropped} dropped"
        bar.update(task, completed=seen.done, said=said)

    try:
        yield watch
    finally:
        if bar.live.is_started:
            bar.stop()
