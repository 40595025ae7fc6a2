"""What a picture shows where more than presence and color is asked: numbers, letters, characters, styles.

Each answer is the nearest of the renderings of all possible ones.
"""

from dataclasses import replace

import numpy as np

from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS, Robot
from openkontext.data.scenes import Scene, Thing, box_of
from openkontext.data.signs import LETTERS, cell
from openkontext.data.styles import BLOCK, STYLES
from openkontext.data.things import GROUND_THINGS, MOST, Form
from openkontext.evaluation.measures import (
    COLOR_MARGIN,
    Float,
    difference,
    draw,
    put,
    shift_errors,
)


def count_of(scene: Scene, thing: Thing, picture: Float) -> int:
    """How many of a thing stand in its square."""
    groups = {n: put(scene, thing, replace(thing, form=Form(count=n))) for n in range(1, MOST + 1)}
    errors = {n: shift_errors(scene, thing, picture, draw(other)).min() for n, other in groups.items()}
    return min(errors, key=errors.__getitem__)


def text_of(scene: Scene, sign: Thing, picture: Float) -> str:
    """What a sign says, letter by letter where the asked letters stand; a blank where there is none."""
    text = sign.form.text
    filled = {
        letter: draw(put(scene, sign, replace(sign, form=Form(text=letter * len(text)))))
        for letter in LETTERS
    }
    filled[" "] = draw(put(scene, sign, replace(sign, form=Form(text=""))))
    left, top, side = box_of(scene, sign)
    found = ""
    for place in range(len(text)):
        x0, y0, x1, y1 = cell(text, place)
        where = np.zeros((scene.height, scene.width), bool)
        rows = slice(max(round(top + y0 * side) - 1, 0), round(top + y1 * side) + 1)
        where[rows, max(round(left + x0 * side), 0) : round(left + x1 * side)] = True
        errors = {letter: difference(picture, image, where) for letter, image in filled.items()}
        found += min(errors, key=errors.__getitem__)
    return found


def robot_parts(scene: Scene, thing: Thing, picture: Float) -> dict[str, tuple[str, str]]:
    """Every part of a robot: as asked, and as it is found.

    A color counts as found where another is nearer by less than what two pictures of one color differ.
    """
    robot = thing.form.robot
    assert robot is not None, "the thing is no robot"
    options: dict[str, dict[str, Thing]] = {"body's color": {c: replace(thing, color=c) for c in COLORS}}
    for part, values in (
        ("head", HEADS),
        ("top", TOPS),
        ("body", BODIES),
        ("feet", FEET),
        ("face", tuple(COLORS)),
    ):
        options[part] = {value: _with_part(thing, robot, part, value) for value in values}
    found = {}
    for part, things in options.items():
        asked = thing.color if part == "body's color" else getattr(robot, part)
        images = {value: draw(put(scene, thing, other)) for value, other in things.items()}
        differs = np.any([(image != images[asked]).any(axis=2) for image in images.values()], axis=0)
        if not differs.any():  # beyond the picture's edge
            continue
        errors = {value: difference(picture, image, differs) for value, image in images.items()}
        nearest = min(errors, key=errors.__getitem__)
        margin = COLOR_MARGIN if part in ("face", "body's color") else 0.0
        found[part] = (asked, asked if errors[asked] <= errors[nearest] + margin else nearest)
    return found


def _with_part(thing: Thing, robot: Robot, part: str, value: str) -> Thing:
    return replace(thing, form=replace(thing.form, robot=replace(robot, **{part: value})))


def style_of(scene: Scene, picture: Float) -> str:
    """The style that a picture is drawn in: the one whose rendering of the scene has the nearest marks.

    Marks are of the whole picture, so that what the painter is free to place does not count.
    """
    drawn = {style: _marks(draw(replace(scene, style=style))) for style in STYLES}
    spread = np.std(list(drawn.values()), axis=0) + 1e-3
    seen = _marks(picture)
    distances = {style: float((((marks - seen) / spread) ** 2).sum()) for style, marks in drawn.items()}
    return min(distances, key=distances.__getitem__)


def _marks(picture: Float) -> Float:
    """Mean color, contrast, colorfulness, steepness of edges, flat ground, and steps on a grid.

    Steps count by their square: a faint grain everywhere, such as an autoencoder leaves, is no grid.
    """
    gray = picture.mean(axis=2)
    down, right = np.gradient(gray)
    steep = np.hypot(down, right)
    steps = [np.diff(way, axis=0) ** 2 for way in (gray, gray.T)]
    on_grid = sum(each[BLOCK - 1 :: BLOCK].sum() for each in steps)
    marks = [
        *picture.mean(axis=(0, 1)),
        gray.std(),
        (picture.max(axis=2) - picture.min(axis=2)).mean(),
        steep.mean(),
        np.quantile(steep, 0.95),
        (steep < 0.02).mean(),
        on_grid / (sum(each.sum() for each in steps) + 1e-6),
    ]
    return np.array(marks, np.float32)


def thing_in_style(scene: Scene, thing: Thing, picture: Float) -> str:
    """What stands in a thing's place in a styled picture: the nearest of all shapes, or "nothing"."""
    shapes = {s: draw(put(scene, thing, replace(thing, shape=s))) for s in GROUND_THINGS}
    shapes["nothing"] = draw(put(scene, thing))
    errors = {shape: shift_errors(scene, thing, picture, image).min() for shape, image in shapes.items()}
    return min(errors, key=errors.__getitem__)
