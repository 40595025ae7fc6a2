"""A scene as data, and its picture.

A scene is a landscape (six of them) in a season, at a time of day, with a few things in fixed places, seen
through a look (color, black and white, ...). Everything is drawn by this package; nothing is read from
files.
"""

from dataclasses import dataclass

import numpy as np

from openkontext.data.landscapes import TIMES, draw_landscape
from openkontext.data.styles import draw_in
from openkontext.data.things import PLAIN, SIGN, Form, draw_thing, main_color_area

LOOKS = ("colour", "black and white", "sepia", "inverted")

SIZES = ((128, 128), (144, 112), (112, 144), (160, 96), (96, 160))
"""The pictures' sizes, (width, height) in pixels, near 128 x 128 in area."""

PLACES: dict[str, tuple[float, float]] = {
    "left": (0.19, 0.84),
    "middle": (0.5, 0.88),
    "right": (0.81, 0.84),
    "sky left": (0.2, 0.2),
    "sky middle": (0.5, 0.17),
    "sky right": (0.8, 0.2),
}
"""Where things can be: the center of the foot for places on the ground, the center for places in the sky, as
shares of the picture's width and height."""
GROUND_PLACES = ("left", "middle", "right")
SKY_PLACES = ("sky left", "sky middle", "sky right")

GROUND_SIZE = 0.32
"""Size of a thing that an instruction adds, as a share of the picture's shorter side."""
SKY_SIZE = 0.25
ROBOT_SIZE = 0.46
"""Size of a robot: large enough to be recognized."""


@dataclass(frozen=True)
class Thing:
    """One thing in a scene."""

    shape: str
    color: str
    place: str
    size: float
    """Side of its square, as a share of the picture's shorter side."""
    dx: float = 0.0
    """Offset from the place, as shares of the picture's width and height."""
    dy: float = 0.0
    form: Form = PLAIN

    @property
    def in_sky(self) -> bool:
        """Whether it hangs rather than stands."""
        return self.place in SKY_PLACES


@dataclass(frozen=True)
class Scene:
    """All that a picture shows; equal scenes have equal pictures."""

    width: int
    height: int
    landscape: str
    season: str
    time: str
    things: tuple[Thing, ...]
    look: str = "colour"
    style: str = "plain"
    """How it is drawn, see `openkontext.data.styles`."""
    detail: int = 0
    """Chooses the landscape's incidental detail (hills, stars, windows)."""


def back_to_front(scene: Scene) -> list[Thing]:
    """The things in the order in which they cover each other.

    Those in the sky are behind those on the ground, farther ones behind nearer ones, and nothing is in front
    of a sign, so that all of it can be read.
    """
    return sorted(scene.things, key=lambda t: (not t.in_sky, t.shape == SIGN, PLACES[t.place][1] + t.dy))


def box_of(scene: Scene, thing: Thing) -> tuple[int, int, int]:
    """The thing's square in the picture: left, top and side, in pixels. May reach over the picture's edge."""
    side = round(thing.size * min(scene.width, scene.height))
    x, y = PLACES[thing.place]
    left = round((x + thing.dx) * scene.width - side / 2)
    foot = (y + thing.dy) * scene.height
    return left, round(foot - side / 2) if thing.in_sky else round(foot - side), side


def _place(
    canvas_shape: tuple[int, int], tile: np.ndarray, left: int, top: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    height, width = canvas_shape
    side_y, side_x = tile.shape[:2]
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side_y, height), min(left + side_x, width)
    return (slice(y0, y1), slice(x0, x1)), tile[y0 - top : max(y1 - top, 0), x0 - left : max(x1 - left, 0)]


def _shadow(picture: np.ndarray, left: int, top: int, side: int) -> None:
    """Darken a soft ellipse where a thing meets the ground."""
    half_height = max(side // 9, 1)
    y, x = np.mgrid[-half_height : half_height + 1, 0:side].astype(np.float32)
    distance = (x / side * 2 - 1) ** 2 + (y / (half_height + 0.5)) ** 2
    shade = np.clip(1 - distance, 0, 1) * 0.42
    where, part = _place(picture.shape[:2], shade, left, top + side - half_height - 1)
    picture[where] *= 1 - part[..., None]


def _apply_look(picture: np.ndarray, look: str) -> np.ndarray:
    gray = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    if look == "black and white":
        return np.repeat(gray[..., None], 3, axis=2)
    if look == "sepia":
        return np.clip(
            gray[..., None] * np.array([1.08, 0.9, 0.66], np.float32) + np.array([14, 8, 0], np.float32),
            0,
            255,
        )
    if look == "inverted":
        return 255 - picture
    return picture


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 [height, width, 3]."""
    picture = draw_landscape(
        scene.landscape, scene.season, scene.time, scene.width, scene.height, scene.detail
    ).copy()
    light = np.array(TIMES[scene.time].light, np.float32)
    for thing in back_to_front(scene):
        left, top, side = box_of(scene, thing)
        if not thing.in_sky:
            _shadow(picture, left, top, side)
        rgb, opacity = draw_thing(thing.shape, thing.color, side, thing.form)
        where, part = _place(picture.shape[:2], np.dstack([rgb * light, opacity]), left, top)
        alpha = part[..., 3:]
        picture[where] = picture[where] * (1 - alpha) + part[..., :3] * alpha
    return np.rint(_apply_look(draw_in(scene.style, picture), scene.look)).astype(np.uint8)


def silhouette(scene: Scene, thing: Thing) -> np.ndarray:
    """Where a thing covers the picture: bool [height, width], whatever stands in front of it."""
    mask = np.zeros((scene.height, scene.width), bool)
    left, top, side = box_of(scene, thing)
    where, part = _place(
        mask.shape, draw_thing(thing.shape, thing.color, side, thing.form)[1] > 0.5, left, top
    )
    mask[where] = part
    return mask


def colored_area(scene: Scene, thing: Thing) -> np.ndarray:
    """Where a thing shows its main color: bool [height, width]."""
    mask = np.zeros((scene.height, scene.width), bool)
    left, top, side = box_of(scene, thing)
    where, part = _place(mask.shape, main_color_area(thing.shape, side, thing.form), left, top)
    mask[where] = part
    return mask
