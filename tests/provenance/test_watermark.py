"""The invisible mark: hardly to be seen, read after common changes, and not found where there is none."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import write_tiny_repository

import openkontext
from openkontext import images
from openkontext.cli import main
from openkontext.provenance import verify
from openkontext.provenance.watermark import detect, embed

Pixels = NDArray[np.uint8]
DIGEST = "deadbeef" * 8


@pytest.fixture(scope="module")
def photo() -> Pixels:
    data = pytest.importorskip("skimage.data")
    return np.asarray(data.chelsea())


def test_the_mark_is_hardly_to_be_seen(photo: Pixels) -> None:
    marked = embed(photo, DIGEST)
    assert (marked.shape, marked.dtype) == (photo.shape, np.uint8)
    error = ((marked.astype(float) - photo) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 42
    assert np.abs(marked.astype(int) - photo).max() <= 12
    assert detect(marked) == "deadbeef"


def through(pixels: Pixels, kind: str, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=quality)
    return images.load(buffer.getvalue()).pixels


def test_it_is_read_after_common_changes(photo: Pixels) -> None:
    marked = embed(photo, DIGEST)
    height, width = marked.shape[:2]
    half = np.asarray(Image.fromarray(marked).resize((width // 2, height // 2)))
    noise = np.random.default_rng(1).normal(0, 5, marked.shape)
    changed = {
        "jpeg": through(marked, "JPEG", 50),
        "webp": through(marked, "WEBP", 75),
        "half": half,
        "half, then jpeg": through(half, "JPEG", 70),
        "double": np.asarray(Image.fromarray(marked).resize((2 * width, 2 * height))),
        "another aspect": np.asarray(Image.fromarray(marked).resize((width, height * 5 // 4))),
        "noise": np.clip(marked + noise, 0, 255).astype(np.uint8),
    }
    assert {what: detect(pixels) for what, pixels in changed.items()} == dict.fromkeys(changed, "deadbeef")


def test_marking_again_changes_nothing_and_another_model_takes_over(photo: Pixels) -> None:
    marked = embed(photo, DIGEST)
    again = embed(marked, DIGEST)
    assert np.abs(again.astype(int) - marked).max() <= 1
    assert detect(embed(marked, "0badcafe" * 8)) == "0badcafe"


@pytest.mark.parametrize("shape", [(16, 16), (16, 320), (61, 47), (500, 30)])
def test_any_shape_can_be_marked(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert embed(pixels, DIGEST).shape == pixels.shape


def test_there_is_no_mark_by_chance(photo: Pixels) -> None:
    draw = np.random.default_rng(4)
    for _ in range(40):
        side = int(draw.integers(16, 200))
        assert detect(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) is None
    for value in (0, 17, 255):
        assert detect(np.full((64, 64, 3), value, np.uint8)) is None
    for cut in range(0, 40, 10):
        assert detect(photo[cut:, cut:]) is None


def test_a_stripped_picture_still_tells_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photo: Pixels
) -> None:
    editor = openkontext.load(write_tiny_repository(tmp_path / "tiny"))
    result = editor.edit(photo, "make it red", mask_image=_square(photo), seed=1)
    plain, marked = images.load(result.encode()).pixels, images.load(result.encode(watermark=True)).pixels
    assert detect(plain) is None
    assert detect(marked) == editor.digest[:8]
    monkeypatch.setenv("OPENKONTEXT_WATERMARK", "1")
    assert verify(result.encode()).watermark == editor.digest[:8]
    np.testing.assert_array_equal(images.load(result.encode(watermark=False)).pixels, plain)
    stripped = tmp_path / "stripped.jpg"
    images.save(stripped, marked)
    report = verify(stripped)
    assert (report.signed, report.valid, report.watermark) == (False, False, editor.digest[:8])
    assert main(["verify", str(stripped)]) == 2
    assert f"a model whose digest begins {editor.digest[:8]}" in capsys.readouterr().out


def _square(photo: Pixels) -> Pixels:
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[64:128, 64:128] = 255
    return mask
