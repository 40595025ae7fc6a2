"""Draws pairs in a style of one's own: scenes, and the same scenes in neon.

python examples/neon/pairs.py out/neon [COUNT]
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from openkontext.data.sampler import random_scene
from openkontext.data.scenes import render

INSTRUCTIONS = ("draw it in neon", "make it neon", "turn it into a neon sign")
NIGHT = np.array([16, 12, 34])


def neon(picture: np.ndarray) -> np.ndarray:
    """Glowing outlines in the things' own colours, made pure, on a dark wall."""
    colours = np.asarray(Image.fromarray(picture).filter(ImageFilter.MaxFilter(3))).astype(np.float32)
    pure = colours - 0.75 * colours.min(axis=2, keepdims=True)
    pure *= 255 / np.maximum(pure.max(axis=2, keepdims=True), 1)
    steps = picture.astype(np.float32)
    across, down = np.gradient(steps, axis=1), np.gradient(steps, axis=0)
    tube = np.clip(np.sqrt((across**2 + down**2).sum(axis=2)) / 90, 0, 1)
    halo = np.asarray(Image.fromarray(np.uint8(255 * tube)).filter(ImageFilter.GaussianBlur(2)), np.float32)
    light = np.clip(tube + 0.6 * halo / 255, 0, 1)[..., None]
    return np.rint(NIGHT + light * (pure - NIGHT)).astype(np.uint8)


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
        Image.fromarray(neon(picture)).save(folder / after)
        said = INSTRUCTIONS[i % len(INSTRUCTIONS)]
        lines.append(json.dumps({"before": before, "after": after, "instruction": said}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {count} pairs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
