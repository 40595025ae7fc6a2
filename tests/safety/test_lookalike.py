"""Drawings and round things are no nudity, and NudeNet's harmless parts of people stay what they are."""

import colorsys
import io
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

from openkontext.safety import lookalike, nudenet
from openkontext.safety.checks import BodyCheck, TogetherCheck
from openkontext.safety.nudenet import Part, detect
from openkontext.safety.policy import load_policy
from openkontext.safety.verdict import Stage, Subject

SIDE = 192
STRICT = load_policy("strict")


def scores(pixels: np.ndarray) -> dict[str, float]:
    return dict(BodyCheck().scores(Subject(Stage.OUTPUT, pixels=pixels)))


def hsv(hue: float, saturation: float = 0.8, value: float = 0.95) -> tuple[int, ...]:
    return tuple(int(255 * each) for each in colorsys.hsv_to_rgb(hue, saturation, value))


def box(size: float, x: float = 0.5, y: float = 0.5) -> tuple[float, ...]:
    return tuple(SIDE * each for each in (x - size / 2, y - size / 2, x + size / 2, y + size / 2))


def flat(size: float, hue: float, ground: str = "white", hole: float = 0.0, x: float = 0.5) -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(image).ellipse(box(size, x), hsv(hue))
    if hole:
        ImageDraw.Draw(image).ellipse(box(size * hole, x), "white")
    return np.asarray(image)


def ball(
    size: float,
    hue: float,
    *,
    tall: float = 1.0,
    grain: float = 0.0,
    ground: int = 235,
    at: tuple[float, ...] = (0.5,),
) -> np.ndarray:
    """Lambert's shading and a highlight, light from the upper left."""
    picture = np.full((SIDE, SIDE, 3), ground, float)
    for middle in at:
        y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        x, y = (x - middle * SIDE) / (SIDE * size / 2), (y - SIDE / 2) / (SIDE * size / 2 * tall)
        light = np.clip(-0.4 * x - 0.5 * y + 0.77 * np.sqrt(np.clip(1 - x * x - y * y, 0, 1)), 0, 1)
        shaded = np.array(hsv(hue)) * (0.25 + 0.75 * light)[..., None] + 160 * (light**30)[..., None]
        shaded *= 1 + grain * np.random.default_rng(0).standard_normal((SIDE, SIDE, 1))
        picture = np.where((x * x + y * y < 1)[..., None], shaded, picture)
    return np.clip(picture, 0, 255).astype(np.uint8)


def wheel(size: float) -> np.ndarray:
    y, x = (np.mgrid[0:SIDE, 0:SIDE] + 0.5 - SIDE / 2) / (SIDE * size / 2)
    hue = (np.arctan2(y, x) / (2 * np.pi) + 1) % 1
    values = np.stack([hue, np.clip(np.hypot(x, y), 0, 1), np.ones_like(hue)], axis=2)
    colors = np.asarray(Image.fromarray((values * 255).astype(np.uint8), "HSV").convert("RGB"))
    return np.where((np.hypot(x, y) < 1)[..., None], colors, np.uint8(255))


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def soft(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))


DRAWINGS = {
    **{f"disc {size} {hue}": flat(size, hue) for size in (0.37, 0.62, 0.85) for hue in (0.03, 0.09, 0.61)},
    **{f"ring {size}": flat(size, 0.07, "navy", 0.3) for size in (0.4, 0.8)},
    **{f"ball {size} {hue}": ball(size, hue) for size in (0.36, 0.41, 0.7) for hue in (0.02, 0.08, 0.6)},
    **{f"orange {size}": ball(size, 0.08, grain=0.05) for size in (0.4, 0.65, 0.9)},
    **{f"egg {size}": ball(size, 0.09, tall=1.3) for size in (0.3, 0.45, 0.6)},
    **{f"moon {size}": ball(size, 0.14, ground=10) for size in (0.4, 0.8)},
    **{f"two balls {size}": ball(size, 0.06, at=(0.27, 0.73)) for size in (0.3, 0.42)},
    **{f"color wheel {size}": wheel(size) for size in (0.5, 0.75, 0.95)},
    **{f"disc as JPEG {quality}": jpeg(flat(0.4, 0.08), quality) for quality in (40, 75)},
    **{f"ball as JPEG {quality}": jpeg(ball(0.5, 0.05), quality) for quality in (40, 75)},
    "blurred ball": soft(ball(0.42, 0.07)),
    "blurred disc": soft(flat(0.42, 0.07)),
    "gray ball": np.asarray(Image.fromarray(ball(0.6, 0.07)).convert("L").convert("RGB")),
}


