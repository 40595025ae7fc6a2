"""The report of an evaluation as one HTML file: scores, plots, and the first cases as pictures.

Everything is inside the file, and nothing in it reaches out. Needs the extra `report` (Jinja2).
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from openkontext.errors import InputError, how_to_install
from openkontext.evaluation.drift import PSNR_GOAL, RECOGNIZED_GOAL, DriftReport, Kept
from openkontext.evaluation.editing import Outcome
from openkontext.evaluation.scores import ALL, ORDER, TASK_GOAL, Score, ScoreReport
from openkontext.evaluation.similarity import MEASURES
from openkontext.images.fitting import Pixels

PER_KIND = 12
"""Cases of each kind on the page: the first, so that none is chosen."""
CHAINS = 6
"""Chains on the page of drift: the first."""
_LARGEST = 480
"""Longest side of a picture on the page, in pixels."""
_BINS = 24


def require_jinja() -> None:
    """Say before the work begins what `render` would say after it.

    Raises:
        InputError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise InputError(f"a report needs Jinja2; {how_to_install('report')}") from None


def render(
    report: ScoreReport, outcomes: Sequence[Outcome], model: str, source: str, facts: Mapping[str, str]
) -> str:
    """Draw the page.

    Args:
        report: on all outcomes.
        outcomes: those with a picture are shown; see `edits.with_first_pictures`.
        model: what was judged.
        source: what it was judged on, such as "held-out edits".
        facts: how it was run, by name.

    Raises:
        InputError: Jinja2 is not installed.
    """
    return page(
        "edits.html",
        model=model,
        source=source,
        facts=facts,
        report=report,
        goal=TASK_GOAL,
        tasks=[_row(report, name, score, goal=True) for name, score in report.tasks.items()],
        kinds=[_row(report, name, score) for name, score in report.kinds.items()],
        splits=[
            _row(report, f"{name} {what}", score)
            for what, scores in (("combinations", report.combinations), ("phrasings", report.phrasings))
            for name, score in scores.items()
        ],
        measures=_measures(report),
        plots=list(_plots(outcomes)),
        groups=list(_groups(outcomes, report)),
        per_kind=PER_KIND,
    )


def render_drift(
    report: DriftReport,
    chains: Sequence[Sequence[tuple[Kept | None, str, Pixels]]],
    count: int,
    model: str,
    facts: Mapping[str, str],
) -> str:
    """Draw the page of a measurement of drift.

    Args:
        report: on all chains.
        chains: those to show: the picture that each began with and its outputs, with what was measured and
            asked.
        count: how many chains there were.
        model: what was judged.
        facts: how it was run, by name.

    Raises:
        InputError: Jinja2 is not installed.
    """
    goals = [_goal("after the last turn", report.psnr[-1], PSNR_GOAL, "{:.1f} dB")]
    if report.recognized is not None:
        goals.append(_goal("characters recognized", report.recognized.success, RECOGNIZED_GOAL, "{:.0%}"))
    return page(
        "drift.html",
        model=model,
        report=report,
        count=count,
        facts=facts,
        goals=goals,
        chart=_chart(report),
        chains=[
            {
                "pictures": [{"label": words, **embedded(pixels)} for _, words, pixels in chain],
                "psnr": kept.psnr,
                "recognized": kept.recognized,
            }
            for chain in chains
            if (kept := chain[-1][0]) is not None
        ],
    )


def page(name: str, package: str = "openkontext.evaluation", **values: Any) -> str:
    """A page from its template.

    Args:
        name: of the template, which may extend `base.html` of the evaluation.
        package: that has it in its folder `pages`.
        **values: what it shows.

    Raises:
        InputError: Jinja2 is not installed.
    """
    require_jinja()
    import jinja2

    rooms = dict.fromkeys((package, "openkontext.evaluation"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room, "pages") for room in rooms]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)


def _goal(what: str, reached: float, bound: float, form: str) -> dict[str, Any]:
    return {
        "what": what,
        "reached": form.format(reached),
        "bound": form.format(bound),
        "met": reached >= bound,
    }


