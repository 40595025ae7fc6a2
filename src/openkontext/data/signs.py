"""Signs with words on them: capital letters and digits in a pixel font of our own.

A sign is drawn 72 pixels wide and its letters 16 apart, on the grid of squares that an image token covers. So
a letter is one pattern in one token wherever it stands; at any offset it would be thousands, more than a
small model learns.
"""

from functools import lru_cache

import numpy as np

from openkontext.data.palette import COLORS, RGB

LONGEST = 4
"""Letters that a sign has room for."""
GRID = 16
"""From one letter to the next in pixels, and of their grid in the picture: an image token's side."""
SIGN_SIDE = 72
"""Side of the sign's square in pixels."""
GRID_LEFT, GRID_TOP = 4, 28
"""From the square's corner to the first letter's field, in pixels."""

_ROWS = 7
_COLUMNS = 5

_GLYPHS = {
    "A": ".XXX. X...X X...X XXXXX X...X X...X X...X",
    "B": "XXXX. X...X X...X XXXX. X...X X...X XXXX.",
    "C": ".XXXX X.... X.... X.... X.... X.... .XXXX",
    "D": "XXXX. X...X X...X X...X X...X X...X XXXX.",
    "E": "XXXXX X.... X.... XXXX. X.... X.... XXXXX",
    "F": "XXXXX X.... X.... XXXX. X.... X.... X....",
    "G": ".XXXX X.... X.... X..XX X...X X...X .XXXX",
    "H": "X...X X...X X...X XXXXX X...X X...X X...X",
    "I": "XXXXX ..X.. ..X.. ..X.. ..X.. ..X.. XXXXX",
    "J": "...XX ....X ....X ....X X...X X...X .XXX.",
    "K": "X...X X..X. X.X.. XX... X.X.. X..X. X...X",
    "L": "X.... X.... X.... X.... X.... X.... XXXXX",
    "M": "X...X XX.XX X.X.X X.X.X X...X X...X X...X",
    "N": "X...X XX..X XX..X X.X.X X..XX X..XX X...X",
    "O": ".XXX. X...X X...X X...X X...X X...X .XXX.",
    "P": "XXXX. X...X X...X XXXX. X.... X.... X....",
    "Q": ".XXX. X...X X...X X...X X.X.X X..X. .XX.X",
    "R": "XXXX. X...X X...X XXXX. X.X.. X..X. X...X",
    "S": ".XXXX X.... X.... .XXX. ....X ....X XXXX.",
    "T": "XXXXX ..X.. ..X.. ..X.. ..X.. ..X.. ..X..",
    "U": "X...X X...X X...X X...X X...X X...X .XXX.",
    "V": "X...X X...X X...X X...X X...X .X.X. ..X..",
    "W": "X...X X...X X...X X.X.X X.X.X XX.XX X...X",
    "X": "X...X X...X .X.X. ..X.. .X.X. X...X X...X",
    "Y": "X...X X...X .X.X. ..X.. ..X.. ..X.. ..X..",
    "Z": "XXXXX ....X ...X. ..X.. .X... X.... XXXXX",
    "0": ".XXX. X...X X..XX X.X.X XX..X X...X .XXX.",
    "1": "..X.. .XX.. ..X.. ..X.. ..X.. ..X.. .XXX.",
    "2": ".XXX. X...X ....X ..XX. .X... X.... XXXXX",
    "3": "XXXX. ....X ....X .XXX. ....X ....X XXXX.",
    "4": "...X. ..XX. .X.X. X..X. XXXXX ...X. ...X.",
    "5": "XXXXX X.... XXXX. ....X ....X X...X .XXX.",
    "6": "..XX. .X... X.... XXXX. X...X X...X .XXX.",
    "7": "XXXXX ....X ...X. ...X. ..X.. ..X.. ..X..",
    "8": ".XXX. X...X X...X .XXX. X...X X...X .XXX.",
    "9": ".XXX. X...X X...X .XXXX ....X ...X. .XX..",
}
LETTERS = tuple(_GLYPHS)
"""What can stand on a sign."""

BOARD = (0.0, 24 / SIGN_SIDE, 1.0, 48 / SIGN_SIDE)
"""Corners of the board in the sign's unit square: x0, y0, x1, y1."""
_WIDTH, _HEIGHT = 12, 14
"""Of a letter in its field, in pixels of the picture."""

_DARK: RGB = (40, 38, 46)
_PALE: RGB = (250, 246, 232)


def ink(color: str) -> RGB:
    """Color of the letters on a board: pale on dark, dark on pale."""
    red, green, blue = COLORS[color]
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else _PALE


def first_field(text: str) -> int:
    """In which of the board's fields, one for each letter that it has room for, a text begins."""
    return (LONGEST - len(text)) // 2


def cell(text: str, place: int) -> tuple[float, float, float, float]:
    """Where a letter of a text stands in the unit square: x0, y0, x1, y1.

    The text stands in the middle, or half a letter left of it where it has an odd number of letters.
    """
    left = GRID_LEFT + GRID * (first_field(text) + place) + (GRID - _WIDTH) / 2
    top = GRID_TOP + (GRID - _HEIGHT) / 2
    return left / SIGN_SIDE, top / SIGN_SIDE, (left + _WIDTH) / SIGN_SIDE, (top + _HEIGHT) / SIGN_SIDE


@lru_cache(maxsize=64)
def glyph(letter: str) -> np.ndarray:
    """The letter's pixels: bool [7, 5]."""
    rows = _GLYPHS[letter].split()
    return np.array([[mark == "X" for mark in row] for row in rows])


def strokes(text: str) -> list[tuple[float, float, float, float]]:
    """Boxes that make up a text in the unit square: x0, y0, x1, y1 each, one for each run of pixels in a row.

    Raises:
        KeyError: the text has a letter that no sign shows.
    """
    boxes = []
    for place, letter in enumerate(text):
        left, top, right, bottom = cell(text, place)
        wide, high = (right - left) / _COLUMNS, (bottom - top) / _ROWS
        for y, row in enumerate(glyph(letter)):
            edges = np.flatnonzero(np.diff(np.r_[False, row, False]))
            for start, end in edges.reshape(-1, 2):
                boxes.append(
                    (
                        left + start * wide,
                        top + y * high,
                        left + end * wide,
                        top + (y + 1) * high,
                    )
                )
    return boxes
