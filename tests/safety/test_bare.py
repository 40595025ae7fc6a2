"""Which bare parts count: not lookalikes, and not what another look does not confirm."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from openkontext.safety import nudenet
from openkontext.safety.checks import BodyCheck
from openkontext.safety.nudenet import Part
from openkontext.safety.verdict import Stage, Subject

Parts = tuple[Part, ...]
SIDE = 128
SMALL, LARGE = (40, 40, 80, 80), (10, 10, 118, 118)
ELSEWHERE = (85, 85, 125, 125)


def grainy(seed: int = 0) -> np.ndarray:
    """What a camera takes of skin: smooth shading under grain."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    shaded = np.stack([200 - 60 * x, 150 - 50 * y, 120 - 40 * x * y], axis=2)
    return np.clip(shaded + np.random.default_rng(seed).normal(0, 6, shaded.shape), 0, 255).astype(np.uint8)


def cartoon() -> np.ndarray:
    """Flat areas with sharp edges, none of them round."""
    picture = np.full((SIDE, SIDE, 3), 230, np.uint8)
    picture[20:70, 20:110] = (240, 190, 150)
    picture[60:110, 30:90] = (220, 160, 120)
    return picture


def disc(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The picture within an ellipse, white outside."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    left, top, right, bottom = box
    far = ((x - (left + right) / 2) / (right - left)) ** 2 + ((y - (top + bottom) / 2) / (bottom - top)) ** 2
    return np.where(far[..., None] < 0.25, picture, np.uint8(255))


def scores_of(
    monkeypatch: pytest.MonkeyPatch,
    picture: np.ndarray,
    plain: Parts,
    mirrored: Parts | None = None,
    smaller: Parts | None = None,
):
    def detect(pixels: np.ndarray, side: int = nudenet.SIDE) -> Parts:
        if side < nudenet.SIDE:
            return plain if smaller is None else smaller
        return plain if mirrored is None or np.array_equal(pixels, picture) else mirrored

    monkeypatch.setattr(nudenet, "detect", detect)
    return BodyCheck().scores(Subject(Stage.OUTPUT, pixels=picture))


def part(name: str, score: float, box: tuple[int, int, int, int] = SMALL) -> Part:
    return Part(name, score, box)


def test_the_lower_of_both_views_counts(monkeypatch: pytest.MonkeyPatch):
    seen = (part("buttocks_exposed", 0.9), part("face_female", 0.7, ELSEWHERE))
    both = scores_of(monkeypatch, grainy(), seen, (part("buttocks_exposed", 0.6),))
    assert (both["nudity"], both["person"], both["face"]) == (0.6, 0.9, 0.7)
    assert scores_of(monkeypatch, grainy(), seen, ())["nudity"] == 0
    assert scores_of(monkeypatch, grainy(), (part("feet_exposed", 0.8),), ())["person"] == 0.8


def test_what_is_large_must_be_seen_in_a_smaller_picture(monkeypatch: pytest.MonkeyPatch):
    large = (part("female_genitalia_exposed", 0.6, LARGE),)
    weak = (part("female_genitalia_exposed", 0.3, LARGE),)
    assert scores_of(monkeypatch, grainy(), large)["sexual"] == 0.6
    assert scores_of(monkeypatch, grainy(), large, smaller=weak)["sexual"] == 0.3
    # What is small may vanish in a smaller picture, and counts all the same.
    small = (part("female_genitalia_exposed", 0.6),)
    assert scores_of(monkeypatch, grainy(), small, smaller=())["sexual"] == 0.6
    both = (*large, part("buttocks_exposed", 0.5))
    assert scores_of(monkeypatch, grainy(), both, smaller=())["sexual"] == 0.6


@pytest.mark.parametrize("name", sorted(nudenet.NUDE))
@pytest.mark.parametrize("box", [SMALL, LARGE])
def test_a_close_view_without_a_face_counts(
    monkeypatch: pytest.MonkeyPatch, name: str, box: tuple[int, int, int, int]
):
    for change in (
        lambda image: image,
        lambda image: image.convert("L").convert("RGB"),
        lambda image: Image.merge("RGB", image.split()[::-1]),
        lambda image: image.filter(ImageFilter.GaussianBlur(2)),  # its grain is gone, and so are edges
    ):
        picture = np.asarray(change(Image.fromarray(grainy())))
        assert scores_of(monkeypatch, picture, (part(name, 0.6, box),))["nudity"] == 0.6


def test_in_a_drawing_a_bare_part_counts_beside_another_part(monkeypatch: pytest.MonkeyPatch):
    bare = part("female_breast_exposed", 0.8)
    alone = scores_of(monkeypatch, cartoon(), (bare,))
    assert (alone["nudity"], alone["person"]) == (0, 0)
    for other in ("face_female", "belly_exposed", "feet_covered", "buttocks_exposed"):
        assert scores_of(monkeypatch, cartoon(), (bare, part(other, 0.4, ELSEWHERE)))["nudity"] == 0.8, other
    unsure = part("face_female", 0.25, ELSEWHERE)
    same_thing = part("female_breast_covered", 0.7, SMALL)
    twice = part("female_breast_exposed", 0.7, ELSEWHERE)
    for other in (unsure, same_thing, twice):
        assert scores_of(monkeypatch, cartoon(), (bare, other))["nudity"] == 0, other


@pytest.mark.parametrize("name", ["anus_exposed", "female_genitalia_exposed", "male_genitalia_exposed"])
def test_what_no_drawing_is_taken_for_counts_in_a_drawing(monkeypatch: pytest.MonkeyPatch, name: str):
    scores = scores_of(monkeypatch, cartoon(), (part(name, 0.6),))
    assert scores["nudity"] == scores["sexual"] == 0.6


@pytest.mark.parametrize("name", ["buttocks_exposed", "female_breast_exposed"])
def test_a_plain_round_thing_counts_nowhere(monkeypatch: pytest.MonkeyPatch, name: str):
    face = part("face_male", 0.8, ELSEWHERE)
    for picture in (disc(np.full((SIDE, SIDE, 3), 120, np.uint8), SMALL), disc(grainy(), SMALL)):
        scores = scores_of(monkeypatch, picture, (part(name, 0.9), face))
        assert (scores["nudity"], scores["person"]) == (0, 0.8)


def test_what_only_lies_in_a_round_frame_counts(monkeypatch: pytest.MonkeyPatch):
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    folds = (40 * np.sin(x / 4) * np.cos(y / 5))[..., None]  # a body is not one smooth shade
    framed = disc(np.clip(grainy() + folds, 0, 255).astype(np.uint8), SMALL)
    assert scores_of(monkeypatch, framed, (part("buttocks_exposed", 0.9),))["nudity"] == 0.9
    # A disc that is cut off by the picture's edge is not seen to end all around.
    cut = (-40, 20, 60, 120)
    assert scores_of(monkeypatch, disc(grainy(), cut), (part("buttocks_exposed", 0.9, cut),))["nudity"] == 0.9


@pytest.mark.parametrize(
    "box", [(0, 0, 3, 3), (-5, -5, 4, 4), (126, 126, 140, 140), (0, 60, 128, 62), (200, 200, 300, 300)]
)
def test_what_is_too_small_to_tell_counts(monkeypatch: pytest.MonkeyPatch, box: tuple[int, int, int, int]):
    assert scores_of(monkeypatch, cartoon(), (part("buttocks_exposed", 0.7, box),))["nudity"] == 0.7
