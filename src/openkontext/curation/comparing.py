"""Stages that compare records: exact duplicates, near duplicates, balance. The first of several stays.

They go through the rows of all blocks in their order. What they remember lies on the disk: digests and counts
in SQLite, hashes in `near_index`. Decisions are written down after every batch; a run that goes on takes up
what they say, and compares nothing twice.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openkontext.curation.curation_rules import CurationRules
from openkontext.curation.near_index import NearIndex, pairs_within
from openkontext.curation.outcomes import CurationRow, PairDecision
from openkontext.safety.known.pdq import BYTES, distance

EXACT, NEAR, BALANCE = "exact duplicates", "near duplicates", "balance"
VERSIONS = {EXACT: "1", NEAR: "1", BALANCE: "1"}
"""Names of these stages, in their order, and their versions."""
_BATCH = 512
"""Records that are looked up at once."""

Numbered = tuple[int, CurationRow]


class Memory:
    """What was kept so far: digests, counts of groups, and the rows that look alike."""

    def __init__(self, folder: Path) -> None:
        """Begin with nothing.

        Args:
            folder: of its file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "memory.sqlite"
        path.unlink(missing_ok=True)
        self._base = sqlite3.connect(path, isolation_level=None)
        # It is made anew from the decisions, so that nothing need be safe in it.
        self._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536; BEGIN;"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;"
            "CREATE TABLE groups (name TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID;"
            "CREATE TABLE hashes (number INTEGER PRIMARY KEY, words BLOB, before BLOB, after BLOB);"
        )

    def seen(self, key: bytes) -> int | None:
        """The record that a digest was kept with."""
        found = self._base.execute("SELECT number FROM seen WHERE key = ?", (key,)).fetchone()
        return None if found is None else int(found[0])

    def count(self, group: str) -> int:
        """Records of a group that were kept."""
        found = self._base.execute("SELECT count FROM groups WHERE name = ?", (group,)).fetchone()
        return 0 if found is None else int(found[0])

    def hashes(self, number: int) -> tuple[bytes, bytes | None, bytes | None]:
        """Words and perceptual hashes of a record that was kept."""
        query = "SELECT words, before, after FROM hashes WHERE number = ?"
        words, before, after = self._base.execute(query, (number,)).fetchone()
        return words, before, after

    def keep(self, number: int, row: CurationRow, keys: Sequence[bytes], grouped: bool, near: bool) -> None:
        """Remember a record."""
        for key in keys:
            self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, number))
        if grouped:
            self._base.execute(
                "INSERT INTO groups VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1",
                (row.group,),
            )
        if near:
            kept = (number, row.words, row.before_pdq, row.after_pdq)
            self._base.execute("INSERT INTO hashes VALUES (?, ?, ?, ?)", kept)

    def close(self) -> None:
        """Close its file."""
        self._base.close()


