"""Signs with words on them: capital letters and digits in a pixel font of our own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from openkontext.data.palette import COLOURS, RGB

LONGEST = 4
"""Letters that a sign has room for."""

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

BOARD = (0.02, 0.18, 0.98, 0.66)
"""Corners of the board in the sign's unit square: x0, y0, x1, y1."""
_UNIT = 0.04
"""Side of the font's pixel in the unit square."""
_GAP = 0.8
"""Between two letters, in pixels of the font."""
_ADVANCE = (_COLUMNS + _GAP) * _UNIT

_DARK: RGB = (40, 38, 46)
_PALE: RGB = (250, 246, 232)


def ink(colour: str) -> RGB:
    """Colour of the letters on a board: pale on dark, dark on pale."""
    red, green, blue = COLOURS[colour]
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else _PALE


def cell(text: str, place: int) -> tuple[float, float, float, float]:
    """Where a letter of a text stands in the unit square: x0, y0, x1, y1; the text stands in the middle."""
    left = 0.5 - (len(text) * _ADVANCE - _GAP * _UNIT) / 2 + place * _ADVANCE
    top = (BOARD[1] + BOARD[3] - _ROWS * _UNIT) / 2
    return left, top, left + _COLUMNS * _UNIT, top + _ROWS * _UNIT


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
        left, top, _, _ = cell(text, place)
        for y, row in enumerate(glyph(letter)):
            edges = np.flatnonzero(np.diff(np.r_[False, row, False]))
            for start, end in edges.reshape(-1, 2):
                boxes.append(
                    (
                        left + start * _UNIT,
                        top + y * _UNIT,
                        left + end * _UNIT,
                        top + (y + 1) * _UNIT,
                    )
                )
    return boxes
