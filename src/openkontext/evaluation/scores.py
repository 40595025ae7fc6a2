"""Shares of successes and how sure they are."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openkontext.data.edits import IMPOSSIBLE, KINDS, TASKS
from openkontext.evaluation.editing import Outcome
from openkontext.evaluation.similarity import MEASURES

OVERALL_GOAL, TASK_GOAL, GAP_GOAL = 0.85, 0.7, 0.1
"""What is to be reached: of all edits, of each task, and how far unseen is below seen at most."""
ORDER = (*dict.fromkeys(name for task, kinds in TASKS.items() for name in (task, *kinds)), IMPOSSIBLE)
"""Tasks and kinds as a report lists them."""
ALL = "all"
"""Name of all tasks together."""
_Z = 1.959964
"""Two-sided 95% point of the normal distribution."""


@dataclass(frozen=True)
class Score:
    """A share of successes with its 95% interval."""

    success: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, successes: Iterable[bool]) -> "Score":
        """The share of true values, at least one, with Wilson's score interval.

        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
        """
        values = list(successes)
        count = len(values)
        share = sum(values) / count
        center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        return cls(share, max(center - half, 0.0), min(center + half, 1.0), count)


@dataclass(frozen=True)
class Goal:
    """What a model of the five tasks should reach, and what this one does."""

    what: str
    bound: float
    """The least that will do, as a share; for a gap the most."""
    reached: float
    is_gap: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.reached <= self.bound if self.is_gap else self.reached >= self.bound


@dataclass(frozen=True)
class ScoreReport:
    """The scores of a run, over all cases and over parts of them; no scores where nobody could judge."""

    count: int
    """Cases in all."""
    overall: Score | None
    tasks: dict[str, Score]
    """By task of KontextBench."""
    kinds: dict[str, Score]
    """By kind of edit."""
    combinations: dict[str, Score]
    """By whether training saw the asked combination: "seen", "unseen"."""
    phrasings: dict[str, Score]
    """By whether training used the phrasing: "seen", "unseen"."""
    parts: dict[str, dict[str, Score]]
    """By task or kind, then as `combinations`."""
    faults: dict[str, dict[str, int]]
    """In how many cases which of the judge's checks failed, by kind of edit; a case can fail several."""
    cases: dict[str, int]
    """Cases by task."""
    measures: dict[str, dict[str, float]]
    """Means by task, and of all; by the names of `similarity.MEASURES`."""
    unchanged: dict[str, int]
    """In how many cases the editor said that nothing was done, by task."""
    refused: int
    """Cases that a filter refused."""
    seconds: float
    """Time that the editor took."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "ScoreReport":
        """The report on outcomes, at least one."""
        judged = [o for o in outcomes if o.judgment is not None]
        kinds = (*KINDS, IMPOSSIBLE)
        faults: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        for outcome in outcomes:
            if outcome.judgment is not None:
                faults[outcome.case.kind].update(sorted({fault.check for fault in outcome.judgment.faults}))
        named = dict.fromkeys(outcome.case.task for outcome in outcomes)
        tasks = [name for name in TASKS if name in named] + [name for name in named if name not in TASKS]
        scores = {task: _score(o for o in judged if o.case.task == task) for task in TASKS}
        seen = {False: "seen", True: "unseen"}
        unchanged = Counter(outcome.case.task for outcome in outcomes if outcome.unchanged)
        return cls(
            count=len(outcomes),
            overall=_score(judged),
            tasks={task: score for task, score in scores.items() if score},
            kinds=_by(judged, lambda o: o.case.kind, kinds),
            combinations=_by(judged, lambda o: seen[bool(o.case.unseen)], seen.values()),
            phrasings=_by(judged, lambda o: seen[bool(o.case.held_out_phrasing)], seen.values()),
            parts={
                name: _by(
                    [o for o in judged if name in (o.case.task, o.case.kind)],
                    lambda o: seen[bool(o.case.unseen)],
                    seen.values(),
                )
                for name in dict.fromkeys((*scores, *kinds))
                if any(name in (o.case.task, o.case.kind) for o in judged)
            },
            faults={kind: dict(counter.most_common()) for kind, counter in faults.items() if counter},
            cases={task: sum(o.case.task == task for o in outcomes) for task in tasks},
            measures={
                **{task: _means(o for o in outcomes if o.case.task == task) for task in tasks},
                ALL: _means(outcomes),
            },
            unchanged={task: unchanged[task] for task in tasks},
            refused=sum(bool(outcome.refused) for outcome in outcomes),
            seconds=round(sum(o.seconds for o in outcomes), 2),
        )

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What a model of the five tasks should reach, as far as these cases tell."""
        goals = []
        if self.overall is not None:
            goals.append(Goal("all edits", OVERALL_GOAL, self.overall.success))
        goals += [Goal(f"task: {task}", TASK_GOAL, score.success) for task, score in self.tasks.items()]
        if len(self.combinations) == 2:
            gap = self.combinations["seen"].success - self.combinations["unseen"].success
            goals.append(Goal("unseen combinations below seen", GAP_GOAL, gap, is_gap=True))
        return tuple(goals)

    def record(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {**asdict(self), "goals": [{**asdict(goal), "met": goal.met} for goal in self.goals]}


def _score(outcomes: Iterable[Outcome]) -> Score | None:
    """The score of outcomes that were judged; None for none."""
    successes = [o.judgment.success for o in outcomes if o.judgment is not None]
    return Score.of(successes) if successes else None


def _by(
    outcomes: Sequence[Outcome], part: Callable[[Outcome], str], names: Iterable[str]
) -> dict[str, Score]:
    """The score of every part that has cases."""
    scores = {name: _score(o for o in outcomes if part(o) == name) for name in names}
    return {name: score for name, score in scores.items() if score}


def _means(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """The mean of every measure that was taken."""
    taken = [outcome.measures for outcome in outcomes]
    values = {name: [each[name] for each in taken if name in each] for name in MEASURES}
    return {name: round(sum(found) / len(found), 5) for name, found in values.items() if found}
