"""PDQ against what the pdqhash package, a binding of the authors' C++ reference, gives for the same."""

import numpy as np
import pytest
from PIL import Image

from openkontext.safety.known.pdq import DIHEDRAL, MATCH_DISTANCE, distance, pdq


def drawn(height: int, width: int, seed: int) -> np.ndarray:
    """Soft colored blobs, uint8 [height, width, 3]; the same on every machine."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    picture = np.zeros((height, width, 3))
    for _ in range(12):
        center_y, center_x, size = rng.random(3)
        blob = np.exp(-((y - center_y) ** 2 + (x - center_x) ** 2) / (0.01 + 0.05 * size))
        picture += blob[..., None] * rng.uniform(-200, 200, 3)
    return np.clip(picture + 110, 0, 255).astype(np.uint8)


# Height, width and seed of a drawing -> what pdqhash 0.2.8 gives for it: hash and quality.
REFERENCE = {
    (64, 64, 1): ("6d246d907d6ad3689964db20dda8d269b36c127872e46e9924eb4074f7f89b07", 50),
    (128, 128, 3): ("a2d892db9609512ba5b926e5049b124b44b9c32b4d942c97aab97dd2b363fdec", 64),
    (200, 333, 4): ("1d890dfcb31934dc3cc3199cb35931dc9cc398dc9ac9e6ccd0c3eccc8889b33e", 38),
    (512, 384, 5): ("6b649d93ba9a43750caed4557b5bac2d15f03bd0ec2e001d119eee625fd4118e", 30),
    (511, 130, 6): ("6494db6936d2ad2a5b55b6ca4934364deca26d5a57556c9aa22c55555555aaaa", 24),
    (5, 5, 8): ("398cc3f0c6733e0f64d99b2664d964d99b26c0f0398cc3f0c6733e0f64d99b26", 67),
    (4, 80, 9): ("00" * 32, 0),
}

TURNS = {
    "rotate90": Image.Transpose.ROTATE_90,
    "rotate180": Image.Transpose.ROTATE_180,
    "rotate270": Image.Transpose.ROTATE_270,
    "flipx": Image.Transpose.FLIP_TOP_BOTTOM,
    "flipy": Image.Transpose.FLIP_LEFT_RIGHT,
    "flipplus1": Image.Transpose.TRANSPOSE,
    "flipminus1": Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("size", REFERENCE)
def test_equals_the_reference(size: tuple[int, int, int]) -> None:
    hashed = pdq(drawn(*size))
    assert (hashed.hex, hashed.quality) == REFERENCE[size]


def test_a_large_picture_is_near_the_reference() -> None:
    # The reference's own tools bring pictures to 512 pixels in several ways; its authors call 10 bits
    # correct.
    expected = bytes.fromhex("873cc2e348f055124f33a863b8ce768be513a57200de4a4fd6abfff97f560004")
    hashed = pdq(drawn(900, 700, 7))
    assert distance(hashed.hash, expected) <= 10
    assert abs(hashed.quality - 64) <= 1


@pytest.mark.parametrize("turn", TURNS)
def test_dihedral_hashes_are_those_of_the_turned_picture(turn: str) -> None:
    # At 320 pixels the filter's window (3) and grid (every fifth pixel, from the third) are symmetric, so
    # that only rounding is left; at other sizes turning a picture moves its grid by up to a pixel.
    picture = drawn(320, 320, 11)
    turned = np.asarray(Image.fromarray(picture).transpose(TURNS[turn]))
    assert distance(pdq(picture).dihedral[DIHEDRAL.index(turn)], pdq(turned).hash) <= 2


def test_package_agrees_on_all_eight() -> None:
    pdqhash = pytest.importorskip("pdqhash", reason="has no wheel; it needs a compiler")
    for seed in range(20):
        picture = drawn(60 + 20 * seed, 500 - 10 * seed, seed)
        vectors, quality = pdqhash.compute_dihedral(picture)
        assert pdq(picture).quality == quality
        for expected, hashed in zip(vectors, pdq(picture).dihedral, strict=True):
            # Sums in another order: a frequency that lies on the median may fall on either side of it.
            assert distance(np.packbits(expected).tobytes(), hashed) <= 2


def test_different_pictures_are_far_apart() -> None:
    hashes = [pdq(drawn(128, 128, seed)).hash for seed in range(30)]
    nearest = min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i])
    assert nearest > 2 * MATCH_DISTANCE


def test_nothing_to_see_has_no_quality() -> None:
    assert pdq(np.full((200, 200, 3), 90, np.uint8)).quality == 0
