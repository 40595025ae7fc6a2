"""What the commands of `openkontext evaluate` print."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from openkontext.evaluation.concept_scores import OTHERS, ConceptReport, OthersLost, bound_of
from openkontext.evaluation.drift import DriftReport
from openkontext.evaluation.fidelity import Fidelity
from openkontext.evaluation.scores import Score, ScoreReport
from openkontext.evaluation.similarity import MEASURES


def _console() -> Console:
    """A screen that shows names as they are: a model may be called anything."""
    return Console(markup=False, emoji=False)


def print_table(report: ScoreReport, title: str) -> None:
    """Scores by task, kind and part, and what was measured."""
    console = _console()
    if report.overall is not None:
        console.print(_scores(report, report.overall, title))
        for goal in report.goals:
            reached = f"{goal.reached * 100:.0f} points" if goal.is_gap else f"{goal.reached:.0%}"
            bound = f"at most {goal.bound * 100:.0f}" if goal.is_gap else f"{goal.bound:.0%}"
            print(f"{'met' if goal.met else 'not met'}: {goal.what} {reached}, goal {bound}")
    else:
        title = f"{title}: nothing says what these pictures show, so success is not judged"
    console.print(_measures(report, "means" if report.overall else title))
    if report.refused:
        print(f"{report.refused} of {report.count} were refused by a filter")
    print(f"{report.seconds:.1f} s of editing")


def _scores(report: ScoreReport, overall: Score, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("success", "95%", "cases", "seen", "unseen"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("failed checks", min_width=14)

    def add(section: str, scores: dict[str, Score], parts: dict[str, dict[str, Score]]) -> None:
        if section:
            table.add_row(f"{section}:")
        for name, score in scores.items():
            faults = report.faults.get(name, {}) if section == "kinds" else {}
            table.add_row(
                f"  {name}" if section else name,
                f"{score.success:.1%}",
                f"{score.low * 100:.0f} .. {score.high:.0%}",
                str(score.count),
                *(_part(parts.get(name, {}), part) for part in ("seen", "unseen")),
                ", ".join(f"{check} {n}" for check, n in faults.items()),
            )
        table.add_section()

    add("tasks", report.tasks, report.parts)
    add("kinds", report.kinds, report.parts)
    add("phrasings", report.phrasings, {})
    add("", {"overall": overall}, {"overall": report.combinations})
    return table


def _part(parts: dict[str, Score], name: str) -> str:
    return f"{parts[name].success:.0%}" if name in parts else ""


def _measures(report: ScoreReport, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    columns = [name for name in MEASURES if any(name in means for means in report.measures.values())]
    for heading in ("cases", *(MEASURES[name].title for name in columns), "nothing changed"):
        table.add_column(heading, justify="right")
    for task, means in report.measures.items():
        table.add_row(
            task,
            str(report.cases.get(task, report.count)),
            *(MEASURES[name].format.format(means[name]) if name in means else "" for name in columns),
            str(report.unchanged.get(task, sum(report.unchanged.values()))),
        )
    return table


def print_drift(report: DriftReport, title: str) -> None:
    """What is left after every number of turns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("turns", "PSNR of what was not edited", "autoencoder alone"):
        table.add_column(heading, justify="right")
    for turn, values in enumerate(zip(report.psnr, report.autoencoder, strict=True), 1):
        table.add_row(str(turn), *(f"{value:.1f} dB" for value in values))
    _console().print(table)
    if report.recognized is not None:
        score = report.recognized
        interval = f"{score.low:.0%} .. {score.high:.0%}"
        print(f"characters recognized: {score.success:.0%} ({interval}) of {score.count}")


def print_concept(
    report: ConceptReport, before: ConceptReport | None = None, lost: OthersLost | None = None
) -> None:
    """How often a concept came by each route, beside the model of before where it was measured, too."""
    table = Table(title=f"{report.model}: {report.concept}", title_justify="left", box=box.SIMPLE)
    table.add_column("route", no_wrap=True)
    for heading in (
        "comes",
        "95%",
        "cases",
        "bound",
        *([] if before is None else [f"{before.model} before"]),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [*report.routes.items(), *([] if report.others is None else [(OTHERS, report.others)])]
    for name, score in rows:
        cells = [f"{score.success:.1%}", f"{score.low * 100:.0f} .. {score.high:.0%}", str(score.count)]
        cells.append("" if name == OTHERS else f"{bound_of(name):.0%}")
        if before is not None:
            other = before.others if name == OTHERS else before.routes[name]
            cells.append("" if other is None else f"{other.success:.1%}")
        table.add_row("other edits succeed" if name == OTHERS else name, *cells)
    _console().print(table)
    if lost is not None:
        points, low, high = (f"{100 * each:.1f}" for each in (lost.points, lost.low, lost.high))
        print(f"other edits lose {points} points, pair by pair (95%: {low} .. {high})")
    for missed in report.missed(before):
        print(f"missed: {missed}")


def print_fidelity(found: Sequence[Fidelity], title: str) -> None:
    """What each precision costs."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("success", "latent error", "PSNR", "SSIM", "MB", "s an edit", "peak MiB"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.label,
            f"{each.success:.1%}",
            f"{each.latent_error[-1]:.3f}",
            f"{each.psnr:.1f} dB",
            f"{each.ssim:.3f}",
            f"{each.megabytes:.1f}",
            f"{each.seconds:.1f}",
            f"{each.peak_mib:.0f}",
        )
    _console().print(table)
