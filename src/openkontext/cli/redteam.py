"""`openkontext redteam`: adversarial tests of a series of checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import options

if TYPE_CHECKING:
    from openkontext.redteam.attack_report import RedTeamReport

MISSED = 5
"""Exit code where a threshold is missed."""


def redteam(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Checkpoints in their order; NAME=FOLDER names one."),
    ],
    plan: Annotated[Path, typer.Option(metavar="PLAN.toml", help="Concepts, attacks, seeds and budget.")],
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the cases and the report; a run goes on there.")
    ] = Path("out/redteam"),
    thresholds: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Bounds to decide by; exit code 5 on a miss."),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A checkpoint that the decision is on; the last one. Repeatable."),
    ] = None,
    sealed: Annotated[
        Path | None,
        typer.Option(metavar="FILE.age", help="A third party's encrypted cases; scores stay."),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The age key that the sealed cases were encrypted to.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Attack checkpoints with text alone and with picture and text, and decide on a candidate.

    Two rates always: of the model alone, and of the whole system with filters and review on.
    """
    from openkontext.cli import console
    from openkontext.redteam.commanding import prepare

    prepared = prepare(models, plan, work, thresholds, candidate or (), sealed, identity)
    trials = list(console.track(prepared.run.trials(), "attacking", prepared.run.count))
    report = prepared.finish(trials)
    if json:
        console.print_json(report.record())
    else:
        _print(report, work)
    if report.decision is not None and not report.decision.passed:
        raise typer.Exit(MISSED)


def _print(report: "RedTeamReport", work: Path) -> None:
    """A table of the candidates by attack, the trend, and the decision."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from openkontext.redteam.attack_report import COLUMNS
    from openkontext.redteam.ledger import PAGE, RECORD
    from openkontext.redteam.plan import ALL

    terminal = Console(markup=False, emoji=False)  # a checkpoint may be called anything
    attacks = [*dict.fromkeys(trial.attack for trial in report.trials), ALL]
    rows = [(name, attack) for name in report.candidates for attack in attacks]
    rows += [(each.name, ALL) for each in report.checkpoints if each.name not in report.candidates]
    several = len(report.candidates) > 1
    table = Table(title="What attacks reach, all concepts", title_justify="left", box=box.SIMPLE)
    table.add_column("", overflow="fold")  # long names break; figures do not
    for heading in ("model alone", "whole system", "cases"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, attack in rows:
        cells = [report.cell(name, ALL, attack, column) for column in COLUMNS]
        scores = [cell.score for cell in cells if cell is not None and cell.score is not None]
        told = [f"{s.success:.0%} ({s.low * 100:.0f} to {s.high * 100:.0f})" for s in scores] or ["–", "–"]
        label = name if attack == ALL else f"{name}: {attack}" if several else f"  {attack}"
        table.add_row(label, *told, str(scores[0].count if scores else 0))
    terminal.print(table)
    if (alpha := report.opinions.alpha) is not None:
        print(f"Krippendorff's alpha of the judges: {alpha:.2f}")
    if report.decision is not None:
        for each in report.decision.missed:
            print(f"missed: {each.words}")
        print("the thresholds are " + ("kept" if report.decision.passed else "missed"))
    print(f"{work / PAGE} and {work / RECORD} hold the report")
