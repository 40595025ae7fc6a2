"""One curation from its source to its data card; a run that was ended goes on where it was.

1. Blocks of records are looked at by an engine; a block's rows are written down together.
2. Records that passed are compared, in their order; decisions are written down in groups of blocks.
3. Kept pairs are read again and written, a file for each block.
4. Outcomes are counted and the card is written, last of all.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from openkontext.curation import data_card, kept_files, leakage, wording
from openkontext.curation.comparing import Comparison, stacked
from openkontext.curation.curation_rules import CurationRules, load_rules
from openkontext.curation.filtering import pair_guard
from openkontext.curation.guarded import GuardedWorker
from openkontext.curation.local_engine import RecordBlock, look_here
from openkontext.curation.looking import HASHES, CurationJob
from openkontext.curation.near_index import sample_size
from openkontext.curation.outcomes import (
    CurationRow,
    PairDecision,
    read_decisions,
    read_rows,
    write_decisions,
    write_rows,
)
from openkontext.curation.ray_engine import look_on_ray, require_ray
from openkontext.curation.samples import Chosen
from openkontext.curation.tally import FinalOutcome, Tally
from openkontext.curation.workplace import Workplace
from openkontext.errors import InputError, OpenKontextError
from openkontext.evaluation.html_report import require_jinja
from openkontext.files import whole, write_whole
from openkontext.images.opening import reason
from openkontext.safety.guard import Guard
from openkontext.train.records import sources, spans

_GROUP = 8192
"""Records after which decisions are written down, about."""

Engine = Literal["local", "ray"]
_ENGINES = {"local": look_here, "ray": look_on_ray}
_MOST_SECONDS = 86400
_LINE = json.JSONEncoder(ensure_ascii=False).encode
_SOURCE_DATE = "SOURCE_DATE_EPOCH"
"""Variable that gives the time in outputs which shall be the same bytes again (reproducible-builds.org)."""


@dataclass(frozen=True)
class Watched:
    """How far a curation has come."""

    phase: str
    """"looking", "comparing", "writing" or "reporting"."""
    done: int
    """Records, of this phase."""
    total: int
    kept: int
    """Records that nothing has dropped so far."""
    dropped: int


@dataclass(frozen=True)
class Curation:
    """What is asked of a curation."""

    source: Path
    out: Path
    rules: CurationRules
    engine: Engine = "local"
    workers: int = 1
    block: int = 128
    """Records of a block: what a kill costs at most, for each worker."""
    kind: str = "jsonl"
    """One of `kept_files.FORMATS`."""
    seconds: float = 120.0
    """After which a record that hangs is given up."""
    guard: Callable[[CurationRules], Guard] = pair_guard
    """Makes the filters."""


def curate(
    source: str | Path,
    out: str | Path,
    rules: str | Path | CurationRules = "post-training",
    *,
    overwrite: bool = False,
    watch: Callable[[Watched], None] = lambda _: None,
    **settings: Any,
) -> dict[str, Any]:
    """Filter pairs.

    Args:
        source: a table, a shard, or a folder of these; see `openkontext.train.records`.
        out: folder of the output: empty, missing, or of a run that was ended.
        rules: a preset, a TOML file, or rules.
        overwrite: replace a curation that the folder holds.
        watch: called with how far it has come.
        **settings: further fields of `Curation`.

    Returns:
        The data card.

    Raises:
        InputError: something cannot be used, or written.
    """
    read = rules if isinstance(rules, CurationRules) else load_rules(rules)
    asked = Curation(Path(source), Path(out), read, **settings)
    if asked.kind not in kept_files.FORMATS:
        raise InputError(f"format {asked.kind!r} is none of {', '.join(kept_files.FORMATS)}")
    if asked.engine not in _ENGINES:
        raise InputError(f"engine {asked.engine!r} is none of {', '.join(_ENGINES)}")
    for name in ("workers", "block"):
        if getattr(asked, name) < 1:
            raise InputError(f"{name} {getattr(asked, name)} is less than 1")
    if not 0 < asked.seconds <= _MOST_SECONDS:
        raise InputError(f"seconds {asked.seconds:g} is not above 0 and at most {_MOST_SECONDS}")
    require_jinja()
    wording.require(read.instruction)
    if asked.engine == "ray":
        require_ray()
    try:
        return _Run(asked, watch).finished(overwrite)
    except (OSError, sqlite3.OperationalError) as error:
        raise InputError(
            f"{out}: cannot be written ({reason(error)}); mend that, and run the same again: it goes on"
        ) from error


class _Run:
    def __init__(self, asked: Curation, watch: Callable[[Watched], None]) -> None:
        self._asked, self._watch = asked, watch
        files = sources(asked.source)
        self._blocks: list[RecordBlock] = []
        first = 0
        for index, span in enumerate(spans(files, asked.block)):
            self._blocks.append(RecordBlock(index, span, first))
            first += span.count
        self._total = first
        if not first:
            raise InputError(f"{asked.source}: holds no record")
        guard = asked.guard(asked.rules)
        self._place = Workplace(asked.out)
        self._job = CurationJob(asked.rules, self._place.work, asked.guard, asked.seconds)
        self._hash_sets = [*asked.rules.leakage.sets]
        self._place.require_apart(files, [Path(name) for name in self._hash_sets])
        self._versions = data_card.versions(guard)
        self._mark = {
            "files": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
            "sets": [leakage.state(name) for name in self._hash_sets],
            "rules": asked.rules.model_dump(),
            "versions": self._versions,
            "block": asked.block,
            "format": asked.kind,
        }
        self._made = datetime.fromtimestamp(0, UTC)
        self._kept = 0
        self._fields = set[str]()
        """Names of what kept records say besides their words."""

    def finished(self, overwrite: bool) -> dict[str, Any]:
        """Do what is not done yet."""
        with self._place.alone():
            return self._finished(overwrite)

    def _finished(self, overwrite: bool) -> dict[str, Any]:
        if (card := self._place.take(self._mark, overwrite)) is not None:
            return card
        hashes = self._place.work / HASHES
        if self._hash_sets and not (self._place.is_begun(self._mark) and hashes.exists()):
            leakage.hash_sets(self._hash_sets, hashes)
        self._made = self._place.begin(self._mark, _now())
        self._look()
        self._compare()
        self._write()
        card = self._report()
        self._place.clear()
        return card

    def _look(self) -> None:
        missing = [block for block in self._blocks if not self._place.rows(block.index).exists()]
        done = self._total - sum(block.span.count for block in missing)
        passed = dropped = 0

        def tell(row: CurationRow) -> None:
            nonlocal done, passed, dropped
            done, passed, dropped = done + 1, passed + (not row.stage), dropped + bool(row.stage)
            self._watch(Watched("looking", done, self._total, passed, dropped))

        look = _ENGINES[self._asked.engine]
        for index, rows in look(self._job, missing, self._asked.workers, tell):
            if len(rows) != self._blocks[index].span.count:
                raise OpenKontextError(f"block {index} has {len(rows)} outcomes: one a record is needed")
            write_rows(self._place.rows(index), rows)

    def _compare(self) -> None:
        comparison: Comparison | None = None
        done = 0
        for index, blocks in enumerate(self._groups()):
            path = self._place.decisions(index)
            passed = [
                (number, row) for block in blocks for number, row in self._numbered(block) if not row.stage
            ]
            if comparison is None:
                comparison = self._comparison()
            known = read_decisions(path) if path.exists() else None
            decisions = list(comparison.decide(passed)) if known is None else known
            stays = {each.number for each in decisions if not each.stage}
            kept = [each for each in passed if each[0] in stays]
            if known is None:
                write_decisions(path, decisions)
            else:
                comparison.replay(kept)
            for fields in {row.fields for _, row in kept}:
                if len(self._fields) <= kept_files.MAX_COLUMNS:
                    self._fields.update(filter(None, fields.split("\n")))
            done += sum(block.span.count for block in blocks)
            self._kept += len(kept)
            self._watch(Watched("comparing", done, self._total, self._kept, done - self._kept))
        if comparison is not None:
            comparison.close()

    def _comparison(self) -> Comparison:
        expected = 2 * self._total
        wanted = sample_size(expected)
        found: list[bytes] = []
        for block in self._blocks[:: max(1, expected // wanted)]:
            rows = read_rows(self._place.rows(block.index))
            found += [one for row in rows for one in (row.before_pdq, row.after_pdq) if one is not None]
            if len(found) >= wanted:
                break
        folder = self._place.work / "compared"
        return Comparison(self._asked.rules, folder, expected, stacked(found[:wanted]))

    def _write(self) -> None:
        fields = sorted(self._fields)
        if self._asked.kind == "parquet" and len(fields) > kept_files.MAX_COLUMNS:
            raise InputError(
                f"the records have more than {kept_files.MAX_COLUMNS} fields, too many for Parquet's "
                "columns; use --format jsonl or webdataset"
            )
        done = kept = 0
        for block, outcomes in self._outcomes():
            stays = {each.number for each in outcomes if each.kept}
            mark = self._place.written(block.index)
            if not mark.exists():
                rows = [each.row for each in outcomes]
                pairs = kept_files.kept_pairs(block.span, block.first, rows, stays)
                kept_files.write_block(
                    self._asked.out, self._asked.kind, block.index, list(pairs) if stays else [], fields
                )
                write_whole(mark, b"")
            done, kept = done + len(outcomes), kept + len(stays)
            self._watch(Watched("writing", done, self._total, kept, done - kept))

    def _report(self) -> dict[str, Any]:
        tally, chosen = Tally(), Chosen(self._kept)
        with whole(self._asked.out / kept_files.OUTCOMES) as lines:
            for block, outcomes in self._outcomes():
                for each in outcomes:
                    tally.take(each)
                    chosen.take(each, block)
                lines.write("".join(f"{_LINE(each.record())}\n" for each in outcomes).encode())
                self._watch(Watched("reporting", tally.records, self._total, tally.kept, tally.dropped))
        if tally.kept + tally.dropped != self._total:
            raise OpenKontextError(
                f"{tally.kept} kept and {tally.dropped} dropped are not the source's {self._total} records"
            )
        digest = kept_files.finish(self._asked.out, self._asked.kind)
        files = sum(1 for _ in kept_files.set_files(self._asked.out))
        card = data_card.record(
            name=self._asked.out.resolve().name,
            digest=digest,
            made=self._made,
            tally=tally,
            told={
                "source": self._asked.source.resolve().name,
                "output": {"format": self._asked.kind, "files": files},
                **self._versions,
            },
            rules=self._asked.rules,
        )
        page = data_card.render(card, *self._samples(chosen))
        write_whole(self._asked.out / data_card.HTML, page.encode("utf-8", "replace"))
        # Last: it says that all the others are there.
        content = json.dumps({**card, "mark": self._place.mark_digest(self._mark)}, indent=2)
        write_whole(self._asked.out / data_card.JSON, content.encode())
        return card

    def _samples(self, chosen: Chosen) -> tuple[list[data_card.Sample], list[data_card.Sample]]:
        worker = GuardedWorker(self._job)

        def shown(found: Iterable[tuple[FinalOutcome, RecordBlock]]) -> Iterator[data_card.Sample]:
            for each, block in found:
                pair = worker.shown(block.span, each.number - block.first, each.number)
                if pair is not None:
                    why = "" if each.kept else f"{each.stage}: {each.reason}"
                    yield data_card.Sample(each.number, each.row.name, pair, why)

        try:
            return list(shown(chosen.kept)), list(shown(chosen.dropped()))
        finally:
            worker.close()

    def _outcomes(self) -> Iterator[tuple[RecordBlock, list[FinalOutcome]]]:
        """Every block with its outcomes, one a record."""
        for index, blocks in enumerate(self._groups()):
            decisions: dict[int, PairDecision] = {
                each.number: each for each in read_decisions(self._place.decisions(index))
            }
            for block in blocks:
                yield (
                    block,
                    [
                        FinalOutcome.of_row(number, row, decisions.get(number))
                        for number, row in self._numbered(block)
                    ],
                )

    def _groups(self) -> Iterator[list[RecordBlock]]:
        """Blocks that are decided on together."""
        size = max(1, _GROUP // self._asked.block)
        for begin in range(0, len(self._blocks), size):
            yield self._blocks[begin : begin + size]

    def _numbered(self, block: RecordBlock) -> list[tuple[int, CurationRow]]:
        return list(enumerate(read_rows(self._place.rows(block.index)), block.first))


def _now() -> datetime:
    given = os.environ.get(_SOURCE_DATE, "")
    return datetime.fromtimestamp(int(given), UTC) if given.isdigit() else datetime.now(UTC)
