"""Characters: robots put together from parts and colors, so many that each is somebody.

There are 3 heads, 4 tops, 3 bodies, 3 feet, and a color each for head and body: 7,776 robots.
"""

from dataclasses import dataclass

HEADS = ("round", "square", "wide")
TOPS = ("antenna", "ears", "hat", "bald")
BODIES = ("box", "barrel", "cone")
FEET = ("wheels", "legs", "spring")


@dataclass(frozen=True)
class Robot:
    """Who a robot is, but for the color of its body, which is the thing's main color."""

    head: str
    top: str
    body: str
    feet: str
    face: str
    """Color of the head."""
