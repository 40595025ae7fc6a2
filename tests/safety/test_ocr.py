"""Text that we write into pictures is read from them."""

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from openkontext.safety.ocr import MAX_LINES, read


def written(
    text: str,
    size: tuple[int, int] = (256, 128),
    pixels: int = 24,
    turned: float = 0,
    colors: str = "black white",
) -> np.ndarray:
    """A picture with a text in it, uint8 [H, W, 3]."""
    ink, paper = colors.split()
    image = Image.new("RGB", size, paper)
    font = ImageFont.load_default(pixels)
    ImageDraw.Draw(image).multiline_text((8, 8), text, fill=ink, font=font)
    return np.asarray(image.rotate(turned, expand=True, fillcolor=paper))


def texts(picture: np.ndarray) -> list[str]:
    return [line.text for line in read(picture).lines]


@pytest.mark.parametrize("colors", ["black white", "yellow navy", "white black"])
def test_reads_lines_from_top_to_bottom(colors: str) -> None:
    picture = written("Hello world\nsecond line 42", colors=colors)
    assert texts(picture) == ["Hello world", "second line 42"]


@pytest.mark.parametrize("turned", [12, -20, 90, 180, 270])
def test_reads_turned_text(turned: float) -> None:
    assert texts(written("Hello world again", turned=turned)) == ["Hello world again"]


def test_reads_small_letters_in_a_picture_of_nanos_size() -> None:
    assert texts(written("make it night", (128, 128), pixels=10)) == ["make it night"]


def test_says_where_a_line_is() -> None:
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[150:278, 100:356] = written("somewhere")
    (line,) = read(picture).lines
    corners = np.array(line.corners)
    ink = np.argwhere(picture[..., 0] < 128)[:, ::-1]
    assert (corners.min(axis=0) < ink.min(axis=0) + 2).all()
    assert (corners.max(axis=0) > ink.max(axis=0) - 2).all()
    assert np.ptp(corners, axis=0)[1] < 60


@pytest.mark.parametrize("name", ["chelsea", "astronaut", "rocket"])
def test_reads_no_words_where_none_are(name: str) -> None:
    # A sign of a letter or two on a spacesuit may be read; a word of four letters or more would be made up.
    assert not [text for text in texts(getattr(skimage.data, name)()) if len(text) >= 4]


def test_reads_nothing_in_an_empty_picture() -> None:
    assert read(np.full((128, 128, 3), 90, np.uint8)) == read(np.zeros((16, 300, 3), np.uint8))


def test_reads_a_page() -> None:
    page = skimage.data.page()
    found = " ".join(texts(np.stack([page] * 3, axis=-1)))
    for words in ("Region-based segmentation", "determine markers of the coins", "two extreme parts of the"):
        assert words in found


def test_says_how_many_lines_it_left_unread() -> None:
    many = "\n".join(f"line number {number}" for number in range(MAX_LINES + 6))
    found = read(written(many, (300, 640), pixels=14))
    assert len(found.lines) == MAX_LINES
    assert found.unread == 6
