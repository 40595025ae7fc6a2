"""Combinations that training never sees, so that evaluation can ask for them.

Fixed before the first training run. Training scenes do not contain them and training instructions do not ask
for them.
"""

import zlib

from openkontext.data.landscapes import LANDSCAPES
from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, HEADS, TOPS, Robot
from openkontext.data.styles import STYLES
from openkontext.data.things import ALL_SHAPES

_SHAPE_INDEX = {name: i for i, name in enumerate(ALL_SHAPES)}
_COLOR_INDEX = {name: i for i, name in enumerate(COLORS)}

_LANDSCAPE_TIMES = {("beach", "sunset"), ("forest", "night"), ("mountains", "sunset"), ("city", "night")}
"""One time of day, one season and one look for half of the landscapes each."""
_LANDSCAPE_SEASONS = {("meadow", "winter"), ("desert", "autumn"), ("city", "autumn"), ("beach", "winter")}
_LANDSCAPE_LOOKS = {
    ("desert", "sepia"),
    ("meadow", "inverted"),
    ("mountains", "black and white"),
    ("city", "sepia"),
}


def thing_held_out(shape: str, color: str) -> bool:
    """Whether a shape in a color is held out: one color of every shape."""
    return (4 * _SHAPE_INDEX[shape] + _COLOR_INDEX[color]) % len(COLORS) == 0


def replacement_held_out(before: str, after: str) -> bool:
    """Whether replacing one shape by another is held out: about one pair in seven."""
    return (3 * _SHAPE_INDEX[before] + _SHAPE_INDEX[after]) % 7 == 0


def landscape_held_out(landscape: str, season: str, time: str, look: str) -> bool:
    """Whether a landscape in these conditions is held out."""
    return (
        (landscape, time) in _LANDSCAPE_TIMES
        or (landscape, season) in _LANDSCAPE_SEASONS
        or (landscape, look) in _LANDSCAPE_LOOKS
    )


def style_held_out(landscape: str, style: str) -> bool:
    """Whether a landscape in a style of drawing is held out: one style of every landscape."""
    return style != "plain" and (LANDSCAPES.index(landscape) + STYLES.index(style)) % 5 == 0


def styled_thing_held_out(shape: str, style: str) -> bool:
    """Whether drawing a thing in the style of a picture is held out: one style of every thing."""
    return style != "plain" and (_SHAPE_INDEX[shape] + STYLES.index(style)) % 5 == 0


def count_held_out(shape: str, count: int) -> bool:
    """Whether several of a thing are held out: three of every third, two of every other third."""
    return count > 1 and (_SHAPE_INDEX[shape] + count) % 3 == 0


def text_held_out(text: str) -> bool:
    """Whether what a sign says is held out: about one text in six."""
    return zlib.crc32(text.encode()) % 6 == 0


def robot_held_out(robot: Robot, color: str) -> bool:
    """Whether a robot is held out: about one in seven."""
    parts = HEADS.index(robot.head) + 2 * TOPS.index(robot.top) + 3 * BODIES.index(robot.body)
    return (parts + _COLOR_INDEX[color] + 2 * _COLOR_INDEX[robot.face]) % 7 == 0
