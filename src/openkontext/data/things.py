"""The things that stand in a scene: small vector drawings with one main color each.

Every drawing is a list of parts in a unit square (x to the right, y down, the ground at y = 1). A part's fill
is the role "main", "dark" or "light" (the main color and its shades) or a fixed color.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from openkontext.data.palette import COLORS, RGB, mix
from openkontext.data.robots import Robot
from openkontext.data.signs import BOARD, ink, strokes

Fill = Literal["main", "dark", "light"] | RGB
Point = tuple[float, float]

_OVERSAMPLING = 4


@dataclass(frozen=True)
class DrawnPart:
    """One filled outline: an ellipse through two corners, or a polygon."""

    fill: Fill
    points: tuple[Point, ...]
    ellipse: bool = False


def _ellipse(fill: Fill, x0: float, y0: float, x1: float, y1: float) -> DrawnPart:
    return DrawnPart(fill, ((x0, y0), (x1, y1)), ellipse=True)


def _box(fill: Fill, x0: float, y0: float, x1: float, y1: float) -> DrawnPart:
    return DrawnPart(fill, ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _polygon(fill: Fill, *points: Point) -> DrawnPart:
    return DrawnPart(fill, points)


def _star(fill: Fill, radius: float) -> DrawnPart:
    turns = [(-math.pi / 2 + i * math.pi / 5, radius * (1.0 if i % 2 == 0 else 0.48)) for i in range(10)]
    return DrawnPart(fill, tuple((0.5 + r * math.cos(a), 0.53 + r * math.sin(a)) for a, r in turns))


def _heart(fill: Fill) -> DrawnPart:
    points = []
    for i in range(48):
        a = 2 * math.pi * i / 48
        x = 16 * math.sin(a) ** 3
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        points.append((0.5 + x / 34, 0.47 - y / 34))
    return DrawnPart(fill, tuple(points))


_WOOD: RGB = (126, 84, 52)
_GLASS: RGB = (196, 228, 246)
_TYRE: RGB = (40, 40, 46)
_CREAM: RGB = (250, 238, 214)
_LEAF: RGB = (52, 140, 60)
_STRING: RGB = (110, 104, 100)

_PETALS = tuple(
    _ellipse("main", x - 0.17, y - 0.17, x + 0.17, y + 0.17)
    for x, y in (
        (0.5 + 0.21 * math.cos(i * math.tau / 6), 0.34 + 0.21 * math.sin(i * math.tau / 6)) for i in range(6)
    )
)

GROUND_THINGS: dict[str, tuple[DrawnPart, ...]] = {
    "ball": (
        _ellipse("main", 0.08, 0.16, 0.92, 1.0),
        _ellipse("light", 0.24, 0.27, 0.46, 0.46),
    ),
    "box": (
        _polygon("light", (0.08, 0.36), (0.28, 0.18), (0.98, 0.18), (0.78, 0.36)),
        _polygon("dark", (0.78, 0.36), (0.98, 0.18), (0.98, 0.8), (0.78, 1.0)),
        _box("main", 0.08, 0.36, 0.78, 1.0),
    ),
    "house": (
        _box(_CREAM, 0.14, 0.48, 0.86, 1.0),
        _polygon("main", (0.02, 0.52), (0.5, 0.08), (0.98, 0.52)),
        _box("main", 0.42, 0.68, 0.6, 1.0),
        _box(_GLASS, 0.22, 0.62, 0.36, 0.78),
        _box(_GLASS, 0.66, 0.62, 0.8, 0.78),
    ),
    "car": (
        _polygon("main", (0.24, 0.6), (0.36, 0.38), (0.72, 0.38), (0.84, 0.6)),
        _polygon(_GLASS, (0.31, 0.59), (0.39, 0.43), (0.52, 0.43), (0.52, 0.59)),
        _polygon(_GLASS, (0.56, 0.59), (0.56, 0.43), (0.69, 0.43), (0.77, 0.59)),
        _polygon("main", (0.02, 0.64), (0.1, 0.58), (0.92, 0.58), (0.99, 0.66), (0.99, 0.88), (0.02, 0.88)),
        _ellipse(_TYRE, 0.12, 0.74, 0.38, 1.0),
        _ellipse(_TYRE, 0.64, 0.74, 0.9, 1.0),
        _ellipse((190, 190, 196), 0.2, 0.82, 0.3, 0.92),
        _ellipse((190, 190, 196), 0.72, 0.82, 0.82, 0.92),
    ),
    "tree": (
        _box(_WOOD, 0.43, 0.6, 0.57, 1.0),
        _ellipse("dark", 0.36, 0.26, 0.96, 0.74),
        _ellipse("main", 0.04, 0.26, 0.64, 0.74),
        _ellipse("main", 0.2, 0.02, 0.8, 0.56),
        _ellipse("light", 0.3, 0.1, 0.52, 0.3),
    ),
    "mushroom": (
        _polygon(_CREAM, (0.38, 0.5), (0.62, 0.5), (0.7, 1.0), (0.3, 1.0)),
        DrawnPart(
            "main",
            tuple(
                (0.5 + 0.47 * math.cos(a), 0.6 + 0.46 * math.sin(a))
                for a in np.linspace(math.pi, math.tau, 24)
            ),
        ),
        _ellipse(_CREAM, 0.2, 0.36, 0.36, 0.5),
        _ellipse(_CREAM, 0.44, 0.22, 0.6, 0.36),
        _ellipse(_CREAM, 0.66, 0.38, 0.8, 0.5),
    ),
    "flower": (
        _box(_LEAF, 0.46, 0.5, 0.54, 1.0),
        _ellipse(_LEAF, 0.5, 0.72, 0.84, 0.9),
        _ellipse(_LEAF, 0.16, 0.78, 0.5, 0.94),
        *_PETALS,
        _ellipse((250, 206, 70), 0.38, 0.22, 0.62, 0.46),
    ),
    "tent": (
        _polygon("main", (0.0, 1.0), (0.5, 0.22), (1.0, 1.0)),
        _polygon("dark", (0.5, 0.22), (1.0, 1.0), (0.74, 1.0)),
        _polygon((66, 52, 48), (0.5, 0.46), (0.64, 1.0), (0.34, 1.0)),
    ),
    "cat": (
        _ellipse("dark", 0.66, 0.5, 0.98, 0.98),
        _ellipse("main", 0.2, 0.44, 0.82, 1.0),
        _polygon("main", (0.16, 0.36), (0.16, 0.04), (0.42, 0.2)),
        _polygon("main", (0.74, 0.36), (0.74, 0.04), (0.48, 0.2)),
        _ellipse("main", 0.12, 0.12, 0.78, 0.66),
        _ellipse((250, 250, 250), 0.24, 0.3, 0.4, 0.46),
        _ellipse((250, 250, 250), 0.5, 0.3, 0.66, 0.46),
        _ellipse((20, 20, 24), 0.29, 0.33, 0.38, 0.45),
        _ellipse((20, 20, 24), 0.52, 0.33, 0.61, 0.45),
        _ellipse((240, 140, 150), 0.41, 0.46, 0.49, 0.53),
    ),
    "boat": (
        _box(_WOOD, 0.47, 0.04, 0.53, 0.76),
        _polygon("main", (0.56, 0.06), (0.96, 0.66), (0.56, 0.66)),
        _polygon("light", (0.44, 0.18), (0.44, 0.66), (0.14, 0.66)),
        _polygon(_WOOD, (0.02, 0.74), (0.98, 0.74), (0.82, 1.0), (0.18, 1.0)),
    ),
}
"""Things that stand on the ground, back to front."""

SKY_THINGS: dict[str, tuple[DrawnPart, ...]] = {
    "balloon": (
        _polygon(_STRING, (0.485, 0.76), (0.515, 0.76), (0.54, 1.0), (0.51, 1.0)),
        _polygon("dark", (0.42, 0.8), (0.5, 0.7), (0.58, 0.8)),
        _ellipse("main", 0.16, 0.0, 0.84, 0.76),
        _ellipse("light", 0.28, 0.1, 0.46, 0.3),
    ),
    "kite": (
        _polygon(_STRING, (0.48, 0.74), (0.52, 0.74), (0.66, 1.0), (0.62, 1.0)),
        _polygon("main", (0.5, 0.0), (0.9, 0.32), (0.5, 0.8), (0.1, 0.32)),
        _polygon("light", (0.5, 0.0), (0.5, 0.32), (0.1, 0.32)),
        _polygon("dark", (0.5, 0.32), (0.9, 0.32), (0.5, 0.8)),
    ),
    "star": (_star("main", 0.52),),
    "heart": (_heart("main"), _ellipse("light", 0.2, 0.2, 0.36, 0.36)),
    "bird": (
        _polygon("dark", (0.02, 0.44), (0.3, 0.5), (0.3, 0.66), (0.04, 0.66)),
        _ellipse("main", 0.18, 0.36, 0.78, 0.82),
        _ellipse("main", 0.58, 0.2, 0.9, 0.52),
        _polygon((248, 170, 40), (0.87, 0.3), (1.0, 0.38), (0.87, 0.44)),
        _polygon("dark", (0.3, 0.5), (0.62, 0.5), (0.3, 0.06)),
        _ellipse((16, 16, 20), 0.7, 0.27, 0.78, 0.35),
    ),
}
"""Things that hang in the sky."""

SHAPES: dict[str, tuple[DrawnPart, ...]] = {**GROUND_THINGS, **SKY_THINGS}

UNSEEN_THINGS: dict[str, tuple[DrawnPart, ...]] = {
    "cross": (
        _box("main", 0.36, 0.04, 0.64, 0.96),
        _box("main", 0.04, 0.36, 0.96, 0.64),
    ),
}
"""Things that hang in the sky when asked for, and in no scene that is drawn at random. nano never saw one, so
that they show how soon a model learns what is new to it."""

SIGN, ROBOT = "sign", "robot"
"""Things whose drawing depends on what stands on them, or on who they are. They stand on the ground."""
ALL_SHAPES = (*SHAPES, SIGN, ROBOT)


@dataclass(frozen=True)
class Form:
    """What a thing has beyond its shape and its color."""

    count: int = 1
    """How many of it stand together in its square: 1, 2 or 3."""
    text: str = ""
    """What a sign says."""
    robot: Robot | None = None
    """Who a robot is."""


PLAIN = Form()
MOST = 3
"""Things of one kind that stand together at most."""

_GROUPS: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((0.0, 0.0, 1.0),),
    2: ((0.0, 0.44, 0.56), (0.44, 0.44, 0.56)),
    3: ((0.22, 0.0, 0.56), (0.0, 0.44, 0.56), (0.44, 0.44, 0.56)),
}
"""Left, top and side of each of so many things in their common square, back to front."""

_STEEL: RGB = (150, 156, 166)
_EYE: RGB = (24, 26, 32)
_LAMP: RGB = (255, 244, 170)


def _sign(color: str, text: str) -> tuple[DrawnPart, ...]:
    x0, y0, x1, y1 = BOARD
    return (
        _box(_WOOD, 0.46, y1, 0.54, 1.0),
        _box("dark", x0, y0, x1, y1),
        _box("main", x0 + 0.02, y0 + 0.02, x1 - 0.02, y1 - 0.02),
        *(_box(ink(color), *stroke) for stroke in strokes(text)),
    )


def _robot(robot: Robot) -> tuple[DrawnPart, ...]:
    face = COLORS[robot.face]
    feet = {
        "wheels": (_ellipse(_TYRE, 0.22, 0.82, 0.46, 1.0), _ellipse(_TYRE, 0.54, 0.82, 0.78, 1.0)),
        "legs": (
            _box(_STEEL, 0.3, 0.78, 0.4, 1.0),
            _box(_STEEL, 0.6, 0.78, 0.7, 1.0),
            _box(_TYRE, 0.24, 0.95, 0.42, 1.0),
            _box(_TYRE, 0.58, 0.95, 0.76, 1.0),
        ),
        "spring": (
            _polygon(_STEEL, (0.36, 0.8), (0.64, 0.8), (0.64, 0.85), (0.36, 0.85)),
            _polygon(_TYRE, (0.4, 0.86), (0.6, 0.86), (0.6, 0.9), (0.4, 0.9)),
            _polygon(_STEEL, (0.32, 0.93), (0.68, 0.93), (0.68, 1.0), (0.32, 1.0)),
        ),
    }[robot.feet]
    body = {
        "box": (_box("main", 0.26, 0.48, 0.74, 0.84),),
        "barrel": (_ellipse("main", 0.2, 0.44, 0.8, 0.88),),
        "cone": (_polygon("main", (0.4, 0.46), (0.6, 0.46), (0.84, 0.84), (0.16, 0.84)),),
    }[robot.body]
    head = {
        "round": (_ellipse(face, 0.3, 0.14, 0.7, 0.52),),
        "square": (_box(face, 0.32, 0.16, 0.68, 0.48),),
        "wide": (_polygon(face, (0.2, 0.2), (0.8, 0.2), (0.7, 0.46), (0.3, 0.46)),),
    }[robot.head]
    top = {
        "antenna": (_box(_STEEL, 0.48, 0.04, 0.52, 0.22), _ellipse(_LAMP, 0.44, 0.0, 0.56, 0.11)),
        "ears": (
            _polygon(face, (0.3, 0.24), (0.26, 0.02), (0.44, 0.18)),
            _polygon(face, (0.7, 0.24), (0.74, 0.02), (0.56, 0.18)),
        ),
        "hat": (_box(_EYE, 0.28, 0.13, 0.72, 0.19), _box(_EYE, 0.36, 0.0, 0.64, 0.15)),
        "bald": (),
    }[robot.top]
    return (
        *feet,
        _box(_STEEL, 0.12, 0.54, 0.3, 0.6),
        _box(_STEEL, 0.7, 0.54, 0.88, 0.6),
        *body,
        _ellipse(_LAMP, 0.44, 0.6, 0.56, 0.72),
        *head,
        *top,
        _ellipse((255, 255, 255), 0.37, 0.26, 0.48, 0.37),
        _ellipse((255, 255, 255), 0.52, 0.26, 0.63, 0.37),
        _ellipse(_EYE, 0.4, 0.28, 0.46, 0.35),
        _ellipse(_EYE, 0.54, 0.28, 0.6, 0.35),
    )


def _parts(shape: str, color: str, form: Form) -> tuple[DrawnPart, ...]:
    """What makes up a drawing in its unit square, back to front."""
    if form.robot is not None:
        one = _robot(form.robot)
    elif shape == SIGN:
        one = _sign(color, form.text)
    else:
        one = (SHAPES | UNSEEN_THINGS)[shape]
    return tuple(
        DrawnPart(part.fill, tuple((left + x * side, top + y * side) for x, y in part.points), part.ellipse)
        for left, top, side in _GROUPS[form.count]
        for part in one
    )


def _shades(color: RGB) -> dict[str, RGB]:
    return {"main": color, "dark": mix(color, (0, 0, 0), 0.22), "light": mix(color, (255, 255, 255), 0.4)}


def _draw(parts: tuple[DrawnPart, ...], size: int, shades: dict[str, RGB], fixed: RGB | None) -> Image.Image:
    side = size * _OVERSAMPLING
    tile = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(tile)
    for part in parts:
        if isinstance(part.fill, str):
            rgb = shades[part.fill]
        else:
            rgb = part.fill if fixed is None else fixed
        points = [(x * side, y * side) for x, y in part.points]
        if part.ellipse:
            draw.ellipse([points[0], points[1]], fill=(*rgb, 255))
        else:
            draw.polygon(points, fill=(*rgb, 255))
    return tile.reduce(_OVERSAMPLING)


@lru_cache(maxsize=4096)
def draw_thing(shape: str, color: str, size: int, form: Form = PLAIN) -> tuple[np.ndarray, np.ndarray]:
    """Draw one thing, lit from the upper left.

    Returns:
        Its colors, float32 [size, size, 3] in 0..255, and its opacity, float32 [size, size] in 0..1.
    """
    tile = np.asarray(_draw(_parts(shape, color, form), size, _shades(COLORS[color]), None), np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    light = 1.1 - 0.26 * (0.45 * x + 0.55 * y)
    return np.clip(tile[..., :3] * light[..., None], 0, 255), tile[..., 3] / 255


@lru_cache(maxsize=1024)
def main_color_area(shape: str, size: int, form: Form = PLAIN) -> np.ndarray:
    """Where a thing shows its main color: bool [size, size]."""
    white, black = (255, 255, 255), (0, 0, 0)
    shades = {"main": white, "dark": black, "light": black}
    tile = np.asarray(_draw(_parts(shape, "white", form), size, shades, black), np.float32)
    return (tile[..., 0] > 250) & (tile[..., 3] > 250)
