"""Styles of drawing: a whole picture as a pencil drawing, a watercolor and the like."""

import numpy as np
from PIL import Image, ImageFilter

STYLES = ("plain", "pencil", "watercolour", "pixels", "comic", "blueprint")
"""How a scene can be drawn; "plain" is the scene as it is."""
COLORLESS = ("pencil", "blueprint")
"""Styles in which no color can be told."""

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)
BLOCK = 4
"""Side of a block of the style "pixels", in pixels."""


def draw_in(style: str, picture: np.ndarray) -> np.ndarray:
    """The picture in a style: float32 [H, W, 3] in 0..255 in and out.

    Raises:
        KeyError: there is no such style.
    """
    return _DRAW[style](picture)


def _edges(picture: np.ndarray, radius: float) -> np.ndarray:
    """How steeply the smoothed picture changes: float32 [H, W]."""
    smooth = _filtered(picture, ImageFilter.GaussianBlur(radius))
    down, right = np.gradient(smooth, axis=(0, 1))
    steep: np.ndarray = np.sqrt((down**2 + right**2).sum(axis=2))
    return steep


def _filtered(picture: np.ndarray, by: ImageFilter.Filter) -> np.ndarray:
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(by)
    return np.asarray(image, np.float32)


def _levels(picture: np.ndarray, count: int) -> np.ndarray:
    """Every channel rounded to so many levels."""
    step = 255 / (count - 1)
    return np.rint(picture / step) * step


def _plain(picture: np.ndarray) -> np.ndarray:
    return picture


def _pencil(picture: np.ndarray) -> np.ndarray:
    """Gray lines and a light shading on paper."""
    lines = np.clip(_edges(picture, 0.7) * 2.6, 0, 190)
    shading = (255 - picture @ _GRAY) * 0.2
    paper = np.array([250, 247, 238], np.float32)
    return np.clip(paper - (lines + shading)[..., None], 0, 255)


def _watercolor(picture: np.ndarray) -> np.ndarray:
    """Flat washes, thinned with water, that dry darker at their edges."""
    wash = _filtered(picture, ImageFilter.ModeFilter(5))
    wash = _filtered(wash, ImageFilter.GaussianBlur(0.5))
    rim = np.clip(_edges(wash, 1.2) * 1.1, 0, 46)[..., None]
    return np.clip(wash * 0.66 + 84 - rim, 0, 255)


def _pixels(picture: np.ndarray) -> np.ndarray:
    """Large blocks in few colors."""
    height, width = picture.shape[0] // BLOCK, picture.shape[1] // BLOCK
    blocks = picture[: height * BLOCK, : width * BLOCK]
    blocks = blocks.reshape(height, BLOCK, width, BLOCK, 3).mean(axis=(1, 3))
    large = _levels(blocks, 6).repeat(BLOCK, 0).repeat(BLOCK, 1)
    missing = [(0, picture.shape[i] - large.shape[i]) for i in (0, 1)]
    return np.pad(large, (*missing, (0, 0)), mode="edge")


def _comic(picture: np.ndarray) -> np.ndarray:
    """Bright flat colors inside black lines."""
    gray = (picture @ _GRAY)[..., None]
    flat = _levels(np.clip(gray + 1.45 * (picture - gray), 0, 255), 4)
    line = np.clip((_edges(picture, 0.6) - 14) / 14, 0, 1)[..., None]
    return flat * (1 - line)


def _blueprint(picture: np.ndarray) -> np.ndarray:
    """White lines on blue."""
    line = np.clip(_edges(picture, 0.7) / 42, 0, 1)[..., None]
    blue = np.array([26, 74, 150], np.float32) + (picture @ _GRAY)[..., None] * 0.1
    return blue * (1 - line) + np.array([236, 243, 250], np.float32) * line


_DRAW = {
    "plain": _plain,
    "pencil": _pencil,
    "watercolour": _watercolor,
    "pixels": _pixels,
    "comic": _comic,
    "blueprint": _blueprint,
}
