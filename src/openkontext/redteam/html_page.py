"""The report as one HTML file: decision, trend, tables, cases. Needs the extra `report` (Jinja2)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openkontext import images
from openkontext.evaluation import html_report
from openkontext.images.fitting import Pixels
from openkontext.redteam.attack_report import COLUMNS, MODEL, SYSTEM, RedTeamReport, ReportCell
from openkontext.redteam.attacks import ATTACKS
from openkontext.redteam.ledger import PICTURES, Trial
from openkontext.redteam.plan import ALL

PER_ATTACK = 3
"""Cases of each attack, concept and candidate on the page: the first, so that none is chosen."""
_LABEL = 20
"""Characters of a name below a chart."""
_BLURRED_SIDE = 6
"""Pixels that are left of the longer side of a picture that may not be shown."""


def render(report: RedTeamReport, work: Path, facts: Mapping[str, str]) -> str:
    """Draw the page.

    Args:
        report: of a run.
        work: its folder, with the pictures.
        facts: how it was run, by name.

    Raises:
        InputError: Jinja2 is not installed, or a picture is gone.
    """
    attacks = list(dict.fromkeys(trial.attack for trial in report.trials))
    concepts = [concept.name for concept in report.plan.concepts]
    shown = [*concepts, ALL] if len(concepts) > 1 else concepts
    last = report.candidates[-1]
    return html_report.page(
        "redteam.html",
        "openkontext.redteam",
        facts=facts,
        candidates=report.candidates,
        checkpoints=report.checkpoints,
        concepts=concepts,
        attacks=attacks,
        decision=report.decision,
        headline=_headline(report, last),
        charts=[_chart(report, concept) for concept in reversed(shown)],
        tables=[_table(report, concept, attacks) for concept in shown],
        details=[{"name": name, "rows": list(_details(report, name, attacks))} for name in report.candidates],
        comparisons=list(_comparisons(report)),
        judges=report.opinions.scores,
        alpha=report.opinions.alpha,
        filters=report.filters,
        groups=list(_groups(report, work, attacks)),
        per_attack=PER_ATTACK,
    )


def blurred(pixels: Pixels) -> Pixels:
    """A picture of which nothing can be told but its colors; it cannot be made sharp again.

    Args:
        pixels: uint8 [H, W, 3].
    """
    image = Image.fromarray(pixels)
    small = image.copy()
    small.thumbnail((_BLURRED_SIDE, _BLURRED_SIDE), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC))


def _headline(report: RedTeamReport, name: str) -> dict[str, Any] | None:
    cells = {column: report.cell(name, ALL, ALL, column) for column in COLUMNS}
    scores = {column: cell.score for column, cell in cells.items() if cell is not None and cell.score}
    return {"name": name, **scores} if len(scores) == len(COLUMNS) else None


def _chart(report: RedTeamReport, concept: str) -> dict[str, Any]:
    """Where the lines of one trend are drawn, with an interval at every checkpoint."""
    width, height, left, right, top, bottom = 900, 400, 76, 884, 14, 270
    count = len(report.checkpoints)

    def x(place: int) -> float:
        return round(left + (right - left) * (place + 0.5) / count, 1)

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * share, 1)

    lines = []
    for column in COLUMNS:
        points = []
        for place, checkpoint in enumerate(report.checkpoints):
            cell = report.cell(checkpoint.name, concept, ALL, column)
            if cell is not None and cell.score is not None:
                score = cell.score
                points.append(
                    {"x": x(place), "y": y(score.success), "low": y(score.low), "high": y(score.high)}
                )
        lines.append({"name": column, "points": points})
    return {
        "name": "all concepts" if concept == ALL else concept,
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "bottom": bottom,
        "grid": [{"y": y(share / 4), "label": f"{share / 4:.0%}"} for share in range(5)],
        "ticks": [
            {"x": x(place), "name": each.name, "label": _short(each.name)}
            for place, each in enumerate(report.checkpoints)
        ],
        "lines": lines,
    }


def _short(name: str) -> str:
    """A name as it fits below a chart; the whole one is in the tables."""
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"


def _table(report: RedTeamReport, concept: str, attacks: Sequence[str]) -> dict[str, Any]:
    what = {each.name: each.what for each in report.plan.concepts}
    return {
        "concept": "all concepts" if concept == ALL else concept,
        "what": what.get(concept, ""),
        "attacks": [*attacks, "all attacks"],
        "rows": [
            {
                "name": checkpoint.name,
                "candidate": checkpoint.name in report.candidates,
                "cells": [_cell(report, checkpoint.name, concept, attack) for attack in (*attacks, ALL)],
            }
            for checkpoint in report.checkpoints
        ],
    }


def _both(
    report: RedTeamReport, name: str, concept: str, attack: str
) -> tuple[ReportCell, ReportCell] | None:
    """The number of the model alone and of the whole system; None where there is none."""
    model, system = (report.cell(name, concept, attack, column) for column in (MODEL, SYSTEM))
    if model is None or system is None or model.score is None or system.score is None:
        return None
    return model, system


def _cell(report: RedTeamReport, name: str, concept: str, attack: str) -> dict[str, Any] | None:
    both = _both(report, name, concept, attack)
    if both is None:
        return None
    told = [
        f"{label}: {cell.successes} of {cell.score.count}, {cell.score.low:.0%} to {cell.score.high:.0%}"
        for label, cell in zip(("model alone", "whole system"), both, strict=True)
        if cell.score is not None
    ]
    return {"model": both[0].score, "system": both[1].score, "words": "; ".join(told)}


def _details(report: RedTeamReport, name: str, attacks: Sequence[str]) -> Iterator[dict[str, Any]]:
    for attack in (*attacks, ALL):
        both = _both(report, name, ALL, attack)
        kind = ATTACKS.get(attack)
        row: dict[str, Any] = {
            "attack": "all attacks" if attack == ALL else attack,
            "needs": "" if kind is None else kind.needs,
            "source": "" if kind is None else kind.source,
            "model": None,
        }
        if both is not None:
            model, system = both
            row |= {
                "model": model.score,
                "system": system.score,
                "queries": "–" if model.queries is None else f"{model.queries:g}",
                "refused": system.refused,
                "held": system.held,
            }
        yield row


def _comparisons(report: RedTeamReport) -> Iterator[dict[str, Any]]:
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in report.comparisons:
        concept = "all concepts" if each.concept == ALL else each.concept
        if each.concept == ALL and len(report.plan.concepts) == 1:
            continue
        row = rows.setdefault(
            (each.checkpoint, each.other, each.concept),
            {
                "checkpoint": each.checkpoint,
                "other": each.other,
                "concept": concept,
                MODEL: None,
                SYSTEM: None,
            },
        )
        row[each.column] = each.difference
    yield from rows.values()


def _groups(report: RedTeamReport, work: Path, attacks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cases that are shown, attack by attack."""
    harmless = {concept.name: concept.harmless for concept in report.plan.concepts}
    for attack in attacks:
        cards = [
            _card(trial, work, harmless.get(trial.concept, False))
            for name in report.candidates
            for concept in harmless
            for trial in [
                t
                for t in report.trials
                if (t.checkpoint, t.concept, t.attack) == (name, concept, attack) and t.picture
            ][:PER_ATTACK]
        ]
        if cards:
            yield {"name": attack, "cards": cards}


def _card(trial: Trial, work: Path, harmless: bool) -> dict[str, Any]:
    picture = images.load(work / PICTURES / f"{trial.picture}.png").pixels
    label = "the model alone" if harmless else "the model alone, blurred"
    verdict, said = "safe", "✓ not reached"
    if trial.system.success:
        verdict, said = "through", "✗ got through the whole system"
    elif trial.alone.success:
        stops = [
            name
            for name, count in (
                ("refused", trial.system.refused),
                ("held", trial.system.held),
                ("no way in", trial.system.closed),
            )
            if count
        ]
        verdict, said = (
            "stopped",
            f"reached in the model alone; the system: {', '.join(stops) or 'not reached'}",
        )
    queries = (trial.system if trial.system.success else trial.alone).queries
    return {
        "words": trial.words,
        "pictures": [{"label": label, **html_report.embedded(picture if harmless else blurred(picture))}],
        "verdict": verdict,
        "said": said,
        "checkpoint": trial.checkpoint,
        "concept": trial.concept,
        "queries": f"{queries} edit{'s' if queries != 1 else ''}",
    }
