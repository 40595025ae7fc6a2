"""Small sets of pairs for curation, and what lies in a folder, byte for byte."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = [
    "make it night",
    "remove the tree",
    "add a red kite",
    "turn the house blue",
    "make it winter",
    "erase the small boat",
    "move the car to the left",
    "draw it as a comic",
]


def scene(seed: int, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    """A picture of its own for each seed, uint8 [H, W, 3], sharp and with a good PDQ hash."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))


def write_pairs(folder: Path, count: int, **changed: dict[str, Any]) -> Path:
    """A table of pairs; `changed` gives fields of some: `at3={"instruction": "go"}`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for at in range(count):
        for role, seed in (("before", 2 * at), ("after", 2 * at + 1)):
            Image.fromarray(scene(seed)).save(folder / f"{at}-{role}.png")
        said = {
            "before": f"{at}-before.png",
            "after": f"{at}-after.png",
            "instruction": f"{WORDS[at % len(WORDS)]} please, {at} times",
            "license": "CC0-1.0",
        }
        lines.append(json.dumps(said | changed.get(f"at{at}", {})))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def outcomes(out: Path) -> list[tuple[str, str]]:
    """Stage and reason of each record; ("kept", "") where it is kept."""
    lines = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    return [(line.get("stage", "kept"), line.get("reason", "")) for line in lines]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
