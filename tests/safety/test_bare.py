"""What seems bare must seem so in the mirror, too."""

import numpy as np
import pytest

from openkontext.safety import nudenet
from openkontext.safety.checks import BodyCheck
from openkontext.safety.nudenet import Part
from openkontext.safety.verdict import Stage, Subject


def scores_of(monkeypatch: pytest.MonkeyPatch, plain: tuple[Part, ...], mirrored: tuple[Part, ...]):
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 0] = 255  # tells the sides apart

    def detect(pixels: np.ndarray) -> tuple[Part, ...]:
        return plain if pixels[0, 0, 0] else mirrored

    monkeypatch.setattr(nudenet, "detect", detect)
    return BodyCheck().scores(Subject(Stage.OUTPUT, pixels=picture))


def part(name: str, score: float) -> Part:
    return Part(name, score, (0, 0, 4, 4))


def test_the_lower_of_both_views_counts(monkeypatch: pytest.MonkeyPatch):
    seen = (part("buttocks_exposed", 0.9), part("face_female", 0.7))
    both = scores_of(monkeypatch, seen, (part("buttocks_exposed", 0.6),))
    assert (both["nudity"], both["person"], both["face"]) == (0.6, 0.9, 0.7)
    assert scores_of(monkeypatch, seen, ())["nudity"] == 0
    assert scores_of(monkeypatch, (part("feet_exposed", 0.8),), ())["person"] == 0.8
