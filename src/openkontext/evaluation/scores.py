"""Shares of successes and how sure they are."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openkontext.data.edits import IMPOSSIBLE, KINDS, TASKS
from openkontext.evaluation.edits import Outcome

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
        centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        return cls(share, max(centre - half, 0.0), min(centre + half, 1.0), count)


@dataclass(frozen=True)
class Report:
    """The scores of a run, over all cases and over parts of them."""

    overall: Score
    tasks: dict[str, Score]
    """By task of KontextBench."""
    kinds: dict[str, Score]
    """By kind of edit."""
    combinations: dict[str, Score]
    """By whether training saw the asked combination: "seen", "unseen"."""
    phrasings: dict[str, Score]
    """By whether training used the phrasing: "seen", "unseen"."""
    faults: dict[str, dict[str, int]]
    """In how many cases which of the reader's checks failed, by kind of edit; a case can fail several."""
    seconds: float
    """Time that the editor took."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Report":
        """The report on outcomes, at least one."""
        kinds = (*KINDS, IMPOSSIBLE)
        faults: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        task = {kind: name for name, members in TASKS.items() for kind in members}
        for outcome in outcomes:
            faults[outcome.case.edit.kind].update(sorted({fault.check for fault in outcome.reading.faults}))
        return cls(
            overall=Score.of(o.reading.success for o in outcomes),
            tasks=_by(outcomes, lambda o: task.get(o.case.edit.kind, ""), TASKS),
            kinds=_by(outcomes, lambda o: o.case.edit.kind, kinds),
            combinations=_by(outcomes, lambda o: ("seen", "unseen")[o.case.unseen], ("seen", "unseen")),
            phrasings=_by(
                outcomes, lambda o: ("seen", "unseen")[o.case.held_out_phrasing], ("seen", "unseen")
            ),
            faults={kind: dict(counter.most_common()) for kind, counter in faults.items() if counter},
            seconds=round(sum(o.seconds for o in outcomes), 2),
        )

    def record(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)


def _by(
    outcomes: Sequence[Outcome], part: Callable[[Outcome], str], names: Iterable[str]
) -> dict[str, Score]:
    """The score of every part that has cases."""
    groups = {name: [o.reading.success for o in outcomes if part(o) == name] for name in names}
    return {name: Score.of(successes) for name, successes in groups.items() if successes}
