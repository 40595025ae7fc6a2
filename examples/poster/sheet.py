"""Shows what the LoRA has taught: scenes of no pair, edited by nano without it and with it.

python examples/poster/sheet.py out/poster-nano docs/images/finetune.png
"""

import sys
from pathlib import Path

import numpy as np
from pairs import INSTRUCTIONS, poster, scenes
from PIL import Image, ImageDraw, ImageFont

import openkontext

SHOWN, MEASURED, SIDE, GAP = 4, 12, 160, 8
COLUMNS = ("before", "nano", "nano and the LoRA", "as meant")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Likeness in decibels."""
    return float(-10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2))


def main(taught: Path, out: Path) -> None:
    editors = openkontext.load(), openkontext.load(taught)
    rows, likeness = [], []
    for i, picture in enumerate(scenes(MEASURED, seed=2)):  # the pairs are drawn with another seed
        said = INSTRUCTIONS[i % len(INSTRUCTIONS)]
        made = [np.asarray(editor.edit(picture, said, seed=i).image.convert("RGB")) for editor in editors]
        meant = poster(picture)
        rows.append((picture, *made, meant))
        likeness.append([psnr(each, meant) for each in (picture, *made)])
    for name, value in zip(COLUMNS, np.mean(likeness, axis=0), strict=False):
        print(f"{name}: {value:.1f} dB like what was meant, mean of {MEASURED} scenes")
    size = (len(COLUMNS) * (SIDE + GAP) + GAP, SHOWN * (SIDE + GAP) + 30)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, name in enumerate(COLUMNS):
        left = GAP + column * (SIDE + GAP)
        draw.text((left + SIDE / 2, 15), name, "black", font, anchor="mm")
        for row in range(SHOWN):
            tile = Image.fromarray(rows[row][column]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, 30 + row * (SIDE + GAP)))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
