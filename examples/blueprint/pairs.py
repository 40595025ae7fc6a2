"""Draws pairs in a style of one's own: scenes, and the same scenes as blueprints.

python examples/blueprint/pairs.py out/blueprint [COUNT]
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from openkontext.data.sampler import random_scene
from openkontext.data.scenes import render

INSTRUCTIONS = ("draw it as a blueprint", "make it a blueprint", "turn it into a blueprint")
PAPER, LINE = np.array([24, 58, 122]), np.array([228, 238, 255])


def blueprint(picture: np.ndarray) -> np.ndarray:
    """White outlines on blue paper, strongest where the picture's colours change most."""
    colours = picture.astype(np.float32)
    across, down = np.gradient(colours, axis=1), np.gradient(colours, axis=0)
    strength = np.sqrt((across**2 + down**2).sum(axis=2)) / 110
    share = np.clip(strength, 0, 1)[..., None] ** 0.8
    return np.rint(PAPER + share * (LINE - PAPER)).astype(np.uint8)


def scenes(count: int, seed: int) -> list[np.ndarray]:
    """Pictures of square scenes."""
    rng = np.random.default_rng(seed)
    return [render(random_scene(rng, (128, 128))) for _ in range(count)]


def main(folder: Path, count: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, picture in enumerate(scenes(count, seed=1)):
        before, after = f"{i:02d}-before.png", f"{i:02d}-after.png"
        Image.fromarray(picture).save(folder / before)
        Image.fromarray(blueprint(picture)).save(folder / after)
        said = INSTRUCTIONS[i % len(INSTRUCTIONS)]
        lines.append(json.dumps({"before": before, "after": after, "instruction": said}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {count} pairs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
