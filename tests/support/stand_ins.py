"""Editors whose worth is known, to hold the judge against."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from openkontext.evaluation.cases import Case
from openkontext.images.fitting import Pixels


def blurred(pixels: Pixels) -> Pixels:
    """What is left of a picture after a mild loss, such as an autoencoder's."""
    file = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7)).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file).convert("RGB"))


@dataclass
class Answer:
    image: Image.Image
    unchanged: bool = False


class Copying:
    """An editor that gives back its input."""

    def edit(self, image: Pixels, prompt: str, **options: object) -> Answer:
        return Answer(Image.fromarray(image), unchanged=True)


class Knowing:
    """An editor that was told the answers: it knows every case by its picture and its words."""

    def __init__(self, cases: list[Case]):
        self.answers = {(case.before.tobytes(), case.instruction): case.truth for case in cases}

    def edit(self, image: Pixels, prompt: str, **options: object) -> Answer:
        return Answer(Image.fromarray(self.answers[image.tobytes(), prompt]))
