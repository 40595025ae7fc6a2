"""The report of a run as plain data: rates, queries, comparisons, agreement, the decision."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from openkontext import reports
from openkontext.evaluation.scores import Score
from openkontext.redteam.ledger import Column, Trial
from openkontext.redteam.model_series import SeriesModel
from openkontext.redteam.opinions import Opinions
from openkontext.redteam.plan import ALL, RedTeamPlan
from openkontext.redteam.statistics import Difference
from openkontext.redteam.thresholds import BoundsDecision, Rate

MODEL, SYSTEM = "model", "system"
COLUMNS: dict[str, Callable[[Trial], Column]] = {
    MODEL: lambda trial: trial.alone,
    SYSTEM: lambda trial: trial.system,
}
"""The two columns of every table: the model alone, and the whole system."""


@dataclass(frozen=True)
class ReportCell:
    """One number of a table, and what stands behind it."""

    checkpoint: str
    concept: str
    attack: str
    column: str
    score: Score | None
    """None where no case could be tried."""
    successes: int
    queries: float | None
    """Median of the edits until success, over the cases that got through; None where none did."""
    refused: int
    held: int
    closed: int
    untried: int
    """Cases that could not be tried or judged; they are in no rate."""

    @classmethod
    def of(
        cls, checkpoint: str, concept: str, attack: str, column: str, trials: Sequence[Trial]
    ) -> "ReportCell":
        """The number of some trials."""
        columns = [COLUMNS[column](trial) for trial in trials]
        tried = [each for trial, each in zip(trials, columns, strict=True) if trial.alone.success is not None]
        successes = [each for each in tried if each.success]
        return cls(
            checkpoint,
            concept,
            attack,
            column,
            Score.of(bool(each.success) for each in tried) if tried else None,
            len(successes),
            float(statistics.median(each.queries for each in successes)) if successes else None,
            sum(each.refused for each in columns),
            sum(each.held for each in columns),
            sum(each.closed for each in columns),
            len(columns) - len(tried),
        )

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record = asdict(self)
        record.update(record.pop("score") or dict.fromkeys(("success", "low", "high")) | {"count": 0})
        return record


@dataclass(frozen=True)
class RateDifference:
    """One checkpoint's rate less another's, over all attacks."""

    checkpoint: str
    other: str
    concept: str
    column: str
    difference: Difference

    def record(self) -> dict[str, Any]:
        """As JSON."""
        said = {name: getattr(self, name) for name in ("checkpoint", "other", "concept", "column")}
        return {**said, **asdict(self.difference), "sure": self.difference.is_sure}


@dataclass(frozen=True)
class RedTeamReport:
    """What a run found."""

    plan: RedTeamPlan
    checkpoints: tuple[SeriesModel, ...]
    candidates: tuple[str, ...]
    trials: tuple[Trial, ...]
    cells: tuple[ReportCell, ...]
    """Of every checkpoint, concept (and all), attack (and all) and column."""
    comparisons: tuple[RateDifference, ...]
    opinions: Opinions
    decision: BoundsDecision | None = None
    """None where no thresholds were given."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Those of the whole system: name -> version."""

    @classmethod
    def of(
        cls,
        plan: RedTeamPlan,
        checkpoints: Sequence[SeriesModel],
        candidates: Sequence[str],
        trials: Sequence[Trial],
        opinions: Opinions,
    ) -> "RedTeamReport":
        """The report on all trials of a run, without a decision.

        Args:
            plan: that was followed.
            checkpoints: in their order.
            candidates: names of those that the decision is on.
            trials: of all cases.
            opinions: of all judges.
        """
        concepts = [concept.name for concept in plan.concepts]
        attacks = list(dict.fromkeys(trial.attack for trial in trials))
        cells = []
        for checkpoint in checkpoints:
            own = [trial for trial in trials if trial.checkpoint == checkpoint.name]
            for concept in (*concepts, ALL):
                for attack in (*attacks, ALL):
                    some = [t for t in own if concept in (t.concept, ALL) and attack in (t.attack, ALL)]
                    if some:
                        cells += [
                            ReportCell.of(checkpoint.name, concept, attack, column, some)
                            for column in COLUMNS
                        ]
        pairs = _pairs([each.name for each in checkpoints], candidates)
        found = tuple(cells)
        comparisons = tuple(_compared(found, pairs, (*concepts, ALL)))
        return cls(plan, tuple(checkpoints), tuple(candidates), tuple(trials), found, comparisons, opinions)

    @property
    def rates(self) -> list[Rate]:
        """What bounds are held against: every concept and attack by itself."""
        return [
            Rate(cell.checkpoint, cell.concept, cell.attack, cell.column, cell.score)
            for cell in self.cells
            if cell.score is not None and ALL not in (cell.concept, cell.attack)
        ]

    def cell(self, checkpoint: str, concept: str, attack: str, column: str) -> ReportCell | None:
        """One number; None where there is none."""
        asked = checkpoint, concept, attack, column
        for each in self.cells:
            if (each.checkpoint, each.concept, each.attack, each.column) == asked:
                return each
        return None

    def record(self) -> dict[str, Any]:
        """As JSON: the head that all reports have, then the rest. The subjects are the candidates."""
        subjects = [
            reports.ReportSubject.of_model(each.name, each.digest)
            for each in self.checkpoints
            if each.name in self.candidates
        ]
        return {
            **reports.head(reports.RED_TEAM, subjects),
            "decision": None if self.decision is None else self.decision.record(),
            "checkpoints": [{"name": each.name, "digest": each.digest} for each in self.checkpoints],
            "candidates": list(self.candidates),
            "plan": {
                "concepts": [concept.name for concept in self.plan.concepts],
                "attacks": [{**each.record(), "cases": each.cases} for each in self.plan.attacks],
                "seed": self.plan.seed,
                "steps": self.plan.steps,
                "judges": [asdict(each) for each in self.plan.judges],
                "system": asdict(self.plan.system),
            },
            "filters": dict(self.filters),
            "cases": len(self.trials),
            "rates": [cell.record() for cell in self.cells],
            "comparisons": [each.record() for each in self.comparisons],
            "judges": self.opinions.record(),
            "seconds": round(sum(trial.seconds for trial in self.trials), 1),
        }


def _pairs(names: Sequence[str], candidates: Sequence[str]) -> list[tuple[str, str]]:
    """Each candidate with every other checkpoint; two candidates once."""
    found: list[tuple[str, str]] = []
    for one in candidates:
        found += [(one, other) for other in names if other != one and (other, one) not in found]
    return found


def _compared(
    cells: Iterable[ReportCell], pairs: Sequence[tuple[str, str]], concepts: Sequence[str]
) -> Iterable[RateDifference]:
    scores = {
        (cell.checkpoint, cell.concept, cell.column): cell.score
        for cell in cells
        if cell.attack == ALL and cell.score is not None
    }
    for one, other in pairs:
        for concept in concepts:
            for column in COLUMNS:
                first, second = (scores.get((name, concept, column)) for name in (one, other))
                if first is not None and second is not None:
                    yield RateDifference(one, other, concept, column, Difference.of(first, second))
