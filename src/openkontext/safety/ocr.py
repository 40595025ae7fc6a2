"""Text in a picture: PP-OCRv6 finds lines and reads them.

The models are those of the package rapidocr. The detector says for each pixel how likely it lies in a line of
text (DB, arXiv 1911.08947); lines are the connected areas above a threshold, as rectangles at any angle. Each
is cut out, laid flat and read by the recognizer, whose output is the characters with repetitions and blanks
(CTC). It reads Latin, Chinese and Japanese writing; Cyrillic, Arabic and others it does not.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.safety.packaged_models import PackagedModel, planar

Float = NDArray[np.float32]

DETECTOR = PackagedModel(
    "rapidocr",
    "3.10.0",
    "models/PP-OCRv6_det_small.onnx",
    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
)
RECOGNIZER = PackagedModel(
    "rapidocr",
    "3.10.0",
    "models/PP-OCRv6_rec_small.onnx",
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)

MAX_LINES = 24
"""Lines that are read, the largest first: more would take longer than an edit should wait."""

_MAX_SIDE = 640
"""Pixels of the longer side in which lines are looked for."""
_MIN_SIDE = 192
"""Pixels to which the longer side of a small picture is enlarged: letters of 8 pixels are missed otherwise.
256 found no more in pictures of 128 and takes twice as long."""
_STRIDE = 32
"""Pixels that the detector's sides are multiples of."""
_THRESHOLD = 0.3
"""Likelihood from which a pixel belongs to a line."""
_MIN_LINE = 0.5
"""Mean likelihood from which an area is a line."""
_MIN_EDGE = 3
"""Pixels of the detector's picture below which an area is too thin for a line."""
_GROWTH = 1.6
"""The detector marks the core of a line: its edges are moved out by area * this / perimeter."""
_LINE_HEIGHT = 48
"""Pixels of a line as the recognizer reads it."""
_MAX_WIDTH = 1600
"""Pixels of the longest line as the recognizer reads it."""
_MIN_CONFIDENCE = 0.5
"""Mean confidence of its characters from which what was read is text."""
_UPSIDE_DOWN = 0.9
"""Mean confidence below which a line is also tried upside down."""


@dataclass(frozen=True)
class Line:
    """A line of text."""

    text: str
    """What it says."""
    confidence: float
    """Mean over its characters, 0 to 1."""
    corners: tuple[tuple[float, float], ...]
    """x, y in pixels of the picture: left top, right top, right bottom, left bottom, as one reads it."""


@dataclass(frozen=True)
class ReadText:
    """The text of a picture."""

    lines: tuple[Line, ...]
    """From top to bottom."""
    unread: int
    """Lines beyond `MAX_LINES`."""


def read(pixels: NDArray[np.uint8]) -> ReadText:
    """Read the text in a picture.

    Args:
        pixels: uint8 [H, W, 3], sRGB, upright.

    Raises:
        InputError: the package rapidocr is not installed, or a model is not the known one.
    """
    image = Image.fromarray(pixels)
    rectangles = _find(image)
    rectangles.sort(key=lambda corners: -_size(corners)[0] * _size(corners)[1])
    kept = sorted(rectangles[:MAX_LINES], key=lambda corners: float(corners[:, 1].min()))
    lines = []
    for corners in kept:
        text, confidence, corners = _read_line(image, corners)
        if text and confidence >= _MIN_CONFIDENCE:
            places = tuple((float(x), float(y)) for x, y in corners)
            lines.append(Line(text, confidence, places))
    return ReadText(tuple(lines), max(0, len(rectangles) - MAX_LINES))


