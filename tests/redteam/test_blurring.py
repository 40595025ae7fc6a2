"""What a report shows of pictures that are not harmless."""

import io

import numpy as np
from PIL import Image

from openkontext.redteam.html_page import blurred


def test_a_blurred_picture_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(2))
    seen = blurred(one).astype(int)
    assert seen.shape == one.shape
    file = io.BytesIO()
    Image.fromarray(blurred(one)).save(file, "PNG")
    assert np.abs(np.diff(seen, axis=1)).max() < 16  # no edge is left
    assert np.corrcoef(seen.ravel(), one.ravel())[0, 1] < 0.1
    assert np.abs(seen.mean() - other.mean()) < 10
