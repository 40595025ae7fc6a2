"""Draw the example picture, those of the page, and the README's picture with the shipped model.

python examples/pictures.py
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import openkontext
from openkontext.data.scenes import Scene, Thing, render

HERE = Path(__file__).parent
HERO = HERE.parent / "docs" / "images" / "hero.png"

SCENE = Scene(
    width=128,
    height=128,
    landscape="meadow",
    season="summer",
    time="day",
    things=(
        Thing("house", "orange", "left", 0.34),
        Thing("ball", "blue", "right", 0.3, dy=0.03),
        Thing("balloon", "red", "sky left", 0.26),
    ),
    detail=7,
)
PAGE = HERE.parent / "src" / "openkontext" / "service" / "page" / "examples"
PAGE_SCENES = {
    "beach": Scene(
        160,
        96,
        "beach",
        "summer",
        "day",
        (Thing("boat", "red", "left", 0.4), Thing("kite", "yellow", "sky right", 0.34)),
        detail=3,
    ),
    "city": Scene(
        144,
        112,
        "city",
        "summer",
        "day",
        (Thing("car", "blue", "middle", 0.4, dy=0.03), Thing("balloon", "purple", "sky right", 0.3)),
        detail=5,
    ),
    "forest": Scene(
        128,
        128,
        "forest",
        "autumn",
        "day",
        (Thing("tent", "blue", "right", 0.36), Thing("cat", "orange", "left", 0.34)),
        detail=11,
    ),
}
"""Pictures that the page offers beside the meadow of `SCENE`, by their names there."""

INSTRUCTIONS = ("make it night", "make the ball green", "remove the balloon")

_SIDE, _GAP, _CAPTION = 288, 14, 40


def hero() -> Image.Image:
    """The example picture and what the shipped model makes of it, instruction by instruction."""
    editor = openkontext.load()
    before = Image.open(HERE / "scene.png")
    cells: list[tuple[str, Image.Image]] = [("before", before)]
    cells += [(f"“{text}”", editor.edit(before, text, seed=1).image) for text in INSTRUCTIONS]
    width = len(cells) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _SIDE + _CAPTION + 2 * _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=19)
    for i, (caption, picture) in enumerate(cells):
        x = _GAP + i * (_SIDE + _GAP)
        sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, _CAPTION + _GAP))
        draw.text((x + _SIDE / 2, _GAP + _CAPTION / 2), caption, "black", font=font, anchor="mm")
    return sheet


if __name__ == "__main__":
    Image.fromarray(render(SCENE)).save(HERE / "scene.png")
    for name, scene in {"meadow": SCENE, **PAGE_SCENES}.items():
        Image.fromarray(render(scene)).save(PAGE / f"{name}.png", optimize=True)
    HERO.parent.mkdir(parents=True, exist_ok=True)
    hero().save(HERO)
    print(HERO)
