"""Random scenes."""

import numpy as np

from openkontext.data.holdout import landscape_held_out, text_held_out, thing_held_out
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS, Robot
from openkontext.data.scenes import (
    GROUND_PLACES,
    GROUND_SIZE,
    PLACES,
    ROBOT_SIZE,
    SIZES,
    SKY_PLACES,
    SKY_SIZE,
    Scene,
    Thing,
)
from openkontext.data.signs import GRID, GRID_LEFT, GRID_TOP, LETTERS, LONGEST, SIGN_SIDE
from openkontext.data.things import GROUND_THINGS, ROBOT, SIGN, SKY_THINGS, Form

_SIZE_WEIGHTS = (0.4, 0.18, 0.18, 0.12, 0.12)


def choose(rng: np.random.Generator, options: list | tuple, weights: tuple[float, ...] | None = None):  # type: ignore[no-untyped-def,type-arg]
    """One of the options, as itself rather than as numpy's copy of it."""
    return options[int(rng.choice(len(options), p=weights))]


def random_thing(rng: np.random.Generator, place: str, *, canonical: bool = False) -> Thing:
    """A thing that is not held out, near a place.

    Args:
        rng: source of chance.
        place: one of the scene's places.
        canonical: whether it has the size and spot of a thing that an instruction adds.
    """
    in_sky = place in SKY_PLACES
    shapes = list(SKY_THINGS if in_sky else GROUND_THINGS)
    while True:
        shape, color = choose(rng, shapes), choose(rng, list(COLORS))
        if not thing_held_out(shape, color):
            break
    size = SKY_SIZE if in_sky else GROUND_SIZE
    if canonical:
        return Thing(shape, color, place, size)
    dx, dy = rng.uniform(-0.035, 0.035, 2)
    return Thing(shape, color, place, size * rng.uniform(0.86, 1.16), float(dx), float(dy))


def random_scene(rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """A scene in color without any held-out combination.

    One to three things stand on the ground, up to two hang in the sky, no two of one shape and color, and at
    least one place is free.
    """
    width, height = size or choose(rng, SIZES, _SIZE_WEIGHTS)
    while True:
        landscape = choose(rng, LANDSCAPES)
        season = choose(rng, SEASONS, (0.5, 0.25, 0.25))
        time = choose(rng, list(TIMES), (0.56, 0.22, 0.22))
        if not landscape_held_out(landscape, season, time, "colour"):
            break
    ground = rng.permutation(GROUND_PLACES)[: choose(rng, (1, 2, 3), (0.25, 0.45, 0.3))]
    sky = rng.permutation(SKY_PLACES)[: choose(rng, (0, 1, 2), (0.35, 0.4, 0.25))]
    things: list[Thing] = []
    for place in (*map(str, ground), *map(str, sky)):
        thing = random_thing(rng, place)
        while any((t.shape, t.color) == (thing.shape, thing.color) for t in things):
            thing = random_thing(rng, place)
        things.append(thing)
    return Scene(width, height, landscape, season, time, tuple(things), detail=int(rng.integers(1 << 20)))


_TEXTS = (
    "OPEN", "SALE", "CAFE", "TAXI", "STOP", "EXIT", "ZOO", "BUS", "TEA", "HELP", "SHOP", "PARK", "FISH",
    "MILK", "CAKE", "JAZZ", "GYM", "WOW", "HI", "YES", "NO", "GO", "24H", "VIP", "OK", "BAR", "INN",
    "ICE", "QUIZ", "KIDS",
)  # fmt: skip
"""Words on signs; letters and digits in any order come beside them."""


def random_text(rng: np.random.Generator) -> str:
    """What a sign says: a word, a number, or letters and digits without a meaning; held out or not."""
    kind = rng.random()
    if kind < 0.4:
        return str(choose(rng, _TEXTS))
    if kind < 0.6:
        return str(int(rng.integers(1, 1000)))
    return random_letters(rng)


def random_letters(rng: np.random.Generator) -> str:
    """Letters and digits in any order, two to as many as a sign has room for; held out or not."""
    return "".join(choose(rng, LETTERS) for _ in range(int(rng.integers(2, LONGEST + 1))))


def random_sign(rng: np.random.Generator, scene: Scene, place: str) -> Thing:
    """A sign near a place of a scene, its letters on their grid; it is not held out."""
    color = choose(rng, [c for c in COLORS if not thing_held_out(SIGN, c)])
    text = random_text(rng)
    while text_held_out(text):
        text = random_text(rng)
    x, y = PLACES[place]
    left = _on_grid(x * scene.width - SIGN_SIDE / 2, scene.width, GRID_LEFT)
    top = _on_grid(y * scene.height - SIGN_SIDE, scene.height, GRID_TOP)
    return Thing(
        SIGN,
        color,
        place,
        size=SIGN_SIDE / min(scene.width, scene.height),
        dx=(left + SIGN_SIDE / 2) / scene.width - x,
        dy=(top + SIGN_SIDE) / scene.height - y,
        form=Form(text=text),
    )


def _on_grid(wanted: float, room: int, offset: int) -> int:
    """Where a sign begins, in pixels: nearest to what is wanted, all of it shown, its letters on the grid."""
    starts = [start for start in range(room - SIGN_SIDE + 1) if (start + offset) % GRID == 0]
    return min(starts, key=lambda start: abs(start - wanted))


def random_robot(rng: np.random.Generator, place: str) -> Thing:
    """A robot near a place, held out or not."""
    head, top, body, feet, face = (choose(rng, parts) for parts in (HEADS, TOPS, BODIES, FEET, list(COLORS)))
    robot = Robot(head, top, body, feet, face)
    color = choose(rng, [c for c in COLORS if not thing_held_out(ROBOT, c)])
    size = ROBOT_SIZE * rng.uniform(0.86, 1.1)
    return Thing(ROBOT, color, place, float(size), form=Form(robot=robot))
