"""The parts of `curation.py` that look at nothing: bookkeeping alone, and the search for near duplicates."""

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from openkontext.curation import CurationRules, curate, runner
from openkontext.curation.curation_rules import DuplicateRules
from openkontext.curation.local_engine import RecordBlock
from openkontext.curation.looking import CurationJob
from openkontext.curation.near_index import NearIndex, list_count, sample_size
from openkontext.curation.opened import contents, digest, same_words
from openkontext.curation.outcomes import CurationRow
from openkontext.files import whole, write_whole
from openkontext.safety.guard import Guard
from openkontext.safety.known.pdq import BITS, BYTES, MATCH_DISTANCE
from openkontext.safety.policy import load_policy
from openkontext.train.records import PairRecord, read_span

_REPEATED = 100
"""One record in so many repeats an earlier one."""
_COPIES = 1000


def million(folder: Path, records: int) -> None:
    """Put records without pictures through all bookkeeping, and print time and peak memory.

    Their hashes are random: what looks at pictures is left out, and all else is done. A call that was ended
    goes on where it was, and prints what this call took.
    """
    table = folder / "source" / "pairs.jsonl"
    if not table.exists():
        write_whole(table.with_name("x"), b"x")
        with whole(table) as file:
            for at in range(records):
                said = {"before": "x", "after": "x", "instruction": f"make it {at}"}
                file.write(f"{json.dumps(said)}\n".encode())
    runner._ENGINES["bookkeeping"] = _bookkeeping
    begun, worked = time.perf_counter(), _processor_time()
    ends: dict[str, tuple[float, float]] = {}

    def watch(seen: runner.Watched) -> None:
        if seen.phase not in ends or seen.done % 100_000 < 1024:
            print(f"{seen.phase} {seen.done}/{seen.total}", file=sys.stderr, flush=True)
        ends[seen.phase] = time.perf_counter(), _processor_time()

    card = curate(
        table.parent,
        folder / "out",
        CurationRules(duplicates=DuplicateRules(same_instruction=False)),
        watch=watch,
        engine="bookkeeping",
        kind="parquet",
        block=1024,
        guard=plain_guard,
    )
    ends["reporting"] = time.perf_counter(), _processor_time()
    last = begun, worked
    for phase, end in ends.items():
        print(f"{phase:10} {end[0] - last[0]:8.1f} s, {end[1] - last[1]:8.1f} s of processor time")
        last = end
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = last[1] - worked
    planted = sum(map(_repeats, range(records)))
    print(f"{planted} planted repeats, {card['dropped']} found")
    print(
        f"{card['records']} records, {card['kept']} kept: {last[0] - begun:.0f} s, {used:.0f} s of processor "
        f"time ({card['records'] / used:.0f} records a second of it), peak memory {peak:.0f} MiB"
    )


def _processor_time() -> float:
    """Seconds that this process and those that it started and ended have used."""
    return sum(os.times()[:4])


def _bookkeeping(
    job: CurationJob, blocks: Iterable[RecordBlock], workers: int, tell: Callable[[CurationRow], None]
) -> Iterator[tuple[int, list[CurationRow]]]:
    for block in blocks:
        rows = []
        for number, record in enumerate(read_span(block.span), block.first):
            assert isinstance(record, PairRecord)
            # Of a repeated record the hashes are those of one that repeats none, with 8 bits changed.
            repeats = _repeats(number)
            of = number - 9_001 if repeats else number
            seeds = [hashlib.sha256(f"{of} {role}".encode()).digest() for role in "ba"]
            near = [bytes([seed[0] ^ 255, *seed[1:]]) if repeats else seed for seed in seeds]
            exact = [hashlib.sha256(f"{number} {role}".encode()).digest() for role in "ba"]
            whole = digest(record, contents(record))
            words = same_words(record.instruction)
            row = CurationRow(
                name=record.name,
                digest=whole,
                words=words,
                before=exact[0],
                after=exact[1],
                before_pdq=near[0],
                after_pdq=near[1],
                width=512,
                height=512,
                size=2,
            )
            rows.append(row)
            tell(row)
        yield block.index, rows


def _repeats(number: int) -> bool:
    return number % _REPEATED == _REPEATED - 1 and number > 10_000


def near(hashes: int) -> None:
    """Search among random hashes for changed copies of some, and print how many are found by bits changed."""
    rng = np.random.default_rng(1)
    held = rng.integers(0, 256, (hashes, BYTES), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        index = NearIndex(Path(folder), hashes, held[: sample_size(hashes)], MATCH_DISTANCE)
        for begin in range(0, hashes, 1024):
            index.add(held[begin : begin + 1024], np.arange(begin, min(begin + 1024, hashes)))
        print(f"{hashes} hashes in {list_count(hashes)} lists; of {_COPIES} changed copies it finds")
        for bits in (0, 8, 16, 24, 31):
            numbers = rng.choice(hashes, _COPIES, replace=False)
            changed = np.unpackbits(held[numbers], axis=1)
            for each in changed:
                each[rng.choice(BITS, bits, replace=False)] ^= 1
            begun = _processor_time()
            found = index.near(np.packbits(changed, axis=1))
            each = 1000 * (_processor_time() - begun) / _COPIES
            hits = sum(number in owners for number, owners in zip(numbers, found, strict=True))
            print(f"{bits:3} bits {hits / _COPIES:7.1%}, {each:.2f} ms of processor time each", flush=True)


def plain_guard(_: CurationRules) -> Guard:
    """No check: what it costs to look is not measured here."""
    return Guard(load_policy("default"), [])
