"""Scenes: equal scenes have equal pictures, and everything lies where the scene says."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES, draw_landscape
from openkontext.data.palette import COLORS
from openkontext.data.sampler import random_scene
from openkontext.data.scenes import LOOKS, SIZES, Scene, Thing, box_of, colored_area, render, silhouette
from openkontext.data.things import GROUND_THINGS, SHAPES, draw_thing, main_color_area

SCENE = Scene(144, 112, "city", "winter", "night", (Thing("cat", "orange", "middle", 0.32),), detail=5)


def digests(scenes: list[Scene]) -> str:
    return hashlib.sha256(b"".join(render(scene).tobytes() for scene in scenes)).hexdigest()


def test_another_process_draws_the_same_pictures():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(4)]
    program = (
        "import hashlib, numpy as np\n"
        "from openkontext.data.sampler import random_scene\n"
        "from openkontext.data.scenes import render\n"
        "scenes = [random_scene(np.random.default_rng(seed)) for seed in range(4)]\n"
        "print(hashlib.sha256(b''.join(render(s).tobytes() for s in scenes)).hexdigest())\n"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digests(scenes)


def test_drawing_does_not_write_into_what_is_cached():
    first = digests([SCENE])
    render(replace(SCENE, look="inverted"))
    assert digests([SCENE]) == first
    for cached in (draw_landscape, draw_thing, main_color_area):
        cached.cache_clear()
    assert digests([SCENE]) == first


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_have_the_asked_size(width: int, height: int):
    scene = replace(SCENE, width=width, height=height)
    assert render(scene).shape == (height, width, 3)
    assert render(scene).dtype == np.uint8
    assert width % 16 == height % 16 == 0  # whole tokens


def test_every_word_about_a_scene_shows():
    words = {"landscape": LANDSCAPES, "season": SEASONS, "time": tuple(TIMES), "look": LOOKS}
    pictures = [
        render(replace(SCENE, **{field: value}))
        for field, values in words.items()
        for value in values
        if value != getattr(SCENE, field)
    ]
    pictures += [render(replace(SCENE, detail=6)), render(replace(SCENE, things=())), render(SCENE)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 15


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_changes_the_picture_in_its_square_and_its_shadow_only(shape: str):
    place = "left" if shape in GROUND_THINGS else "sky right"
    thing = Thing(shape, "red", place, 0.3, dx=0.02, dy=-0.01)
    scene = replace(SCENE, time="day", things=(thing,))
    changed = (render(scene) != render(replace(scene, things=()))).any(axis=2)
    left, top, side = box_of(scene, thing)
    square = np.zeros_like(changed)
    square[max(top, 0) : top + side + side // 9, max(left, 0) : left + side] = True
    assert not (changed & ~square).any()
    outline = silhouette(scene, thing)
    assert outline.sum() > 0.2 * side**2
    assert (changed | ~outline).mean() > 0.999  # nothing within the outline is as it was
    area = colored_area(scene, thing)
    assert area.sum() > 0.06 * side**2
    assert not (area & ~outline).any()


@pytest.mark.parametrize("time", TIMES)
def test_colors_can_be_told_apart_in_any_light(time: str):
    ball = Thing("ball", "red", "middle", 0.32)
    means = []
    for color in COLORS:
        thing = replace(ball, color=color)
        scene = replace(SCENE, time=time, things=(thing,))
        means.append(render(scene)[colored_area(scene, thing)].mean(axis=0))
    distances = np.linalg.norm(np.array(means)[:, None] - np.array(means), axis=2)
    assert distances[~np.eye(len(means), dtype=bool)].min() > 30


def test_the_nearer_thing_covers_the_farther_one():
    near, far = Thing("box", "red", "middle", 0.4), Thing("box", "blue", "left", 0.4, dx=0.2)
    scene = Scene(96, 160, "meadow", "summer", "day", (near, far))
    both = silhouette(scene, near) & silhouette(scene, far)
    alone = replace(scene, things=(near,))
    assert both.sum() > 20
    inside = both & np.roll(both, 2, axis=1) & np.roll(both, -2, axis=1)  # edges are soft
    assert np.array_equal(render(scene)[inside], render(alone)[inside])
    assert np.array_equal(render(replace(scene, things=(far, near))), render(scene))
