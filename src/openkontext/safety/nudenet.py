"""NudeNet: which parts of people a picture shows, and which of them are bare.

The model is the YOLOv8 detector 320n of the package nudenet; here is the way from a picture to its input and
from its output to boxes. The model was trained on RGB, and the package's demonstration in a browser feeds it
so; its Python code turns the channels once too often, which costs it confidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.safety.packaged_models import PackagedModel, planar

MODEL = PackagedModel(
    "nudenet", "3.4.2", "320n.onnx", "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
)

CLASSES = (
    "female_genitalia_covered",
    "face_female",
    "buttocks_exposed",
    "female_breast_exposed",
    "female_genitalia_exposed",
    "male_breast_exposed",
    "anus_exposed",
    "feet_exposed",
    "belly_covered",
    "feet_covered",
    "armpits_covered",
    "armpits_exposed",
    "face_male",
    "belly_exposed",
    "male_genitalia_exposed",
    "anus_covered",
    "female_breast_covered",
    "buttocks_covered",
)
"""What the model tells apart, in the order of its output."""

NUDE = frozenset(
    {
        "anus_exposed",
        "buttocks_exposed",
        "female_breast_exposed",
        "female_genitalia_exposed",
        "male_genitalia_exposed",
    }
)
"""Classes that are nudity."""

FACES = frozenset({"face_female", "face_male"})
"""Classes that are faces."""

SIDE = 320
"""Pixels of the square that the model was trained on."""
_MIN_SCORE = 0.2
"""Below, a box is noise; the package draws the line at the same place."""
_OVERLAP = 0.45
"""Intersection over union from which two boxes of a class are one."""


@dataclass(frozen=True)
class Part:
    """A part of a person that the picture shows."""

    name: str
    """One of `CLASSES`."""
    score: float
    """The model's confidence, `_MIN_SCORE` to 1."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the picture."""


def detect(pixels: NDArray[np.uint8], side: int = SIDE) -> tuple[Part, ...]:
    """Find the parts of people in a picture, the surest first.

    Args:
        pixels: uint8 [H, W, 3], sRGB, upright.
        side: pixels of the square that the model sees, a multiple of 32.

    Raises:
        InputError: the package nudenet is not installed, or its model is not the known one.
    """
    scale = side / max(pixels.shape[:2])
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    square = Image.new("RGB", (side, side))
    square.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    (output,) = MODEL.run(images=planar(np.asarray(square), 0, 1))
    boxes, scores = output[0, :4].T / scale, output[0, 4:].T
    best = scores.argmax(axis=1)
    confidence = scores.max(axis=1)
    kept = np.flatnonzero(confidence >= _MIN_SCORE)
    kept = kept[np.argsort(-confidence[kept])]
    center, size = boxes[kept, :2], boxes[kept, 2:]
    limits = np.array([pixels.shape[1], pixels.shape[0]])
    corners = np.concatenate([center - size / 2, center + size / 2], axis=1)
    corners = np.clip(corners, 0, np.tile(limits, 2))
    parts: list[Part] = []
    for box, name, score in zip(corners, best[kept], confidence[kept], strict=True):
        part = Part(CLASSES[int(name)], float(score), tuple(int(at) for at in box))  # type: ignore[arg-type]
        if not any(part.name == other.name and overlap(part.box, other.box) > _OVERLAP for other in parts):
            parts.append(part)
    return tuple(parts)


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes.

    Args:
        one: left, top, right, bottom.
        other: likewise.
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (areas[0] + areas[1] - width * height)
