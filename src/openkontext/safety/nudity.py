"""Which of the bare parts that NudeNet sees count, and how sure it is of them when it looks again."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from openkontext.safety import lookalike, nudenet
from openkontext.safety.nudenet import Part

VERSION = "2"
"""Of the rule."""

GENITAL = frozenset({"anus_exposed", "female_genitalia_exposed", "male_genitalia_exposed"})
"""Classes that are sexual content."""

_ROUND = frozenset({"buttocks_exposed", "buttocks_covered", "female_breast_exposed"})
"""Classes that drawings and round things are taken for. Of 2820 drawings none was taken for genitals in both
views, so these count whatever they look like."""
_BESIDE = 0.3
"""Confidence in another part from which there is a body that a bare part may belong to."""
_SAME = 0.3
"""Intersection over union from which two boxes are of one thing."""
_LARGE = 0.45
"""Share of the picture's longer side from which a part must be seen in a smaller picture, too."""
_SMALLER = 224
"""Side of that picture, in place of `nudenet.SIDE`."""


def real_parts(pixels: NDArray[np.uint8], parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts without those that are round things, and without bare ones in a drawing that shows nobody else.

    Beside a face, or any other part elsewhere in the picture, a bare part in a drawing counts. A round thing
    counts nowhere.

    Args:
        pixels: uint8 [H, W, 3].
        parts: what NudeNet sees there.
    """
    real = [part for part in parts if part.name not in _ROUND or not lookalike.is_round(pixels, part.box)]
    return tuple(
        part
        for part in real
        if part.name not in _ROUND & nudenet.NUDE
        or any(_is_beside(part, other) for other in real)
        or not lookalike.is_drawn(pixels, part.box)
    )


def scores(pixels: NDArray[np.uint8], parts: Sequence[Part]) -> dict[str, float]:
    """Scores of nudity and sexual content.

    What seems bare must seem so in the mirror, and what is large must seem so in a smaller picture: the
    lowest of these scores counts.

    Args:
        pixels: uint8 [H, W, 3].
        parts: what NudeNet sees there, without lookalikes.
    """
    bare = [part for part in parts if part.name in nudenet.NUDE]
    if not bare:
        return {"nudity": 0.0, "sexual": 0.0}
    views = [nudenet.detect(np.ascontiguousarray(pixels[:, ::-1]))]
    if all(_is_large(part, pixels) for part in bare):
        views.append(nudenet.detect(pixels, _SMALLER))
    return {
        category: min(surest(seen, names) for seen in (bare, *views))
        for category, names in (("nudity", nudenet.NUDE), ("sexual", GENITAL))
    }


def surest(parts: Iterable[Part], names: Iterable[str] | None = None) -> float:
    """The highest confidence in a part; 0 where there is none.

    Args:
        parts: of a picture.
        names: classes that count; None for all.
    """
    return max((part.score for part in parts if names is None or part.name in names), default=0.0)


def _is_beside(part: Part, other: Part) -> bool:
    """Whether another part shows a body: one of another kind, and not the same thing seen twice."""
    return (
        other.name != part.name
        and other.name != "buttocks_covered"
        and other.score >= _BESIDE
        and nudenet.overlap(part.box, other.box) < _SAME
    )


def _is_large(part: Part, pixels: NDArray[np.uint8]) -> bool:
    left, top, right, bottom = part.box
    return max(right - left, bottom - top) >= _LARGE * max(pixels.shape[:2])
