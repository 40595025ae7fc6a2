"""What can be measured of any output: how much changed, where, and how near to a reference it came.

Differences are mean absolute differences over channels, as shares of full scale.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.evaluation.measures import grown, scaled
from openkontext.images.fitting import Pixels

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

CHANGED = 0.1
"""Difference above which a pixel counts as changed: an autoencoder's round trip seldom makes so much."""
ASKED = 0.05
"""Difference between before and after above which a pixel was to change: more than a JPEG's noise."""
MARGIN = 5
"""Pixels by which the asked region is widened, for shadows and soft edges; as `Edit.region` has it."""
LEAST_OUTSIDE = 0.01
"""Share of the picture that must be meant to stay for its change to be measured."""

_WINDOW = 7
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Measure:
    """How a measure is named and written."""

    title: str
    what: str
    """In a sentence."""
    format: str
    """As for `str.format`."""
    higher_is_better: bool | None
    """None where neither is."""


MEASURES = {
    "changed": Measure(
        "changed", "share of pixels that differ from the input by more than 0.1", "{:.0%}", None
    ),
    "outside": Measure(
        "change outside", "mean difference from the input where nothing was to change", "{:.3f}", False
    ),
    "ssim_input": Measure("SSIM, input", "structural similarity to the input, 1 where equal", "{:.3f}", None),
    "psnr": Measure("PSNR", "against the reference, in dB", "{:.1f}", True),
    "ssim": Measure("SSIM", "structural similarity to the reference, 1 where equal", "{:.3f}", True),
    "clip_input": Measure("CLIP, input", "cosine of the CLIP embeddings of output and input", "{:.3f}", None),
    "clip_reference": Measure(
        "CLIP, reference", "cosine of the CLIP embeddings of output and reference", "{:.3f}", True
    ),
    "aesthetic": Measure(
        "aesthetic", "LAION's predictor of how people rate a picture, 1 to 10", "{:.2f}", True
    ),
}
"""By the name that a case can ask for and a report uses."""


class Pictured(Protocol):
    """What of a case is measured."""

    @property
    def before(self) -> Pixels:
        """The picture to edit."""

    @property
    def reference(self) -> Pixels | None:
        """The picture as asked, where it is known."""

    @property
    def may_change(self) -> Mask | None:
        """Where the picture may change, of its size; None where that is not known."""

    @property
    def wanted(self) -> Collection[str] | None:
        """Names of the measures to take; None for all that can be."""


class Embeds(Protocol):
    """Whatever embeds pictures as `openkontext.evaluation.embedding.Clip` does."""

    def embed(self, picture: Pixels) -> NDArray[np.float32]:
        """A picture -> its embedding, of length 1."""

    def aesthetic(self, embedding: NDArray[np.float32]) -> float | None:
        """The score of an embedding; None where there is no predictor."""


def measure(case: Pictured, output: Pixels, clip: Embeds | None = None) -> dict[str, float]:
    """Measure an output.

    Args:
        case: what was asked.
        output: uint8 [height, width, 3]; brought to the size of what it is compared with.
        clip: embeds pictures; None to leave out what needs it.

    Returns:
        By name, one of `MEASURES`: what can be measured of this case, and is wanted.
    """
    before, reference, may_change = case.before, case.reference, case.may_change
    here = resized(output, before)
    apart = np.abs(scaled(here) - scaled(before)).mean(axis=2)
    found = {"changed": float((apart > CHANGED).mean()), "ssim_input": ssim(here, before)}
    if may_change is None and reference is not None and reference.shape == before.shape:
        may_change = asked_region(before, reference)
    if may_change is not None and (outside := ~may_change).mean() >= LEAST_OUTSIDE:
        found["outside"] = float(apart[outside].mean())
    if reference is not None:
        there = resized(output, reference)
        found["psnr"] = min(psnr(there, reference), 99.0)
        found["ssim"] = ssim(there, reference)
    if clip is not None:
        embedding = clip.embed(output)
        found["clip_input"] = float(embedding @ clip.embed(before))
        if reference is not None:
            found["clip_reference"] = float(embedding @ clip.embed(reference))
        if (score := clip.aesthetic(embedding)) is not None:
            found["aesthetic"] = score
    return {
        name: round(value, 5) for name, value in found.items() if case.wanted is None or name in case.wanted
    }


def resized(picture: Pixels, like: Pixels) -> Pixels:
    """A picture at the size of another."""
    height, width = like.shape[:2]
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def asked_region(before: Pixels, after: Pixels) -> Mask:
    """Where two pictures of one size differ, widened: [height, width]."""
    differs: Mask = np.abs(scaled(after) - scaled(before)).mean(axis=2) > ASKED
    return grown(differs, MARGIN)


def psnr(picture: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB; infinite where they are equal."""
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(picture: Pixels, reference: Pixels) -> float:
    """Structural similarity of 8-bit pictures [H, W, 3], mean over channels.

    Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 13 (2004), with windows of 7x7 equal weights inside the picture
    and the unbiased covariance, as scikit-image has it.
    """
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _box(x), _box(y)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_x = unbiased * (_box(x * x) - mean_x**2)
    var_y = unbiased * (_box(y * y) - mean_y**2)
    both = unbiased * (_box(x * y) - mean_x * mean_y)
    top = (2 * mean_x * mean_y + _C1) * (2 * both + _C2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))))


def _box(x: Float) -> Float:
    """Mean over every window inside a picture [H, W, 3]."""
    for axis in (0, 1):
        total = np.cumsum(x, axis=axis)
        start = np.zeros_like(np.take(total, [0], axis=axis))
        padded = np.concatenate((start, total), axis=axis)
        size = padded.shape[axis]
        ends = np.take(padded, range(_WINDOW, size), axis=axis)
        x = (ends - np.take(padded, range(size - _WINDOW), axis=axis)) / _WINDOW
    return x
