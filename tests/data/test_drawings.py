"""What is drawn beyond plain things: signs, robots, groups, styles."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS, Robot
from openkontext.data.sampler import random_sign
from openkontext.data.scenes import (
    GROUND_PLACES,
    ROBOT_SIZE,
    SIZES,
    Scene,
    Thing,
    box_of,
    render,
    silhouette,
)
from openkontext.data.signs import LETTERS, LONGEST, cell, glyph, ink, strokes
from openkontext.data.styles import COLORLESS, STYLES, draw_in
from openkontext.data.things import Form

SCENE = Scene(128, 128, "meadow", "summer", "day", (), detail=3)


def with_thing(shape: str, color: str, form: Form, size: float = ROBOT_SIZE) -> Scene:
    return replace(SCENE, things=(Thing(shape, color, "middle", size, form=form),))


def test_no_two_letters_look_alike():
    for a, b in combinations(LETTERS, 2):
        assert (glyph(a) != glyph(b)).sum() >= 2, (a, b)
    assert set(LETTERS) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def test_a_text_stands_in_the_middle_of_its_board():
    for text, letters_left_of_it in (("42", 0), ("OPEN", 0), ("I", 1), ("CAR", 1)):
        first, last = cell(text, 0), cell(text, len(text) - 1)
        # Half a letter, of 16 pixels in 72: the middle of the text is left of the board's.
        assert (first[0] + last[2]) / 2 == pytest.approx(0.5 - letters_left_of_it * 8 / 72)
        assert first[0] > 0
    # The strokes of a letter fill as much as its pixels do.
    x0, y0, x1, y1 = cell("H", 0)
    pixel = (x1 - x0) / 5 * (y1 - y0) / 7
    assert sum((b[2] - b[0]) * (b[3] - b[1]) for b in strokes("H")) == pytest.approx(glyph("H").sum() * pixel)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", GROUND_PLACES)
def test_a_letter_is_one_pattern_in_one_square_of_the_grid(size: tuple[int, int], place: str):
    """What changes with a letter lies in one square of 16 pixels, and the whole sign is in the picture."""
    scene = replace(SCENE, width=size[0], height=size[1])
    sign = random_sign(np.random.default_rng(0), scene, place)
    left, top, side = box_of(scene, sign)
    assert side == 72
    assert min(left, top) >= 0
    assert left + side <= size[0]
    assert top + side <= size[1]
    one, other = (
        render(replace(scene, things=(replace(sign, form=Form(text=text)),))).astype(int)
        for text in ("A8C4", "A1C4")
    )
    rows, columns = np.nonzero((one != other).any(axis=2))
    assert len({(y // 16, x // 16) for y, x in zip(rows, columns, strict=True)}) == 1


def test_nothing_stands_in_front_of_a_sign():
    sign = random_sign(np.random.default_rng(0), SCENE, "left")
    near = Thing("box", "red", "middle", 0.4, dx=-0.1, dy=0.04)
    alone, both = (render(replace(SCENE, things=things)) for things in ((sign,), (sign, near)))
    # Away from its edges, which let through a little of what is behind.
    left, top, _ = box_of(SCENE, sign)
    board = slice(top + 26, top + 46), slice(left + 2, left + 70)
    np.testing.assert_array_equal(alone[board], both[board])
    assert (alone != both).any()


def test_every_letter_of_a_sign_shows_in_every_place_and_color():
    for color in COLORS:
        empty = render(with_thing("sign", color, Form(text=""), 72 / 128)).astype(int)
        for place in range(LONGEST):
            text = "." * place + "8"
            sign = render(with_thing("sign", color, Form(text=text.replace(".", "1")), 72 / 128))
            assert np.abs(sign - empty).max() > 90
        assert sum(abs(a - b) for a, b in zip(ink(color), COLORS[color], strict=True)) > 150


@pytest.mark.parametrize(
    ("part", "options"),
    [("head", HEADS), ("top", TOPS), ("body", BODIES), ("feet", FEET), ("face", tuple(COLORS))],
)
def test_every_part_of_a_robot_shows(part: str, options: tuple[str, ...]):
    robot = Robot("round", "antenna", "box", "legs", "red")
    pictures = [
        render(with_thing("robot", "blue", Form(robot=replace(robot, **{part: option}))))
        for option in options
    ]
    for a, b in combinations(pictures, 2):
        assert (np.abs(a.astype(int) - b).max(axis=2) > 30).sum() > 20


def test_a_group_has_as_many_things_as_it_says():
    """The red sails of boats in a group do not touch: they are counted as patches."""
    from scipy.ndimage import label

    for count in (1, 2, 3):
        scene = replace(
            SCENE, things=(Thing("boat", "red", "middle", 0.4, form=Form(count=count)),), time="day"
        )
        red = COLORS["red"]
        picture = render(scene).astype(int)
        sails = (np.abs(picture - red).sum(axis=2) < 60) & silhouette(scene, scene.things[0])
        sizes = np.bincount(label(sails)[0].ravel())[1:]
        assert (sizes > 15).sum() == count


@pytest.mark.parametrize("style", STYLES)
def test_a_style_keeps_size_and_range(style: str):
    picture = render(with_thing("boat", "red", Form())).astype(np.float32)
    drawn = draw_in(style, picture)
    assert drawn.shape == picture.shape
    assert drawn.min() >= 0
    assert drawn.max() <= 255
    if style == "plain":
        assert np.array_equal(drawn, picture)


@pytest.mark.parametrize("style", COLORLESS)
def test_colorless_styles_show_the_outline_and_no_color(style: str):
    red, blue = (
        draw_in(style, render(with_thing("ball", color, Form())).astype(np.float32))
        for color in ("red", "blue")
    )
    spread = red.reshape(-1, 3) - red.reshape(-1, 3).mean(axis=1, keepdims=True)
    assert np.abs(spread - spread.mean(axis=0)).max() < 60  # one hue
    assert np.abs(red - blue).mean() < 8
    nothing = draw_in(style, render(SCENE).astype(np.float32))
    assert np.abs(red - nothing).mean() > 2


def test_pixels_are_blocks():
    drawn = draw_in("pixels", render(with_thing("boat", "red", Form())).astype(np.float32))
    assert np.array_equal(drawn, drawn[::4, ::4].repeat(4, 0).repeat(4, 1))
