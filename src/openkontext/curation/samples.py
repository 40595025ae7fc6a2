"""The records that the data card shows: kept ones, evenly chosen; the first that each reason dropped."""

from openkontext.curation.data_card import SAMPLES
from openkontext.curation.local_engine import RecordBlock
from openkontext.curation.tally import FinalOutcome, is_harmless


class Chosen:
    """Chooses among outcomes that are taken one by one, in their order."""

    def __init__(self, kept: int) -> None:
        """Begin with none.

        Args:
            kept: records that will be kept.
        """
        self.kept: list[tuple[FinalOutcome, RecordBlock]] = []
        """Those that are in the output."""
        self._every, self._seen = max(1, kept // SAMPLES), 0
        self._dropped: dict[tuple[str, str], list[tuple[FinalOutcome, RecordBlock]]] = {}

    def take(self, outcome: FinalOutcome, block: RecordBlock) -> None:
        """Look at an outcome, and at the block that it is of."""
        if outcome.kept:
            if self._seen % self._every == 0 and len(self.kept) < SAMPLES:
                self.kept.append((outcome, block))
            self._seen += 1
        elif is_harmless(outcome.stage):
            first = self._dropped.setdefault((outcome.stage, outcome.reason), [])
            if len(first) < SAMPLES:
                first.append((outcome, block))

    def dropped(self) -> list[tuple[FinalOutcome, RecordBlock]]:
        """Those that are not, of each reason as many."""
        each = max(1, SAMPLES // max(1, len(self._dropped)))
        chosen = [one for first in self._dropped.values() for one in first[:each]]
        return sorted(chosen, key=lambda one: one[0].number)[:SAMPLES]
