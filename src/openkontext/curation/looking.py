"""What one process does: look at records one after the other, each through all stages that need no other."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from openkontext.curation.curation_rules import CurationRules
from openkontext.curation.filtering import KNOWN, Filters, KnownMaterialStage, pair_guard
from openkontext.curation.opened import OpenPair, contents, digest, one_line, open_pictures, same_words
from openkontext.curation.outcomes import CurationRow
from openkontext.curation.stages import (
    DECODE,
    READ,
    Instruction,
    Leakage,
    License,
    Quality,
    RecordStage,
)
from openkontext.errors import InputError
from openkontext.safety.guard import Guard
from openkontext.train.records import PairRecord, Skipped

HASHES, NOTES = "leakage.npz", "sealed"
"""In the folder of the work: hashes of the evaluation sets, and which records were sealed."""


STAGES = (Quality, License, Instruction, Leakage, Filters)
"""In their order: what takes longest comes last."""


@dataclass(frozen=True)
class CurationJob:
    """What all processes of a run do."""

    rules: CurationRules
    work: Path
    """Folder of what is not finished; all machines reach it."""
    guard: Callable[[CurationRules], Guard] = pair_guard
    """Makes the filters, in each process."""
    seconds: float = 120.0
    """After which a record that hangs is given up."""


class Looker:
    """Looks at records by a job's rules."""

    def __init__(self, job: CurationJob) -> None:
        """Open what the stages look with.

        Raises:
            InputError: the rules name what cannot be used.
        """
        guard, rules = job.guard(job.rules), job.rules
        self._rules = rules
        self._known = KnownMaterialStage(guard, job.work / NOTES)
        self.filters = Filters(guard)
        """The last stage; what is shown of a record that another dropped must pass it, too."""
        leakage: list[RecordStage] = [Leakage(job.work / HASHES)] if rules.leakage.sets else []
        self._stages: tuple[RecordStage, ...] = (
            Quality(rules.picture),
            License(rules.license),
            Instruction(rules.instruction),
            *leakage,
            self.filters,
        )

    def look(self, record: PairRecord | Skipped, number: int) -> CurationRow:
        """What the stages say of a record.

        Args:
            record: as it was read.
            number: of it in the source, from 0.

        Raises:
            InputError: known material cannot be sealed, or a list is damaged.
        """
        if isinstance(record, Skipped):
            detail = record.reason if record.reason != record.fault else ""
            return CurationRow(record.name, digest(record, {}), READ, record.fault, one_line(detail))
        files = contents(record)
        opened, (fault, detail) = open_pictures(files)
        row = CurationRow(record.name, digest(record, files), sealed=self._seal(record, opened, number))
        if row.sealed:
            return replace(row, stage=KNOWN, reason="on a list")
        if fault:
            return replace(row, stage=DECODE, reason=fault, detail=one_line(detail))
        pair = OpenPair(record, tuple(opened))
        row = self._described(row, pair)
        for stage in self._stages:
            if found := stage.drop(pair):
                return replace(row, stage=stage.name, reason=found.reason, detail=one_line(found.detail))
        return row

    def warm(self) -> None:
        """Look at a pair that nobody brought, so that the first record does not pay for what looking opens.

        Raises:
            InputError: as `look`.
        """
        file = BytesIO()
        Image.linear_gradient("L").convert("RGB").save(file, "PNG")
        record = PairRecord("", file.getvalue(), file.getvalue(), "make it night")
        files = contents(record)
        pair = OpenPair(record, tuple(open_pictures(files)[0]))
        try:
            self._described(CurationRow("", digest(record, files)), pair)
            for stage in self._stages:
                stage.drop(pair)
        except InputError:
            raise
        except Exception:
            return  # what fails here fails at every record, and is told there

    def shows(self, record: PairRecord | Skipped, number: int) -> OpenPair | None:
        """A dropped pair that may be shown all the same: nothing in it is refused. None for any other."""
        if isinstance(record, Skipped):
            return None
        opened, (fault, _) = open_pictures(contents(record))
        if fault or self._seal(record, opened, number):
            return None
        pair = OpenPair(record, tuple(opened))
        return pair if self.filters.judge(pair).allowed else None

    def _seal(self, record: PairRecord, opened: list, number: int) -> int:  # type: ignore[type-arg]
        return self._known.sealed(record.name, record.instruction, opened, number)

    def _described(self, row: CurationRow, pair: OpenPair) -> CurationRow:
        before, after, others = pair.before, pair.after, pair.record.others
        width, height = after.picture.size
        field = self._rules.balance.field
        group = pair.record.instruction if field == "instruction" else others.get(field, "")
        return replace(
            row,
            words=same_words(pair.record.instruction),
            before=before.sha256 if before else None,
            after=after.sha256,
            before_pdq=before.comparable if before else None,
            after_pdq=after.comparable,
            license=one_line(str(others.get(self._rules.license.field) or ""))[:80],
            group=one_line(str(group)) if field else "",
            width=width,
            height=height,
            fields="\n".join(sorted(map(one_line, others))),
            size=sum(len(each.data) for each in pair),
        )


def look_safely(looker: Looker, record: PairRecord | Skipped, number: int) -> CurationRow:
    """Look at a record, of which any error but bad input costs that record alone.

    Raises:
        InputError: as `Looker.look`.
    """
    try:
        return looker.look(record, number)
    except InputError:
        raise
    except Exception as error:  # whatever it is, nobody looked
        return CurationRow(record.name, digest(record, {}), DECODE, f"a stage failed: {type(error).__name__}")
