"""What the commands of `openkontext evaluate` read and show."""

import os
import platform

from rich import box
from rich.console import Console
from rich.table import Table

from openkontext.data.edits import IMPOSSIBLE, KINDS
from openkontext.editor import Editor
from openkontext.errors import InputError
from openkontext.evaluation.benchmarks import PictureCase, read_cases, spread
from openkontext.evaluation.cases import Case, draw_cases
from openkontext.evaluation.drift import DriftReport
from openkontext.evaluation.scores import Report, Score
from openkontext.evaluation.similarity import MEASURES
from openkontext.version import __version__

COUNT = 300
"""Cases that are drawn where no number is given."""


def draw(editor: Editor, seed: int, count: int | None, kinds: str | None) -> list[Case]:
    """Our own cases: of the kinds that are named, else of those that the model was taught.

    Raises:
        InputError: there is no such kind.
    """
    named = editor.repository.config.kinds or KINDS
    if kinds is not None:
        named = tuple(dict.fromkeys(kind.strip() for kind in kinds.split(",")))
        for kind in named:
            if kind not in (*KINDS, IMPOSSIBLE):
                raise InputError(
                    f"--kinds: there is no {kind!r}; choose of {', '.join((*KINDS, IMPOSSIBLE))}"
                )
    return draw_cases(seed, COUNT if count is None else count, named)


def read_foreign(path: str, count: int | None, kinds: str | None, ceiling: bool) -> list[PictureCase]:
    """Cases from elsewhere; so many of them, evenly spread.

    Raises:
        InputError: they cannot be read, or an option asks for what only our own cases have.
    """
    if kinds is not None:
        raise InputError("--kinds is for our own cases; leave it out with --cases, which brings its own")
    if ceiling:
        raise InputError("--ceiling needs cases whose true outcome is known; leave out --cases")
    return spread(read_cases(path), count)


def facts(
    editor: Editor,
    cases: str,
    *,
    seed: int,
    steps: int | None,
    guidance: float | None,
    true_cfg: float = 1.0,
    seconds: float,
) -> dict[str, str]:
    """How a run was made, by name; `seconds` are those of an edit."""
    config = editor.repository.config
    return {
        "model": config.name,
        "digest": editor.digest[:16],
        "precision": editor.components.precision,
        "cases": cases,
        "steps": str(steps or config.num_inference_steps),
        "guidance": f"{config.guidance_scale if guidance is None else guidance:g}",
        "true guidance": f"{true_cfg:g}" if true_cfg > 1 else "off",
        "seed": str(seed),
        "time an edit": f"{seconds:.2f} s",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "openkontext": __version__,
    }


def print_table(report: Report, title: str) -> None:
    """Scores by task, kind and part, and what was measured."""
    console = Console()
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


def _scores(report: Report, overall: Score, title: str) -> Table:
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


def _measures(report: Report, title: str) -> Table:
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
    Console().print(table)
    if report.recognised is not None:
        score = report.recognised
        interval = f"{score.low:.0%} .. {score.high:.0%}"
        print(f"characters recognised: {score.success:.0%} ({interval}) of {score.count}")
