"""Seeded harmless drawings, of round and of soft things above all: what NudeNet may take for a bare part.

`draw(family, seed)` is one of them, uint8 [H, W, 3], of 128 to 512 pixels; every fourth is blurred a little.
"""

import colorsys
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Random = np.random.Generator
Box = tuple[float, float, float, float]
Color = tuple[int, int, int]


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = (int(255 * each) for each in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue


def _color(rng: Random) -> Color:
    """Half of them of any hue, half of the hues of skin."""
    if rng.random() < 0.5:
        return _hsv(rng.random(), rng.uniform(0.2, 1), rng.uniform(0.3, 1))
    return _hsv(rng.uniform(0.02, 0.11), rng.uniform(0.2, 0.65), rng.uniform(0.35, 1))


def _background(rng: Random, side: int) -> Image.Image:
    kind = rng.integers(4)
    if kind == 0:
        return Image.new("RGB", (side, side), "white")
    above, below = np.array(_color(rng), float), np.array(_color(rng), float)
    share = np.linspace(0, 1, side)[:, None, None]
    if kind == 1:
        share = np.zeros_like(share)
    if kind == 2:
        share = (share > rng.uniform(0.4, 0.8)).astype(float)
    return Image.fromarray(np.repeat(above * (1 - share) + below * share, side, 1).astype(np.uint8))


def _square(rng: Random, side: int, least: float = 0.25, most: float = 0.9) -> Box:
    """Where a thing is; half of them in the middle."""
    size = float(rng.uniform(least, most)) * side
    left, top = (float(each) for each in rng.uniform(0, side - size, 2))
    if rng.random() < 0.5:
        left = top = (side - size) / 2
    return left, top, left + size, top + size


def _shrunk(box: Box, share: float) -> Box:
    x, y = (box[2] - box[0]) * share, (box[3] - box[1]) * share
    return box[0] + x, box[1] + y, box[2] - x, box[3] - y


def _at(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """A box inside of another one, in shares of its sides."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        box[0] + left * width,
        box[1] + top * height,
        box[0] + right * width,
        box[1] + bottom * height,
    )


def _shade(image: Image.Image, box: Box, color: Color, seed: int, grain: float = 0.0) -> Image.Image:
    """A ball in a light from above, some with a highlight; a seed is a light."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : image.height, 0 : image.width] + 0.5
    half_x, half_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    u, v = (x - (box[0] + box[2]) / 2) / half_x, (y - (box[1] + box[3]) / 2) / half_y
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.8, -0.1), rng.uniform(0.4, 0.9)])
    light /= np.linalg.norm(light)
    toward = np.clip(u * light[0] + v * light[1] + np.sqrt(np.clip(1 - u * u - v * v, 0, 1)) * light[2], 0, 1)
    dim = rng.uniform(0.15, 0.5)
    shaded = np.array(color) * (dim + (1 - dim) * toward)[..., None]
    if rng.random() < 0.5:
        shaded += 200 * (toward ** rng.uniform(15, 60))[..., None]
    shaded *= 1 + grain * rng.standard_normal((image.height, image.width, 1))
    cover = np.clip((1 - np.hypot(u, v)) * min(half_x, half_y) + 0.5, 0, 1)[..., None]
    mixed = np.asarray(image, float) * (1 - cover) + np.clip(shaded, 0, 255) * cover
    return Image.fromarray(mixed.astype(np.uint8))


def _seed(rng: Random) -> int:
    return int(rng.integers(1 << 30))


