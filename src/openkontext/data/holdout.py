"""Combinations that training never sees, so that evaluation can ask for them.

Fixed before the first training run. Training scenes do not contain them and training instructions do not ask
for them.
"""

from __future__ import annotations

from openkontext.data.palette import COLOURS
from openkontext.data.things import SHAPES

_SHAPE_INDEX = {name: i for i, name in enumerate(SHAPES)}
_COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}

#: One time of day, one season and one look for half of the landscapes each.
_LANDSCAPE_TIMES = {("beach", "sunset"), ("forest", "night"), ("mountains", "sunset"), ("city", "night")}
_LANDSCAPE_SEASONS = {("meadow", "winter"), ("desert", "autumn"), ("city", "autumn"), ("beach", "winter")}
_LANDSCAPE_LOOKS = {
    ("desert", "sepia"),
    ("meadow", "inverted"),
    ("mountains", "black and white"),
    ("city", "sepia"),
}


def thing_held_out(shape: str, colour: str) -> bool:
    """Whether a shape in a colour is held out: one colour of every shape."""
    return (4 * _SHAPE_INDEX[shape] + _COLOUR_INDEX[colour]) % len(COLOURS) == 0


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