def _chart(report: DriftReport) -> dict[str, Any]:
    """Where the lines of drift are drawn: both against the turns, with room for the goal."""
    width, height, left, right, top, bottom = 720, 300, 52, 700, 14, 268
    series = {"alone": report.autoencoder, "model": report.psnr}
    values = [PSNR_GOAL, *report.psnr, *report.autoencoder]
    step = 5 if max(values) - min(values) > 12 else 2
    low, high = math.floor(min(values) / step) * step, math.ceil((max(values) + 0.1) / step) * step
    turns = len(report.psnr)

    def x(turn: int) -> float:
        return round(left + (right - left) * (turn - 0.5) / turns, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - low) / (high - low), 1)

    return {
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "grid": [{"y": y(value), "label": value} for value in range(low, high + 1, step)],
        "ticks": [{"x": x(turn), "label": turn} for turn in range(1, turns + 1)],
        "bound": y(PSNR_GOAL),
        "lines": [
            {"name": name, "points": [(x(turn), y(value)) for turn, value in enumerate(line, 1)]}
            for name, line in series.items()
        ],
    }


def _row(report: ScoreReport, name: str, score: Score, *, goal: bool = False) -> dict[str, Any]:
    """One line of a plot with its numbers."""
    return {
        "name": name,
        "score": score,
        "parts": report.parts.get(name, {}),
        "faults": report.faults.get(name, {}) if not goal else {},
        "goal": TASK_GOAL if goal else None,
    }


def _measures(report: ScoreReport) -> dict[str, Any]:
    """The table of means: its columns, and a row for each task and for all."""
    columns = {name: MEASURES[name] for name in report.measures[ALL]}
    rows = [
        {
            "name": task,
            "count": report.count if task == ALL else report.cases[task],
            "unchanged": sum(report.unchanged.values()) if task == ALL else report.unchanged[task],
            "values": [_written(name, means[name]) if name in means else "–" for name in columns],
        }
        for task, means in report.measures.items()
    ]
    return {"columns": columns, "rows": rows if len(rows) > 2 else rows[-1:]}


def _written(name: str, value: float) -> str:
    return MEASURES[name].format.format(value)


def _plots(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """How the values of each measure are spread: heights of bars, from the least to the most."""
    for name, measure in MEASURES.items():
        values = np.array([o.measures[name] for o in outcomes if name in o.measures])
        if len(values) < 2:
            continue
        low, high = float(values.min()), float(values.max())
        if high - low < 1e-6:
            continue
        counts, _ = np.histogram(values, bins=_BINS, range=(low, high))
        median = float(np.median(values))
        yield {
            "measure": measure,
            "bars": [float(count) / int(counts.max()) for count in counts],
            "low": _written(name, low),
            "high": _written(name, high),
            "median": _written(name, median),
            "at": (median - low) / (high - low),
            "count": len(values),
        }


def _groups(outcomes: Sequence[Outcome], report: ScoreReport) -> Iterator[dict[str, Any]]:
    """The cases that are shown, kind by kind."""
    order = {kind: place for place, kind in enumerate(ORDER)}
    kinds = dict.fromkeys(outcome.case.kind for outcome in outcomes)
    for kind in sorted(kinds, key=lambda kind: order.get(kind, math.inf)):
        of_kind = [outcome for outcome in outcomes if outcome.case.kind == kind]
        yield {
            "name": kind,
            "score": report.kinds.get(kind),
            "count": len(of_kind),
            "cards": [_card(outcome) for outcome in of_kind if outcome.output.size],
        }


def _card(outcome: Outcome) -> dict[str, Any]:
    case, judgment = outcome.case, outcome.judgment
    pictures = [("before", case.before), ("output", outcome.output)]
    if (reference := case.reference) is not None:
        pictures.append(("as asked", reference))
    verdict = "refused" if outcome.refused else "measured"
    if judgment is not None:
        verdict = "right" if judgment.success else "wrong"
    return {
        "name": case.name,
        "instruction": case.instruction,
        "pictures": [{"label": label, **embedded(pixels)} for label, pixels in pictures],
        "verdict": verdict,
        "words": [fault.words for fault in judgment.faults] if judgment is not None else [],
        "refused": outcome.refused,
        "unchanged": outcome.unchanged,
        "unseen": case.unseen,
        "measures": [
            (MEASURES[name].title, _written(name, value)) for name, value in outcome.measures.items()
        ],
    }


def embedded(pixels: Pixels) -> dict[str, Any]:
    """A picture inside a page, no larger than it needs to be: its data URI, width and height.

    Args:
        pixels: uint8 [H, W, 3].
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    return {"uri": f"data:image/webp;base64,{data}", "width": image.width, "height": image.height}
