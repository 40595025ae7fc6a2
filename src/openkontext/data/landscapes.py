"""Six landscapes, in three seasons, at three times of day."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from openkontext.data.palette import RGB, mix

_OVERSAMPLING = 3


@dataclass(frozen=True)
class TimeOfDay:
    """Light of the sky, and on everything below it."""

    sky_top: RGB
    sky_bottom: RGB
    light: tuple[float, float, float]
    """Factors on red, green and blue of all that is lit."""


TIMES: dict[str, TimeOfDay] = {
    "day": TimeOfDay((84, 160, 236), (206, 232, 250), (1.0, 1.0, 1.0)),
    "sunset": TimeOfDay((106, 74, 152), (255, 168, 92), (1.0, 0.8, 0.7)),
    "night": TimeOfDay((10, 16, 50), (48, 62, 116), (0.5, 0.56, 0.78)),
}

SEASONS = ("summer", "autumn", "winter")

_SNOW: RGB = (240, 244, 250)


@dataclass(frozen=True)
class _Ground:
    """Colors of a landscape in summer, and how far autumn and winter take them."""

    near: RGB
    far: RGB
    autumn: RGB
    autumn_share: float


_GROUNDS: dict[str, _Ground] = {
    "meadow": _Ground((110, 190, 80), (66, 148, 74), (206, 140, 52), 0.75),
    "forest": _Ground((76, 138, 66), (30, 92, 56), (196, 104, 40), 0.75),
    "mountains": _Ground((126, 176, 96), (118, 130, 156), (190, 146, 74), 0.7),
    "beach": _Ground((244, 220, 160), (44, 150, 206), (206, 166, 108), 0.6),
    "desert": _Ground((238, 178, 98), (214, 136, 74), (186, 108, 66), 0.6),
    "city": _Ground((138, 140, 148), (112, 122, 152), (170, 118, 76), 0.6),
}
LANDSCAPES = tuple(_GROUNDS)


def _ridge(
    rng: np.random.Generator, width: int, height: int, base: float, rise: float, waves: float
) -> list[tuple[float, float]]:
    """A rolling outline from the left edge to the right, closed along the bottom."""
    x = np.linspace(0, 1, 48)
    phase = rng.uniform(0, 2 * np.pi, 2)
    y = base - rise * (
        0.6 * np.sin(waves * np.pi * x + phase[0]) + 0.4 * np.sin(2.3 * waves * np.pi * x + phase[1])
    )
    line = [(float(a * width), float(b * height)) for a, b in zip(x, y, strict=True)]
    return [(0.0, float(height)), *line, (float(width), float(height))]


def _seasoned(color: RGB, ground: _Ground, season: str, share: float = 1.0) -> RGB:
    if season == "autumn":
        return mix(color, ground.autumn, ground.autumn_share * share)
    if season == "winter":
        return mix(color, _SNOW, 0.86 * share)
    return color


def _sky(width: int, height: int, time: str, rng: np.random.Generator) -> Image.Image:
    light = TIMES[time]
    share = np.linspace(0, 1.5, height, dtype=np.float32).clip(0, 1)[:, None, None]
    column = (
        np.array(light.sky_top, np.float32) * (1 - share) + np.array(light.sky_bottom, np.float32) * share
    )
    sky = Image.fromarray(np.broadcast_to(column, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(sky)
    x, unit = rng.uniform(0.3, 0.7) * width, min(width, height)
    if time == "night":
        for _ in range(26):
            sx, sy, r = rng.uniform(0, width), rng.uniform(0, 0.5 * height), rng.uniform(0.004, 0.008) * unit
            draw.ellipse([sx - r, sy - r, sx + r, sy + r], fill=(226, 230, 250))
        _disc(draw, x, 0.3 * height, 0.055 * unit, (246, 242, 214))
    elif time == "sunset":
        _disc(draw, x, 0.46 * height, 0.12 * unit, (255, 236, 150))
    else:
        for _ in range(3):
            cx, cy = rng.uniform(0.05, 0.95) * width, rng.uniform(0.08, 0.36) * height
            for dx, r in ((-0.07, 0.035), (0.0, 0.05), (0.07, 0.035)):
                _disc(draw, cx + dx * unit, cy - (r - 0.035) * unit, r * unit, (250, 252, 255))
    return sky


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: RGB) -> None:
    draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _far_hills(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    draw.polygon(
        _ridge(rng, w, h, 0.54, 0.05, 2.0), fill=_seasoned(mix(g.far, (150, 190, 220), 0.35), g, season, 0.8)
    )
    draw.polygon(_ridge(rng, w, h, 0.6, 0.04, 2.6), fill=_seasoned(g.far, g, season, 0.9))


def _pines(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    unit = min(w, h)
    draw.polygon(_ridge(rng, w, h, 0.57, 0.015, 3.0), fill=_seasoned(g.far, g, season))
    for i in range(9):
        x = (i + rng.uniform(0.2, 0.8)) / 9 * w
        tall, half = rng.uniform(0.2, 0.3) * unit, 0.065 * unit
        color = _seasoned(mix(g.far, (12, 60, 40), rng.uniform(0, 0.5)), g, season, 0.85)
        foot = 0.64 * h
        for level in range(3):
            top = foot - tall + level * tall * 0.25
            spread = half * (0.6 + 0.2 * level)
            draw.polygon(
                [(x, top), (x + spread, top + tall * 0.5), (x - spread, top + tall * 0.5)], fill=color
            )


def _peaks(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    for x0, tall in ((0.12, 0.26), (0.86, 0.3), (0.48, 0.36)):
        x, top = (x0 + rng.uniform(-0.06, 0.06)) * w, (0.64 - tall - rng.uniform(0, 0.05)) * h
        foot, half = 0.68 * h, 0.34 * w
        rock = _seasoned(g.far, g, season, 0.45)
        draw.polygon([(x, top), (x + half, foot), (x - half, foot)], fill=rock)
        draw.polygon([(x, top), (x + half, foot), (x + half * 0.2, foot)], fill=mix(rock, (40, 44, 70), 0.22))
        cap = 0.3
        y = top + cap * (foot - top)
        draw.polygon(
            [(x, top), (x + half * cap, y), (x + half * 0.08, y - 0.02 * h), (x - half * cap, y)], fill=_SNOW
        )


def _sea(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    draw.rectangle([0, 0.5 * h, w, h], fill=_seasoned(g.far, g, season, 0.35))
    for i in range(7):
        x, y = rng.uniform(0, 0.9) * w, (0.525 + 0.018 * i) * h
        draw.rectangle([x, y, x + 0.14 * w, y + 0.009 * h], fill=mix(g.far, (255, 255, 255), 0.5))


def _dunes(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    draw.polygon(_ridge(rng, w, h, 0.56, 0.06, 1.4), fill=_seasoned(mix(g.far, g.near, 0.35), g, season, 0.9))
    draw.polygon(_ridge(rng, w, h, 0.62, 0.04, 2.2), fill=_seasoned(g.far, g, season))


def _skyline(
    draw: ImageDraw.ImageDraw, w: int, h: int, g: _Ground, season: str, rng: np.random.Generator
) -> None:
    x = -0.02
    while x < 1:
        wide, tall = rng.uniform(0.1, 0.17), rng.uniform(0.16, 0.36)
        wall = mix(
            g.far,
            ((170, 120, 110), (90, 110, 150), (150, 150, 160))[int(rng.integers(3))],
            rng.uniform(0.2, 0.9),
        )
        top = (0.68 - tall) * h
        draw.rectangle([x * w, top, (x + wide) * w, 0.68 * h], fill=_seasoned(wall, g, season, 0.25))
        if season == "winter":
            draw.rectangle([x * w, top, (x + wide) * w, top + 0.025 * h], fill=_SNOW)
        for row in np.arange(top + 0.05 * h, 0.62 * h, 0.075 * h):
            for column in (0.2, 0.6):
                left = (x + wide * column) * w
                draw.rectangle([left, row, left + wide * 0.22 * w, row + 0.034 * h], fill=(252, 226, 140))
        x += wide


_BACKDROPS = {
    "meadow": _far_hills,
    "forest": _pines,
    "mountains": _peaks,
    "beach": _sea,
    "desert": _dunes,
    "city": _skyline,
}


def _weather(picture: Image.Image, season: str, rng: np.random.Generator) -> None:
    """Falling snow in winter, leaves on the ground in autumn."""
    draw = ImageDraw.Draw(picture)
    w, h = picture.size
    unit = min(w, h)
    if season == "winter":
        for _ in range(36):
            _disc(
                draw, rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.008, 0.013) * unit, (250, 252, 255)
            )
    elif season == "autumn":
        for _ in range(30):
            x, y, r = rng.uniform(0, w), rng.uniform(0.7, 1.0) * h, rng.uniform(0.01, 0.018) * unit
            draw.ellipse(
                [x - 1.5 * r, y - r, x + 1.5 * r, y + r],
                fill=((204, 84, 34), (226, 150, 40))[int(rng.integers(2))],
            )


@lru_cache(maxsize=256)
def draw_landscape(
    landscape: str, season: str, time: str, width: int, height: int, detail: int
) -> np.ndarray:
    """Draw a landscape without things.

    Args:
        landscape: one of LANDSCAPES.
        season: one of SEASONS.
        time: one of TIMES.
        width: picture width in pixels.
        height: picture height in pixels.
        detail: seed of the incidental detail; the same in every season and at every time.

    Returns:
        float32 [height, width, 3] in 0..255, shared between calls: copy before writing.
    """
    ground = _GROUNDS[landscape]
    w, h = width * _OVERSAMPLING, height * _OVERSAMPLING
    # The sky and the land draw from streams of their own, so that a change of one leaves the other where it
    # is.
    sky = _sky(w, h, time, np.random.default_rng([detail, 1]))
    land = Image.new("RGBA", (w, h))
    draw = ImageDraw.Draw(land)
    rng = np.random.default_rng([detail, 2])
    _BACKDROPS[landscape](draw, w, h, ground, season, rng)
    draw.polygon(_ridge(rng, w, h, 0.68, 0.012, 2.0), fill=_seasoned(ground.near, ground, season))
    if landscape == "city":
        for x in np.arange(0.04, 1, 0.24):
            draw.rectangle([x * w, 0.925 * h, (x + 0.12) * w, 0.945 * h], fill=(240, 240, 236))

    lit = np.asarray(land, np.float32)
    opacity = lit[..., 3:] / 255
    # The foreground grows darker towards the viewer.
    depth = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    lit = lit[..., :3] * np.array(TIMES[time].light, np.float32) * (1.06 - 0.16 * depth)
    picture = np.asarray(sky, np.float32) * (1 - opacity) + lit * opacity
    whole = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    _weather(whole, season, np.random.default_rng([detail, 3]))
    return np.asarray(whole.filter(ImageFilter.GaussianBlur(0.8)).reduce(_OVERSAMPLING), np.float32)