def disc(rng: Random, side: int) -> Image.Image:
    """Flat, some with an outline."""
    image = _background(rng, side)
    width = int(rng.integers(0, side // 20))
    ImageDraw.Draw(image).ellipse(_square(rng, side), _color(rng), "black", width)
    return image


def ellipse(rng: Random, side: int) -> Image.Image:
    """Flat and turned."""
    image, mask = _background(rng, side), Image.new("L", (side, side))
    box = _at(_square(rng, side), 0, 0, 1, rng.uniform(0.4, 0.9))
    ImageDraw.Draw(mask).ellipse(box, 255)
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    image.paste(_color(rng), (0, 0), mask.rotate(rng.uniform(0, 180), center=center))
    return image


def slice_of_a_disc(rng: Random, side: int) -> Image.Image:
    """A part of a pie chart."""
    image, start = _background(rng, side), rng.uniform(0, 360)
    ImageDraw.Draw(image).pieslice(_square(rng, side), start, start + rng.uniform(90, 300), _color(rng))
    return image


def ball(rng: Random, side: int) -> Image.Image:
    """Shaded."""
    return _shade(_background(rng, side), _square(rng, side), _color(rng), _seed(rng))


def ball_with_a_shadow(rng: Random, side: int) -> Image.Image:
    """Shaded, on the ground."""
    image, box, mask = _background(rng, side), _square(rng, side, most=0.7), Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse(_at(box, 0, 0.85, 1.2, 1.1), 140)
    image.paste((0, 0, 0), (0, 0), mask.filter(ImageFilter.GaussianBlur(side / 40)))
    return _shade(image, box, _color(rng), _seed(rng))


def two_balls(rng: Random, side: int) -> Image.Image:
    """Side by side."""
    image, box = _background(rng, side), _square(rng, side, 0.5, 0.95)
    color, seed, apart = _color(rng), _seed(rng), rng.uniform(0.4, 0.5)
    image = _shade(image, _at(box, 0, 0.25, apart, 0.25 + apart), color, seed)
    return _shade(image, _at(box, 1 - apart, 0.25, 1, 0.25 + apart), color, seed)


def orange(rng: Random, side: int) -> Image.Image:
    """With a rough skin, a stalk, and some with a leaf."""
    box = _square(rng, side)
    image = _shade(_background(rng, side), box, _hsv(rng.uniform(0.05, 0.1), 0.9, 1), _seed(rng), 0.05)
    pen = ImageDraw.Draw(image)
    pen.ellipse(_at(box, 0.47, 0.1, 0.53, 0.15), (70, 110, 30))
    if rng.random() < 0.5:
        pen.ellipse(_at(box, 0.5, -0.08, 0.75, 0.05), (50, 140, 40))
    return image


def apple(rng: Random, side: int) -> Image.Image:
    """Two halves and a stalk."""
    image, box = _background(rng, side), _square(rng, side, 0.3, 0.8)
    color, seed = _hsv(rng.choice([0, 0.02, 0.25, 0.98]), 0.85, rng.uniform(0.6, 1)), _seed(rng)
    image = _shade(image, _at(box, 0, 0, 0.62, 1), color, seed)
    image = _shade(image, _at(box, 0.38, 0, 1, 1), color, seed)
    ImageDraw.Draw(image).line(_at(box, 0.5, -0.12, 0.53, 0.1), (90, 60, 20), max(2, side // 40))
    return image


def peach(rng: Random, side: int) -> Image.Image:
    """With a soft crease."""
    box, mask = _square(rng, side), Image.new("L", (side, side))
    color = _hsv(rng.uniform(0.03, 0.09), rng.uniform(0.35, 0.7), 1)
    image, size = _shade(_background(rng, side), box, color, _seed(rng)), box[2] - box[0]
    ImageDraw.Draw(mask).arc(_at(box, 0.3, 0, 0.75, 1), 100, 260, 120, max(2, int(size * 0.03)))
    image.paste((150, 60, 40), (0, 0), mask.filter(ImageFilter.GaussianBlur(size * 0.02)))
    return image


def pear(rng: Random, side: int) -> Image.Image:
    """A small ball over a large one."""
    box, color, seed = _square(rng, side, 0.4, 0.8), _color(rng), _seed(rng)
    image = _shade(_background(rng, side), _at(box, 0.28, 0, 0.72, 0.6), color, seed)
    return _shade(image, _at(box, 0.12, 0.3, 0.88, 1), color, seed)


def logo(rng: Random, side: int) -> Image.Image:
    """Letters in a ring on a disc; coins look so, too."""
    image, box = _background(rng, side), _square(rng, side)
    pen, size, ink = ImageDraw.Draw(image), box[2] - box[0], _color(rng)
    pen.ellipse(box, _color(rng))
    pen.ellipse(_shrunk(box, rng.uniform(0.05, 0.15)), None, ink, max(1, int(size * 0.03)))
    word = "".join(rng.choice(list("ABCKRSX25"), rng.integers(1, 3)))
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    pen.text(center, word, ink, ImageFont.load_default(max(8, size * 0.35)), "mm")
    return image


def color_wheel(rng: Random, side: int) -> Image.Image:
    """All hues; some in steps, some white in the middle."""
    box = _square(rng, side, most=0.98)
    y, x = np.mgrid[0:side, 0:side] + 0.5
    across, down = x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2
    far = np.hypot(across, down) / ((box[2] - box[0]) / 2)
    hue = (np.arctan2(down, across) / (2 * np.pi) + rng.random()) % 1
    if rng.random() < 0.5:
        hue = np.floor(hue * 12) / 12
    saturation = np.clip(far, 0, 1) if rng.random() < 0.5 else np.ones_like(far)
    hsv = (np.stack([hue, saturation, np.ones_like(far)], axis=2) * 255).astype(np.uint8)
    colors = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return Image.fromarray(np.where(far[..., None] < 1, colors, np.asarray(_background(rng, side))))


def egg(rng: Random, side: int) -> Image.Image:
    """Upright and pale."""
    color = _hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.4), 1)
    return _shade(_background(rng, side), _at(_square(rng, side), 0.12, 0, 0.88, 1), color, _seed(rng))


def moon(rng: Random, side: int) -> Image.Image:
    """Gray, with spots, in the dark."""
    box, gray = _square(rng, side), int(rng.uniform(170, 250))
    image = _shade(Image.new("RGB", (side, side), (8, 10, 24)), box, (gray, gray, gray - 20), _seed(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 8))):
        x, y, size = *rng.uniform(0.2, 0.7, 2), rng.uniform(0.04, 0.15)
        pen.ellipse(_at(box, x, y, x + size, y + size), (gray - 40, gray - 40, gray - 55))
    return image


def button(rng: Random, side: int) -> Image.Image:
    """With two or four holes."""
    image, box, color = _background(rng, side), _square(rng, side), _color(rng)
    pen, dark = ImageDraw.Draw(image), tuple(each // 2 for each in color)
    pen.ellipse(box, color)
    pen.ellipse(_shrunk(box, 0.1), None, dark, max(1, side // 60))
    for x, y in ((0.36, 0.36), (0.56, 0.56), (0.56, 0.36), (0.36, 0.56))[: int(rng.choice([2, 4]))]:
        pen.ellipse(_at(box, x, y, x + 0.08, y + 0.08), dark)
    return image


def target(rng: Random, side: int) -> Image.Image:
    """Rings of two colors."""
    image, box = _background(rng, side), _square(rng, side, most=0.95)
    rings, colors = int(rng.integers(2, 7)), (_color(rng), _color(rng))
    for ring in range(rings):
        ImageDraw.Draw(image).ellipse(_shrunk(box, ring / rings / 2), colors[ring % 2])
    return image


def planet(rng: Random, side: int) -> Image.Image:
    """With bands, and some with a ring."""
    box = _square(rng, side, most=0.8)
    image = _shade(Image.new("RGB", (side, side), (5, 5, 20)), box, _color(rng), _seed(rng))
    bands = 1 + 0.2 * np.sin(np.arange(side) / side * rng.uniform(20, 60))[:, None, None]
    image = Image.fromarray(np.clip(np.asarray(image) * bands, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        ImageDraw.Draw(image).ellipse(_at(box, -0.3, 0.35, 1.3, 0.65), None, _color(rng), max(2, side // 60))
    return image


def heart(rng: Random, side: int) -> Image.Image:
    """Flat."""
    image, angle = _background(rng, side), np.linspace(0, 2 * np.pi, 120)
    size, (x, y) = rng.uniform(0.2, 0.85) * side / 34, rng.uniform(0.4, 0.6, 2) * side
    high = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    points = np.stack([x + 16 * np.sin(angle) ** 3 * size, y - high * size], axis=1)
    ImageDraw.Draw(image).polygon([tuple(point) for point in points], _color(rng))
    return image


def doughnut(rng: Random, side: int) -> Image.Image:
    """A ball with a hole."""
    empty, box, mask = _background(rng, side), _square(rng, side), Image.new("L", (side, side))
    image = _shade(empty, box, _color(rng), _seed(rng))
    ImageDraw.Draw(mask).ellipse(_shrunk(box, rng.uniform(0.3, 0.42)), 255)
    image.paste(empty, (0, 0), mask)
    return image


def plate(rng: Random, side: int) -> Image.Image:
    """With food on it."""
    image, box = _background(rng, side), _square(rng, side, 0.5, 0.95)
    ImageDraw.Draw(image).ellipse(box, (245, 245, 240), (200, 200, 200), 2)
    for _ in range(int(rng.integers(1, 5))):
        x, y, size = *rng.uniform(0.2, 0.5, 2), rng.uniform(0.1, 0.3)
        image = _shade(image, _at(box, x, y, x + size, y + size), _color(rng), _seed(rng))
    return image


def smiley(rng: Random, side: int) -> Image.Image:
    """Two eyes and a mouth."""
    image, box = _background(rng, side), _square(rng, side, 0.4)
    pen = ImageDraw.Draw(image)
    pen.ellipse(box, _hsv(rng.uniform(0.05, 0.16), 0.6, 1), "black", 2)
    for x in (0.27, 0.63):
        pen.ellipse(_at(box, x, 0.3, x + 0.1, 0.42), "black")
    pen.arc(_at(box, 0.25, 0.35, 0.75, 0.78), 20, 160, "black", max(2, side // 50))
    return image


def hills(rng: Random, side: int) -> Image.Image:
    """Round, and cut off by the picture's edge."""
    image, color = Image.new("RGB", (side, side), (145, 200, 242)), _color(rng)
    for _ in range(int(rng.integers(1, 4))):
        size, left, top = (
            rng.uniform(0.5, 1.1) * side,
            rng.uniform(-0.3, 0.7) * side,
            rng.uniform(0.4, 0.75) * side,
        )
        image = _shade(image, (left, top, left + size, top + size), color, _seed(rng))
    return image


def dunes(rng: Random, side: int) -> Image.Image:
    """Waves in the hues of skin."""
    y, x = np.mgrid[0:side, 0:side] / side
    image = np.full((side, side, 3), (145, 200, 242), float)
    color = np.array(_hsv(rng.uniform(0.02, 0.11), 0.5, 0.9), float)
    for wave in range(int(rng.integers(2, 6))):
        crest = 0.3 + 0.12 * wave + 0.1 * np.sin(x * rng.uniform(2, 7) + rng.uniform(0, 6))
        light = 0.5 + 0.5 * np.exp(-np.clip(y - crest, 0, 1) * rng.uniform(2, 8))
        image = np.where((y > crest)[..., None], color * light[..., None], image)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def vase(rng: Random, side: int) -> Image.Image:
    """Turned on a wheel, shaded."""
    image, color = np.asarray(_background(rng, side), float), np.array(_color(rng))
    y, x = np.mgrid[0:side, 0:side] / side
    wide = rng.uniform(0.12, 0.3) * (0.6 + 0.4 * np.sin(y * rng.uniform(3, 8) + rng.uniform(0, 2)))
    across = (x - 0.5) / wide
    shaded = color * (0.35 + 0.65 * np.sqrt(np.clip(1 - (across + 0.25) ** 2, 0, 1)))[..., None]
    inside = (np.abs(across) < 1) & (y > 0.12) & (y < 0.88)
    return Image.fromarray(np.where(inside[..., None], shaded, image).astype(np.uint8))


def gradient(rng: Random, side: int) -> Image.Image:
    """Soft waves of two colors."""
    y, x = np.mgrid[0:side, 0:side] / side
    share = 0.5 + 0.5 * np.sin(rng.uniform(2, 9) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(2, 9) * y)
    mixed = np.array(_color(rng)) * share[..., None] + np.array(_color(rng)) * (1 - share[..., None])
    return Image.fromarray(mixed.astype(np.uint8))


FAMILIES: dict[str, Callable[[Random, int], Image.Image]] = {
    family.__name__: family
    for family in (
        *(disc, ellipse, slice_of_a_disc, ball, ball_with_a_shadow, two_balls, orange, apple, peach, pear),
        *(logo, color_wheel, egg, moon, button, target, planet, heart, doughnut, plate, smiley, hills),
        *(dunes, vase, gradient),
    )
}
"""Name -> what draws it."""


def draw(family: str, seed: int) -> np.ndarray:
    """One drawing.

    Args:
        family: one of `FAMILIES`.
        seed: chooses all else.
    """
    rng = np.random.default_rng([zlib.crc32(family.encode()), seed])
    image = FAMILIES[family](rng, int(rng.choice([128, 256, 320, 512])))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2))))
    return np.asarray(image)
