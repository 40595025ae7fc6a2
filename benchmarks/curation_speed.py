"""The two parts of `curation.py` that measure speed: bookkeeping alone, and py-data-juicer beside it."""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import planted_pairs
from PIL import Image

from openkontext.curation import CurationRules, curate, runner
from openkontext.curation.curation_rules import DuplicateRules, InstructionRules, PictureRules
from openkontext.curation.local_engine import RecordBlock
from openkontext.curation.looking import CurationJob
from openkontext.curation.opened import contents, digest, same_words
from openkontext.curation.outcomes import CurationRow
from openkontext.safety.guard import Guard
from openkontext.safety.policy import load_policy
from openkontext.train.records import PairRecord, read_span

_REPEATED = 100
"""One record in so many repeats an earlier one."""
_ROUNDS = 3


def million(folder: Path, records: int) -> None:
    """Put records without pictures through all bookkeeping, and print time and peak memory.

    Their hashes are random: what looks at pictures is left out, and all else is done.
    """
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "x").write_bytes(b"x")
    with (source / "pairs.jsonl").open("w") as table:
        for at in range(records):
            table.write(json.dumps({"before": "x", "after": "x", "instruction": f"make it {at}"}) + "\n")
    runner._ENGINES["bookkeeping"] = _bookkeeping
    begun = time.perf_counter()
    phases: dict[str, float] = {}

    def watch(seen: runner.Watched) -> None:
        if seen.phase not in phases:
            print(seen.phase, file=sys.stderr, flush=True)
        phases[seen.phase] = time.perf_counter() - begun

    rules = CurationRules(duplicates=DuplicateRules(same_instruction=False))
    card = curate(
        source,
        folder / "out",
        rules,
        watch=watch,
        engine="bookkeeping",
        kind="parquet",
        block=1024,
        guard=plain_guard,
    )
    took = time.perf_counter() - begun
    ended = 0.0
    for phase, end in phases.items():
        print(f"{phase:10} {end - ended:8.1f} s")
        ended = end
    print(f"{'reporting':10} {took - ended:8.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{card['records']} records, {card['kept']} kept: {took:.0f} s, peak memory {peak:.0f} MiB")


def _bookkeeping(
    job: CurationJob, blocks: Iterable[RecordBlock], workers: int, tell: Callable[[CurationRow], None]
) -> Iterator[tuple[int, list[CurationRow]]]:
    for block in blocks:
        rows = []
        for number, record in enumerate(read_span(block.span), block.first):
            assert isinstance(record, PairRecord)
            # Of a repeated record the hashes are those of an earlier one, with 8 bits changed.
            repeats = number % _REPEATED == _REPEATED - 1 and number > 10_000
            of = number - 9_000 if repeats else number
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


def plain_guard(_: CurationRules) -> Guard:
    """No check: what it costs to look is not measured here."""
    return Guard(load_policy("default"), [])


def juicer(python: str, records: int) -> None:
    """Run the operators that py-data-juicer has, too, by both, in turns; print rates and their ratio.

    Both filter by size, aspect ratio and length of the text, and drop pictures that are the same.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for at in range(records):
            pixels = planted_pairs.draw(1, at).after
            Image.fromarray(pixels).save(folder / f"{at}.png")
        instruction = "make it night, please"
        ours = [{"after": f"{at}.png", "instruction": f"{instruction} {at}"} for at in range(records)]
        theirs = [
            {"text": f"{instruction} {at} <__dj__image>", "images": [str(folder / f"{at}.png")]}
            for at in range(records)
        ]
        for name, lines in (("pairs.jsonl", ours), ("theirs.jsonl", theirs)):
            (folder / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
        for workers in (1, 2):
            rates = {"openkontext": list[float](), "py-data-juicer": list[float]()}
            for turn in range(_ROUNDS):
                rates["openkontext"].append(records / _ours(folder, workers, turn))
                rates["py-data-juicer"].append(records / _theirs(folder, python, workers, turn))
            middle = {name: statistics.median(found) for name, found in rates.items()}
            ratio = middle["openkontext"] / middle["py-data-juicer"]
            said = ", ".join(f"{name} {rate:.0f} records/s" for name, rate in middle.items())
            print(f"{workers} worker(s), {records} records, median of {_ROUNDS}: {said}; ratio {ratio:.2f}")


def _ours(folder: Path, workers: int, turn: int) -> float:
    rules = CurationRules(
        picture=PictureRules(min_side=64, max_aspect=3),
        instruction=InstructionRules(min_characters=3, max_characters=400, clean=False),
        duplicates=DuplicateRules(exact="picture", near="off"),
    )
    begun = time.perf_counter()
    out = folder / f"out-{workers}-{turn}"
    card = curate(folder / "pairs.jsonl", out, rules, workers=workers, guard=plain_guard, kind="webdataset")
    print(f"  openkontext kept {card['kept']}", file=sys.stderr)
    return time.perf_counter() - begun


def _theirs(folder: Path, python: str, workers: int, turn: int) -> float:
    recipe = {
        "dataset_path": str(folder / "theirs.jsonl"),
        "export_path": str(folder / f"theirs-{workers}-{turn}" / "out.jsonl"),
        "np": workers,
        "use_cache": False,
        "image_key": "images",
        "process": [
            {"image_shape_filter": {"min_width": 64, "min_height": 64}},
            {"image_aspect_ratio_filter": {"min_ratio": 1 / 3, "max_ratio": 3}},
            {"text_length_filter": {"min_len": 3, "max_len": 400}},
            {"image_deduplicator": {"method": "phash"}},
        ],
    }
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe))
    begun = time.perf_counter()
    run = [str(Path(python).with_name("dj-process")), "--config", str(file)]
    done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"dj-process failed:\n{done.stderr[-2000:]}")
    kept = sum(1 for _ in (folder / f"theirs-{workers}-{turn}" / "out.jsonl").open())
    print(f"  py-data-juicer kept {kept}", file=sys.stderr)
    return took
