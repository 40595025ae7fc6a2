"""Make nano's dossier, which `openkontext release nano --dossier dossiers/nano` asks for.

    python scripts/nano_dossier.py [--parts data,evaluation,red-team] [--pairs 400] [--work DIR]

data: draws pairs as nano's training did, has `openkontext curate` filter them, and keeps the data card.
evaluation: `openkontext evaluate edits` in every precision; half an hour on two cores.
red-team: `openkontext redteam` by recipes/redteam/nano-plan.toml; ten minutes. With --work it goes on with
what is in that folder.
Without --parts it makes all of them. What is done already is made anew.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from openkontext.data.families import family
from openkontext.data.instructions import phrase
from openkontext.data.scenes import render
from openkontext.files import write_whole
from openkontext.repository import Repository

ROOT = Path(__file__).parents[1]
DOSSIER = ROOT / "dossiers" / "nano"
PARTS = ("data", "evaluation", "red-team")


def draw(folder: Path, count: int) -> Path:
    """Pairs as the stage `latents` of nano's training draws them, one of each scene; returns their table."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        edits = family(rng)
        edit = edits[int(rng.integers(len(edits)))]
        names = {role: f"{number:04d}-{role}.png" for role in ("before", "after")}
        Image.fromarray(render(edit.before)).save(folder / names["before"])
        Image.fromarray(render(edit.after)).save(folder / names["after"])
        said = {"instruction": phrase(edit, rng), "license": "Apache-2.0", "group": edit.kind}
        lines.append(json.dumps({**names, **said}))
    table = folder / "pairs.jsonl"
    table.write_text("\n".join(lines) + "\n")
    return table


def run(*words: object) -> bytes:
    """What a command of openkontext prints; 5, a missed threshold, is an answer too."""
    command = [sys.executable, "-m", "openkontext", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT)  # reports name files as they are given
    if done.returncode not in (0, 5):
        sys.exit(f"{' '.join(command[2:])}: ended with {done.returncode}")
    return done.stdout


def data(count: int) -> None:
    """The data card, and the digest of what it describes in release.toml."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "nano-drawn")
        source.mkdir()
        out = Path(place, "nano-drawn-pairs")
        run("curate", draw(source, count), out, "--rules", "pre-training")
        for suffix in ("json", "html"):
            shutil.copyfile(out / f"report.{suffix}", DOSSIER / f"data-card.{suffix}")
    card = json.loads((DOSSIER / "data-card.json").read_text())
    (digest,) = (subject["digest"] for subject in card["subjects"])
    settings = f"""# A sample of the drawing that nano learned from; its own pairs were not kept.
trained_on = ["{digest}"]
quantized_from = {{fp8 = "bf16", fp4 = "bf16"}}
"""
    write_whole(DOSSIER / "release.toml", settings.encode())


def evaluation() -> None:
    """How well each precision edits."""
    for precision in Repository.open("nano").precisions:
        report = run("evaluate", "edits", "--precision", precision, "--json")
        write_whole(DOSSIER / f"evaluation-{precision}.json", report)


def red_team(work: Path | None) -> None:
    """What attacks reach."""
    recipes = Path("recipes", "redteam")
    bounds = ("--thresholds", recipes / "nano-thresholds.toml")
    with tempfile.TemporaryDirectory() as place:
        work = work or Path(place)
        run("redteam", "nano", "--plan", recipes / "nano-plan.toml", *bounds, "--work", work.resolve())
        for suffix in ("json", "html"):
            shutil.copyfile(work / f"report.{suffix}", DOSSIER / f"red-team.{suffix}")


def main() -> None:
    """Makes the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--work", type=Path, help="folder of the red team's run")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"there is no part {sorted(unknown)[0]}; choose of {', '.join(PARTS)}")
    if "data" in parts:
        data(options.pairs)
    if "evaluation" in parts:
        evaluation()
    if "red-team" in parts:
        red_team(options.work)
    print(f"openkontext release nano --dossier {DOSSIER.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
