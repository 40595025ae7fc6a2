"""What is counted over all records, for the data card."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from openkontext.curation.comparing import EXACT, NEAR
from openkontext.curation.filtering import KNOWN
from openkontext.curation.outcomes import CurationRow, PairDecision

KEPT = "kept"
_MOST = 10
"""Rows of a table of the data card that are named; the others are counted together."""
_MOST_COUNTED = 10_000
"""Different licenses, groups and sizes that are told apart; memory must not grow with the records."""
_SIDES = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class FinalOutcome:
    """The one outcome of a record."""

    number: int
    row: CurationRow
    stage: str
    """`KEPT`, or what dropped it."""
    reason: str
    of: int = -1

    @classmethod
    def of_row(cls, number: int, row: CurationRow, decision: PairDecision | None) -> "FinalOutcome":
        """From what both kinds of stages said.

        Args:
            number: of the record.
            row: of the stages that look at it alone.
            decision: of those that compare; None where it did not come to them.
        """
        if decision is None:
            return cls(number, row, row.stage, row.reason)
        return cls(number, row, decision.stage or KEPT, decision.reason, decision.of)

    @property
    def kept(self) -> bool:
        """Whether it is in the output."""
        return self.stage == KEPT

    def record(self) -> dict[str, Any]:
        """It as a line of `outcomes.jsonl`."""
        said: dict[str, Any] = {"record": self.number, "name": self.row.name, "outcome": "dropped"}
        if self.kept:
            return {**said, "outcome": KEPT}
        said |= {"stage": self.stage, "reason": self.reason}
        if self.row.detail and self.stage == self.row.stage:
            said["detail"] = self.row.detail
        return said | ({"of": self.of} if self.of >= 0 else {})


@dataclass
class Tally:
    """Counts of outcomes, taken one by one in their order."""

    records: int = 0
    kept: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    size: int = 0
    """Bytes of the kept records' files."""
    sealed: int = 0
    clusters: dict[str, Counter[int]] = field(default_factory=lambda: {EXACT: Counter(), NEAR: Counter()})
    _input: Any = field(default_factory=hashlib.sha256)

    def take(self, outcome: FinalOutcome) -> None:
        """Count an outcome."""
        row = outcome.row
        self.records += 1
        self.sealed += row.sealed
        self._input.update(row.digest)
        if not outcome.kept:
            self.reasons[outcome.stage, outcome.reason] += 1
            if outcome.of >= 0:
                _count(self.clusters[outcome.stage], outcome.of, -1)
            return
        self.kept += 1
        self.size += row.size
        _count(self.licenses, row.license or "not said", "others")
        if row.group:
            _count(self.groups, row.group, "others")
        self.sides[_bucket(min(row.width, row.height))] += 1

    @property
    def dropped(self) -> int:
        """Records that are not in the output."""
        return self.reasons.total()

    def record(self) -> dict[str, Any]:
        """The counts as JSON."""
        stages: dict[str, dict[str, int]] = {}
        for (stage, reason), count in sorted(self.reasons.items()):
            stages.setdefault(stage, {})[reason] = count
        return {
            "records": self.records,
            "kept": self.kept,
            "dropped": self.dropped,
            "dropped_by": stages,
            "sealed": self.sealed,
            "bytes": self.size,
            "shorter_side": dict(sorted(self.sides.items(), key=lambda each: int(each[0].split()[-1]))),
            "licenses": _most(self.licenses),
            "groups": _most(self.groups),
            "duplicates": {name: _clusters(found) for name, found in self.clusters.items()},
        }

    @property
    def input_digest(self) -> str:
        """SHA-256 over the digests of all records, in their order."""
        return str(self._input.hexdigest())


def is_harmless(stage: str) -> bool:
    """Whether what a stage dropped may be shown, once the filters have passed it."""
    return stage not in (KNOWN, "filters", "read", "decode", "record", KEPT)


def _bucket(side: int) -> str:
    below = next((limit for limit in _SIDES if side < limit), None)
    return f"below {below}" if below else f"from {_SIDES[-1]}"


def _count(counter: Counter[Any], name: Any, others: Any) -> None:
    counter[name if name in counter or len(counter) < _MOST_COUNTED else others] += 1


def _most(counter: Counter[str]) -> dict[str, int]:
    found = dict(sorted(counter.items(), key=lambda each: (-each[1], each[0]))[:_MOST])
    rest = counter.total() - sum(found.values())
    return found | ({"others": found.get("others", 0) + rest} if rest else {})


def _clusters(found: Counter[int]) -> dict[str, Any]:
    """How many records are repeated, how often, and which the most."""
    largest = sorted(found.items(), key=lambda each: (-each[1], each[0]))[:_MOST]
    return {
        "clusters": len(found),
        "records": found.total(),
        "largest": [{"record": of, "repeated": count} for of, count in largest if of >= 0],
    }