def test_drawings_and_round_things_are_no_nudity() -> None:
    taken = 0
    for name, picture in DRAWINGS.items():
        found = scores(picture)
        # Not for the strictest profile, nor where somebody was dressed before.
        for category in ("nudity", "sexual"):
            assert found[category] < (STRICT.threshold(category, Stage.OUTPUT) or 0), (name, found)
        dressed = Subject(Stage.OUTPUT, scores={Stage.INPUT: {"person": 0.9}, Stage.OUTPUT: found})
        assert TogetherCheck().scores(dressed)["ncii"] < 0.3, (name, found)
        taken += any(part.name in nudenet.NUDE and part.score > 0.4 for part in detect(picture))
    assert taken >= 10  # or these drawings would prove nothing


def test_a_ball_beside_somebody_or_in_their_place_is_no_undressing() -> None:
    astronaut = Image.fromarray(skimage.data.astronaut())
    before = scores(np.asarray(astronaut))
    assert before["person"] > 0.7
    for size, place in ((150, (350, 10)), (200, (300, 300)), (110, (5, 390))):
        thing = Image.fromarray(ball(0.98, 0.08, at=(0.5,))).resize((size, size))
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).ellipse((3, 3, size - 4, size - 4), 255)
        edited = astronaut.copy()
        edited.paste(thing, place, mask)
        for result in (np.asarray(edited), ball(0.4, 0.08)):
            subject = Subject(Stage.OUTPUT, scores={Stage.INPUT: before, Stage.OUTPUT: scores(result)})
            assert TogetherCheck().scores(subject)["ncii"] == 0


def test_photographs_of_nobody_stay_below() -> None:
    for name in ("coffee", "coins", "moon", "retina", "chelsea", "rocket"):
        photo = getattr(skimage.data, name)()
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo
        assert scores(photo)["nudity"] < 0.2, name


@pytest.mark.parametrize("name", ["astronaut", "camera"])
def test_parts_in_photographs_would_count_had_they_been_bare(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """There is no picture of nudity here: a face under the name of a bare part takes its way, alone."""

    def renamed(pixels: np.ndarray, side: int = nudenet.SIDE) -> tuple[Part, ...]:
        return tuple(
            replace(part, name="buttocks_exposed")
            for part in detect(pixels, side)
            if part.name in nudenet.FACES
        )

    photo = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    (face, *_) = detect(np.asarray(photo))
    left, top, right, bottom = face.box
    margin = (right - left) // 2
    close = photo.crop((left - margin, top - margin, right + margin, bottom + margin))
    changed = [
        view
        for view in (photo, close)
        for view in (
            view,
            view.convert("L").convert("RGB"),
            view.resize((view.width // 2, view.height // 2)),
            view.filter(ImageFilter.GaussianBlur(max(view.size) / 320)),
            view.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            Image.fromarray(jpeg(np.asarray(view), 40)),
        )
    ]
    for view in changed:
        pixels = np.asarray(view)
        for part in renamed(pixels):
            assert not lookalike.is_round(pixels, part.box)
            assert not lookalike.is_drawn(pixels, part.box)
    monkeypatch.setattr(nudenet, "detect", renamed)
    found = [
        view for view in changed if renamed(np.asarray(view)) and renamed(np.asarray(view))[0].score > 0.45
    ]
    counted = sum(scores(np.asarray(view))["nudity"] > 0.4 for view in found)
    assert len(found) >= 4
    assert counted >= 0.8 * len(found)  # the rest is lost in the mirror or in the smaller picture


def test_a_photograph_in_a_round_frame_is_no_round_thing() -> None:
    for name, (x, y), radius in (
        ("astronaut", (225, 130), 75),
        ("chelsea", (230, 120), 90),
        ("coffee", (300, 200), 60),
    ):
        photo = getattr(skimage.data, name)()
        down, across = np.mgrid[0 : photo.shape[0], 0 : photo.shape[1]]
        framed = np.where((np.hypot(across - x, down - y) < radius)[..., None], photo, np.uint8(255))
        around = (x - radius, y - radius, x + radius, y + radius)
        assert not lookalike.is_round(framed, around), name
        flat_disc = np.full_like(photo, 90)
        flat_disc[np.hypot(across - x, down - y) >= radius] = 255
        assert lookalike.is_round(flat_disc, around)
