"""What `openkontext curate` finds, how fast it is, and what a million records take.

    python benchmarks/curation.py faults  [--clean 5000] [--faults 200] [--folder DIR] [--workers 1]
    python benchmarks/curation.py juicer  --python VENV/bin/python [--records 2000] [--rounds 3]
    python benchmarks/curation.py million [--records 1000000] [--folder DIR]
    python benchmarks/curation.py near    [--hashes 2000000]

`faults` draws clean pairs, plants faults of every kind among them and prints, for each kind, how many the
stage that it is for has found; then how many clean pairs were dropped. A call that was ended goes on.
`juicer` runs the operators that py-data-juicer has, too, on the same records in turns, and prints both rates
and their ratio. Its Python needs `py-data-juicer` and `imagededup`, with their torch and torchvision, in an
environment of its own; where they lack, py-data-juicer downloads them while it runs.
`million` puts records without pictures through all the bookkeeping: blocks, comparison, outcomes, card.
A call that was ended goes on.
`near` searches among random hashes for changed copies, and prints how many of them are found.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path

import openkontext


def main() -> None:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    faults = parts.add_parser("faults")
    faults.add_argument("--clean", type=int, default=5000)
    faults.add_argument("--faults", type=int, default=200)
    faults.add_argument("--folder", type=Path)
    faults.add_argument("--workers", type=int, default=1)
    juicer = parts.add_parser("juicer")
    juicer.add_argument("--python", required=True)
    juicer.add_argument("--records", type=int, default=2000)
    juicer.add_argument("--rounds", type=int, default=3)
    million = parts.add_parser("million")
    million.add_argument("--records", type=int, default=1_000_000)
    million.add_argument("--folder", type=Path)
    near = parts.add_parser("near")
    near.add_argument("--hashes", type=int, default=2_000_000)
    arguments = parser.parse_args()
    print(f"openkontext {openkontext.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        folder = getattr(arguments, "folder", None) or Path(temporary)
        if arguments.part == "faults":
            sys.exit(find_faults(folder, arguments.clean, arguments.faults, arguments.workers))
        import curation_juicer
        import curation_speed

        if arguments.part == "juicer":
            curation_juicer.juicer(arguments.python, arguments.records, arguments.rounds)
        elif arguments.part == "near":
            curation_speed.near(arguments.hashes)
        else:
            curation_speed.million(folder, arguments.records)


def find_faults(folder: Path, clean: int, faults: int, workers: int) -> int:
    """Plant faults, curate, and print what was found; returns 1 where a bound is missed."""
    os.environ["OPENKONTEXT_DATA"] = str(folder / "data")  # lists and quarantine of this run alone
    import planted_pairs

    from openkontext.curation import curate

    source, out = folder / "source", folder / "out"
    if not (source / "rules.toml").exists():
        planted_pairs.plant(source, clean, faults)
    shown = 0

    def watch(seen) -> None:  # type: ignore[no-untyped-def]
        nonlocal shown
        if seen.done - shown >= 250 or seen.done < shown:
            shown = seen.done
            print(f"{seen.phase} {seen.done}/{seen.total}", file=sys.stderr, flush=True)

    card = curate(source / "pairs.jsonl", out, source / "rules.toml", workers=workers, watch=watch)
    kinds = json.loads((source / "planted.json").read_text())
    outcomes = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    planted, found, elsewhere = Counter(filter(None, kinds)), Counter[str](), Counter[str]()
    lost: Counter[str] = Counter()
    for kind, outcome in zip(kinds, outcomes, strict=True):
        stage = outcome.get("stage")
        if not kind:
            lost[f"{stage}: {outcome.get('reason')}"] += stage is not None
        elif stage == planted_pairs.expected(kind):
            found[kind] += 1
        elif stage is not None:
            elsewhere[kind] += 1
    print(f"\n{'planted fault':36} {'stage':18} planted  found  by another stage")
    for kind in planted_pairs.KINDS_OF_FAULTS:
        stage = planted_pairs.expected(kind)
        print(f"{kind:36} {stage:18} {planted[kind]:7}  {found[kind]:5}  {elsewhere[kind]:5}")
    total, all_found = planted.total(), found.total() + elsewhere.total()
    dropped = lost.total()
    print(f"{'all':36} {'':18} {total:7}  {found.total():5}  {elsewhere.total():5}")
    print(f"clean pairs dropped: {dropped} of {clean}, {dropped / clean:.2%}")
    for reason, count in lost.most_common():
        if count:
            print(f"  {count:5} {reason}")
    print(f"records {card['records']} = kept {card['kept']} + dropped {card['dropped']}")
    return int(all_found < total or dropped > 0.005 * clean)


if __name__ == "__main__":
    main()