class Comparison:
    """Compares records with those before them, by some rules."""

    def __init__(self, rules: CurationRules, folder: Path, expected: int, sample: NDArray[np.uint8]) -> None:
        """Begin with nothing.

        Args:
            rules: of the run.
            folder: of what is remembered.
            expected: hashes that will come, about.
            sample: of these hashes, see `near_index.sample_size`.
        """
        self._duplicates, self._balance = rules.duplicates, rules.balance
        self._memory = Memory(folder)
        self._index = NearIndex(folder, expected, sample, self._duplicates.distance)

    def decide(self, records: Sequence[Numbered]) -> Iterator[PairDecision]:
        """Decide on records that all stages before have passed, in their order."""
        for begin in range(0, len(records), _BATCH):
            batch = records[begin : begin + _BATCH]
            fresh: dict[int, CurationRow] = {}
            for (number, row), candidates in zip(batch, self._alike(batch), strict=True):
                decision = self._decision(number, row, candidates, fresh, batch[0][0])
                if not decision.stage:
                    self._remember(number, row)
                    fresh[number] = row
                yield decision
            self._put(fresh)

    def replay(self, records: Sequence[Numbered]) -> None:
        """Take up records that were kept before."""
        for number, row in records:
            self._remember(number, row)
        self._put(dict(records))

    def close(self) -> None:
        """Close what it remembers."""
        self._memory.close()

    def _decision(
        self,
        number: int,
        row: CurationRow,
        candidates: Sequence[int],
        fresh: dict[int, CurationRow],
        begin: int,
    ) -> PairDecision:
        """What is said of a record, where `fresh` were kept of its batch, which begins at `begin`."""
        for key in self._keys(row):
            if (first := self._memory.seen(key)) is not None:
                return PairDecision(number, EXACT, "the same again", first)
        if self._duplicates.near != "off":
            for first in candidates:
                kept = fresh.get(first)
                if kept is not None:
                    said = kept.words, kept.before_pdq, kept.after_pdq
                elif first >= begin:  # of this batch, and dropped
                    continue
                else:
                    said = self._memory.hashes(first)
                if self._same(row, *said):
                    return PairDecision(number, NEAR, "looks alike", first)
        if self._balance.field and self._memory.count(row.group) >= self._balance.most:
            return PairDecision(number, BALANCE, f"more than {self._balance.most} of its group")
        return PairDecision(number)

    def _keys(self, row: CurationRow) -> list[bytes]:
        pictures = [each for each in (row.before, row.after) if each is not None]
        if self._duplicates.exact == "off":
            return []
        if self._duplicates.exact == "picture":
            return sorted(set(pictures))
        words = row.words if self._duplicates.same_instruction else b""
        return [hashlib.sha256(b"".join([words, *sorted(pictures)])).digest()]

    def _alike(self, batch: Sequence[Numbered]) -> list[list[int]]:
        """Records before each of a batch, in it too, of which a picture looks like one of its own."""
        if self._duplicates.near == "off":
            return [[] for _ in batch]
        both = self._duplicates.near == "picture"
        asked = [
            (at, hashed)
            for at, (_, row) in enumerate(batch)
            for hashed in ((row.before_pdq, row.after_pdq) if both else (row.after_pdq,))
            if hashed is not None
        ]
        found: list[set[int]] = [set() for _ in batch]
        hashes = stacked([hashed for _, hashed in asked])
        for (at, _), owners in zip(asked, self._index.near(hashes), strict=True):
            found[at].update(owners.tolist())
        held = _hashes(batch)
        within = stacked([hashed for _, hashed in held])
        for (at, _), others in zip(
            asked, pairs_within(hashes, within, self._duplicates.distance), strict=True
        ):
            numbers = (held[other][0] for other in others.tolist())
            found[at].update(number for number in numbers if number < batch[at][0])
        return [sorted(each) for each in found]

    def _same(self, row: CurationRow, words: bytes, before: bytes | None, after: bytes | None) -> bool:
        """Whether a row says the same as a record that was kept."""
        mine, theirs = (row.before_pdq, row.after_pdq), (before, after)
        if self._duplicates.near == "picture":
            return any(self._close(one, other) for one in mine for other in theirs)
        if self._duplicates.same_instruction and words != row.words:
            return False
        if row.before is None:
            return before is None and self._close(row.after_pdq, after)
        straight = all(map(self._close, mine, theirs))
        return straight or all(map(self._close, mine, reversed(theirs)))

    def _close(self, one: bytes | None, other: bytes | None) -> bool:
        return one is not None and other is not None and distance(one, other) <= self._duplicates.distance

    def _remember(self, number: int, row: CurationRow) -> None:
        near, grouped = self._duplicates.near != "off", bool(self._balance.field)
        self._memory.keep(number, row, self._keys(row), grouped, near)

    def _put(self, rows: dict[int, CurationRow]) -> None:
        if self._duplicates.near == "off":
            return
        hashed = _hashes(list(rows.items()))
        owners = np.array([number for number, _ in hashed], np.int64)
        self._index.add(stacked([each for _, each in hashed]), owners)


def _hashes(records: Sequence[Numbered]) -> list[tuple[int, bytes]]:
    return [
        (number, each)
        for number, row in records
        for each in (row.before_pdq, row.after_pdq)
        if each is not None
    ]


def stacked(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    """Hashes as uint8 [N, 32]."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, BYTES)
