"""The part of `curation.py` that runs py-data-juicer beside `openkontext curate`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import planted_pairs
from curation_speed import plain_guard
from PIL import Image

from openkontext.curation import CurationRules, curate
from openkontext.curation.curation_rules import DuplicateRules, InstructionRules, PictureRules

OURS, THEIRS = "openkontext", "py-data-juicer"
_FEW = 10
"""One record in so many is in the small set, which costs little but starting."""
_JUICER = """
from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor
if __name__ == "__main__":
    DefaultExecutor(init_configs()).run()
"""


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds."""

    clock: float
    processor: float
    """Of all its processes."""


def juicer(python: str, records: int, rounds: int) -> None:
    """Run the operators that py-data-juicer has, too, by both, in turns; print rates and their ratio.

    Both filter by size, aspect ratio and length of the text, and drop pictures that look the same. Each runs
    on all records and on a tenth of them: what one record more costs is told apart from starting.
    """
    few = max(2, records // _FEW)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for count in (few, records):
            _write(folder / str(count), count)
        for workers in (1, 2):
            costs: dict[tuple[str, int], list[Cost]] = {}
            for turn in range(rounds):
                for count in (few, records):
                    for name, command in ((OURS, _ours), (THEIRS, _theirs)):
                        run = command(folder / str(count), f"{workers}-{turn}", workers, python)
                        costs.setdefault((name, count), []).append(_run(run, folder))
            _say(costs, few, records, f"{workers} worker(s), {records} records, median of {rounds}")


def _say(costs: dict[tuple[str, int], list[Cost]], few: int, records: int, about: str) -> None:
    rates, more = {}, {}
    for name in (OURS, THEIRS):
        clock = statistics.median(each.clock for each in costs[name, records])
        small, all_of_them = (
            statistics.median(each.processor for each in costs[name, count]) for count in (few, records)
        )
        rates[name], more[name] = records / clock, (all_of_them - small) / (records - few)
        start = small - few * more[name]
        print(
            f"  {name:14} {rates[name]:6.1f} records/s with starting; processor time: "
            f"{1000 * more[name]:.1f} ms a record, {start:.1f} s to start"
        )
    print(
        f"{about}: {rates[OURS] / rates[THEIRS]:.2f} times the records/s; "
        f"{more[THEIRS] / more[OURS]:.2f} times by processor time without starting",
        flush=True,
    )


def _write(folder: Path, records: int) -> None:
    folder.mkdir()
    ours, theirs = [], []
    for at in range(records):
        name, words = f"{at}.png", f"make it night, please {at}"
        Image.fromarray(planted_pairs.draw(1, at).after).save(folder / name)
        ours.append({"after": name, "instruction": words})
        theirs.append({"text": f"{words} <__dj__image>", "images": [str(folder / name)]})
    for table, lines in (("pairs.jsonl", ours), ("theirs.jsonl", theirs)):
        (folder / table).write_text("".join(json.dumps(each) + "\n" for each in lines))


def _run(command: list[str], folder: Path) -> Cost:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "hf")}
    offline["DATA_JUICER_CACHE_HOME"] = str(folder / "dj")
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline)
    after = os.times()
    clock = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"  {clock:.1f} s, {used:.1f} s of processor time: {command[-1]}", file=sys.stderr, flush=True)
    return Cost(clock, used)


def _ours(folder: Path, turn: str, workers: int, _: str) -> list[str]:
    return [sys.executable, __file__, str(folder / "pairs.jsonl"), str(workers), str(folder / f"out-{turn}")]


def _theirs(folder: Path, turn: str, workers: int, python: str) -> list[str]:
    recipe = {
        "dataset_path": str(folder / "theirs.jsonl"),
        "export_path": str(folder / f"theirs-{turn}" / "out.jsonl"),
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
    program, file = folder / "juicer.py", folder / f"{turn}.json"
    program.write_text(_JUICER)
    file.write_text(json.dumps(recipe))
    return [python, str(program), "--config", str(file)]


def main() -> None:
    """Curate a table by the same operators: TABLE WORKERS OUT."""
    table, workers, out = sys.argv[1:]
    rules = CurationRules(
        picture=PictureRules(min_side=64, max_aspect=3),
        instruction=InstructionRules(min_characters=3, max_characters=400, clean=False),
        duplicates=DuplicateRules(exact="picture", near="picture"),
    )
    card = curate(table, out, rules, workers=int(workers), guard=plain_guard, kind="webdataset", block=32)
    print(card["kept"], "kept")


if __name__ == "__main__":
    main()
