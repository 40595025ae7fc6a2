import numpy as np
import pytest
from numpy.typing import NDArray

from openkontext import images
from openkontext.provenance import Ingredient, Record, sign


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """A picture of 40x24 without two equal regions."""
    return np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def record(*parents: bytes, **said: str) -> Record:
    ingredients = tuple(Ingredient.of(images.load(parent)) for parent in parents)
    return Record(model="nano", digest="ab" * 32, ingredients=ingredients, **said)


@pytest.fixture
def signed(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """The picture in each format, signed twice: made, and edited."""
    made = {
        kind: sign(images.encode(pixels, kind), kind, record()) for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    }
    return {kind: sign(images.encode(pixels, kind), kind, record(data)) for kind, data in made.items()}
