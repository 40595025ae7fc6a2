"""Draws pairs in a style of one's own: scenes, and the same scenes as posters printed in four inks.

python examples/poster/pairs.py out/poster [COUNT]
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from openkontext.data.sampler import random_scene
from openkontext.data.scenes import render

INSTRUCTIONS = ("make it a poster", "print it as a poster", "turn it into a poster")
INKS = np.array([[30, 28, 92], [214, 36, 98], [250, 150, 50], [255, 240, 200]], np.uint8)
"""From the shadows to the lights."""
BOUNDS = (88, 138, 190)
"""Lightness, in 0..255, at which one ink gives way to the next."""


def poster(picture: np.ndarray) -> np.ndarray:
    """Flat areas in four inks, by lightness."""
    gray = Image.fromarray(picture).convert("L").filter(ImageFilter.MedianFilter(3))
    return INKS[np.digitize(np.asarray(gray), BOUNDS)]


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
        Image.fromarray(poster(picture)).save(folder / after)
        said = INSTRUCTIONS[i % len(INSTRUCTIONS)]
        lines.append(json.dumps({"before": before, "after": after, "instruction": said}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {count} pairs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