def _find(image: Image.Image) -> list[Float]:
    """Rectangles [4, 2] of the lines of a picture: corners as x, y, clockwise from the left top."""
    scale = np.clip(1.0, _MIN_SIDE / max(image.size), _MAX_SIDE / max(image.size))
    width, height = (max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    (output,) = DETECTOR.run(x=planar(np.asarray(resized)[..., ::-1], 0.5, 0.5))  # trained on BGR
    likelihood: Float = output[0, 0]
    stretch = np.array([image.width / width, image.height / height], np.float32)
    found = []
    for ys, xs in _areas(likelihood > _THRESHOLD):
        if float(likelihood[ys, xs].mean()) < _MIN_LINE:
            continue
        corners = _rectangle(ys, xs)
        if corners is not None:
            found.append(corners * stretch)
    return found


def _areas(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Connected areas of a mask [H, W], as the rows and columns of their pixels; corners connect, too."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, here = int(first[row - 1]), int(first[row])
        while above < first[row] and here < first[row + 1]:
            if starts[above] <= ends[here] and starts[here] <= ends[above]:
                parent[root(here)] = root(above)
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    groups: dict[int, list[int]] = {}
    for run in range(len(rows)):
        groups.setdefault(root(run), []).append(run)
    areas = []
    for runs in groups.values():
        ys = np.repeat(rows[runs], ends[runs] - starts[runs])
        xs = np.concatenate([np.arange(starts[run], ends[run]) for run in runs])
        areas.append((ys, xs))
    return areas


def _rectangle(ys: NDArray[np.intp], xs: NDArray[np.intp]) -> Float | None:
    """The rectangle around an area along its axes, grown to the whole line; None where it is too thin."""
    points = np.stack([xs, ys], axis=1).astype(np.float64)
    center = points.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(points.T) if len(points) > 1 else np.eye(2))
    along = axes[:, 1] if values[1] > 2 * values[0] else np.array([1.0, 0.0])  # a square has no direction
    if abs(along[0]) >= abs(along[1]):
        along = along if along[0] > 0 else -along
    else:
        along = along if along[1] > 0 else -along  # a column is read downwards
    down = np.array([-along[1], along[0]])
    low = np.array([((points - center) @ axis).min() for axis in (along, down)]) - 0.5
    high = np.array([((points - center) @ axis).max() for axis in (along, down)]) + 0.5
    width, height = high - low
    if min(width, height) < _MIN_EDGE:
        return None
    growth = width * height * _GROWTH / (2 * (width + height))
    low, high = low - growth, high + growth
    middle = center + 0.5
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    return np.array([middle + x * along + y * down for x, y in corners], np.float32)


def _size(corners: Float) -> tuple[float, float]:
    """Width and height of a rectangle [4, 2], in pixels."""
    return float(np.linalg.norm(corners[1] - corners[0])), float(np.linalg.norm(corners[3] - corners[0]))


def _read_line(image: Image.Image, corners: Float) -> tuple[str, float, Float]:
    """Text and confidence of a line, and its corners as it was read: perhaps from the other end."""
    text, confidence = _recognize(image, corners)
    if confidence < _UPSIDE_DOWN:
        turned = np.roll(corners, 2, axis=0)
        other, surer = _recognize(image, turned)
        if surer > confidence:
            return other, surer, turned
    return text, confidence, corners


def _recognize(image: Image.Image, corners: Float) -> tuple[str, float]:
    """What a line says, and the mean confidence of its characters."""
    width, height = _size(corners)
    size = (int(np.clip(round(_LINE_HEIGHT * width / height), _LINE_HEIGHT, _MAX_WIDTH)), _LINE_HEIGHT)
    left_top, right_top, right_bottom, left_bottom = (tuple(map(float, corner)) for corner in corners)
    # Pillow takes the corners from the left top against the clock.
    quad = (*left_top, *left_bottom, *right_bottom, *right_top)
    flat = image.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    (output,) = RECOGNIZER.run(x=planar(np.asarray(flat)[..., ::-1], 0.5, 0.5))
    best, sure = output[0].argmax(axis=1), output[0].max(axis=1)
    # CTC: the same output twice is one character; 0 is the blank between two.
    kept = (best != 0) & np.diff(best, prepend=0).astype(bool)
    if not kept.any():
        return "", 0.0
    characters = _characters()
    return "".join(characters[number] for number in best[kept]).strip(), float(sure[kept].mean())


@lru_cache(maxsize=1)
def _characters() -> tuple[str, ...]:
    """What the recognizer's outputs stand for: blank, the characters that its file lists, space."""
    listed = RECOGNIZER.session().get_modelmeta().custom_metadata_map["character"]
    return ("", *listed.split("\n"), " ")
