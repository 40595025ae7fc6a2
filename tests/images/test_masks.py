"""One hole in many masks: however people make it, it is read as the same one."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openkontext import InputError
from openkontext.images import load_mask

SIZE = (60, 40)
HOLE = np.zeros((40, 60), np.uint8)
HOLE[10:20, 30:50] = 1
WHITE = HOLE * np.uint8(255)
PHOTO = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgba(colors: Any, opacity: np.ndarray) -> np.ndarray:
    picture = np.empty((40, 60, 4), np.uint8)
    picture[..., :3], picture[..., 3] = colors, opacity
    return picture


def palette(colors: list[int], **options: Any) -> bytes:
    image = Image.fromarray(HOLE, "P")
    image.putpalette(colors)
    return file(image, **options)


def upright(image: Image.Image) -> bytes:
    """Stored on its side, with an EXIF orientation that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


KEEP = 255 - WHITE
BRIGHTNESS: dict[str, Any] = {
    "file": file(Image.fromarray(WHITE)),
    "uint8": WHITE,
    "uint8 of 0 and 1": HOLE,
    "uint8 of 0 and 7": HOLE * 7,
    "bool": HOLE.astype(bool),
    "int64 of 0 and 1": HOLE.astype(np.int64),
    "int32 of 0 and 255": WHITE.astype(np.int32),
    "uint16 of 0 and 255": WHITE.astype(np.uint16),
    "uint16 of 0 and 65535": HOLE * np.uint16(65535),
    "float16": HOLE.astype(np.float16),
    "float64": HOLE.astype(np.float64),
    "floats a little beyond": HOLE * 1.0001,
    "float16 of 0 and 255": WHITE.astype(np.float16),
    "float64 of 0 and 200": HOLE * 200.0,
    "float [H, W, 4] of 0 and 255, opaque": np.stack(
        [WHITE * 1.0] * 3 + [np.full_like(WHITE, 255) * 1.0], axis=-1
    ),
    "mode F of 0 and 255": Image.fromarray(WHITE.astype(np.float32)),
    "[H, W, 1]": WHITE[..., None],
    "[1, H, W]": WHITE[None],
    "[1, 1, H, W] of floats": HOLE[None, None].astype(np.float32),
    "[H, W, 3]": np.stack([WHITE] * 3, axis=-1),
    "[3, H, W]": np.stack([WHITE] * 3),
    "float [H, W, 4], opaque": np.stack([HOLE * 1.0] * 3 + [np.ones_like(HOLE)], axis=-1),
    "red on black": np.stack([WHITE, 0 * WHITE, 0 * WHITE], axis=-1),
    "torch, bool [1, H, W]": torch.from_numpy(HOLE).bool()[None],
    "torch, float [1, 1, H, W]": torch.from_numpy(HOLE).float()[None, None],
    "mode 1": Image.fromarray(WHITE).convert("1"),
    "mode 1, file": file(Image.fromarray(WHITE).convert("1")),
    "mode L of 0 and 1": file(Image.fromarray(HOLE)),
    "mode LA, opaque": file(Image.merge("LA", [Image.fromarray(WHITE), Image.new("L", SIZE, 255)])),
    "mode RGBA, opaque": file(Image.fromarray(WHITE).convert("RGBA")),
    "mode RGBA, almost opaque": rgba(WHITE[..., None], np.where(HOLE, 254, 255)),
    "mode P": palette([0, 0, 0, 255, 255, 255]),
    "mode P, classes without colors": file(Image.fromarray(HOLE, "P")),
    "mode P, classes in color": palette([0, 0, 0, 128, 0, 0]),
    "mode I;16 of 0 and 1": file(Image.fromarray(HOLE.astype(np.uint16))),
    "mode I;16": file(Image.fromarray(HOLE * np.uint16(65535))),
    "mode I": Image.fromarray(WHITE.astype(np.int32)),
    "mode F": Image.fromarray(HOLE.astype(np.float32)),
    "TIFF": file(Image.fromarray(WHITE), "TIFF"),
    "on its side": upright(Image.fromarray(WHITE)),
}
TRANSPARENCY: dict[str, Any] = {
    "photo with a hole": file(Image.fromarray(rgba(PHOTO, KEEP))),
    "array": rgba(PHOTO, KEEP),
    "[4, H, W]": np.moveaxis(rgba(PHOTO, KEEP), -1, 0),
    "floats": rgba(PHOTO, KEEP) / 255,
    "opacity of 0 and 1": rgba(PHOTO, 1 - HOLE),
    "black": rgba(0, KEEP),
    "white": rgba(255, KEEP),
    "color left in the hole": rgba(WHITE[..., None], KEEP),
    "black and white say the other": rgba(KEEP[..., None], KEEP),
    "mode LA": file(Image.merge("LA", [Image.fromarray(PHOTO[..., 0]), Image.fromarray(KEEP)])),
    "mode P": palette([9, 9, 9, 200, 0, 0], transparency=1),
    "mode RGB with one transparent color": file(
        Image.fromarray(np.where(HOLE[..., None], np.uint8(3), PHOTO | 4)), transparency=(3, 3, 3)
    ),
    "WebP": file(Image.fromarray(rgba(PHOTO, KEEP)), "WEBP", lossless=True),
    "on its side": upright(Image.fromarray(rgba(PHOTO, KEEP))),
}


@pytest.mark.parametrize(
    ("source", "how", "part"),
    [
        *(pytest.param(mask, "brightness", "white", id=name) for name, mask in BRIGHTNESS.items()),
        *(pytest.param(mask, "transparency", "transparent", id=name) for name, mask in TRANSPARENCY.items()),
    ],
)
def test_the_hole_is_found_and_the_reading_told(source: Any, how: str, part: str) -> None:
    notes: list[str] = []
    mask = load_mask(source, SIZE, notes)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, HOLE)
    (note,) = notes
    assert note.startswith(f"the mask was read by its {how}")
    assert f"the {part} 8.3% of the picture may change" in note  # 200 of 2400 pixels


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_black_and_white_that_a_file_only_nearly_keeps(kind: str, quality: int) -> None:
    large = np.kron(WHITE, np.ones((8, 8), np.uint8))
    mask = load_mask(file(Image.fromarray(large), kind, quality=quality), (480, 320))
    away = np.kron(HOLE, np.ones((8, 8)))
    edges = np.pad(away, 8, mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(edges, (17, 17))
    assert not mask[views.max(axis=(2, 3)) == 0].any()
    assert (mask[views.min(axis=(2, 3)) == 1] == 1).all()


def test_what_lies_between_black_and_white_stays_between() -> None:
    ramp = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    np.testing.assert_array_equal(load_mask(ramp, SIZE), ramp)
    assert np.abs(load_mask(np.rint(ramp * 255).astype(np.uint8), SIZE) - ramp).max() <= 0.5 / 255 + 1e-6
    soft = rgba(PHOTO, np.rint(255 - ramp * 255))
    assert np.abs(load_mask(soft, SIZE) - ramp).max() <= 0.5 / 255 + 1e-6
    notes: list[str] = []
    assert np.abs(load_mask(ramp * np.float32(0.25), SIZE, notes) - ramp).max() < 1e-6
    assert "its brightest as white" in notes[0]


def test_a_mask_of_another_resolution_is_resized() -> None:
    notes: list[str] = []
    mask = np.zeros((40, 60), np.uint8)
    mask[:20] = 255
    loaded = load_mask(mask, (301, 200), notes)
    assert loaded.shape == (200, 301)
    assert loaded[:90].min() == 1
    assert loaded[110:].max() == 0
    assert notes[0] == "the mask of 60x40 was scaled to the picture's 301x200"


def nan(value: float) -> np.ndarray:
    floats = HOLE.astype(np.float32)
    floats[0, 0] = value
    return floats


class OnDevice:
    """Refuses as a tensor on a GPU does."""

    def __array__(self) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.full((60, 40), 255, np.uint8), "the mask is 40x60 and the picture 60x40; give both one shape"),
        (np.zeros((40, 60), np.uint8), "black everywhere; paint white what may change"),
        (np.zeros((40, 60), bool), "black everywhere"),
        (np.full((40, 60), 255, np.uint8), "white everywhere; paint black what must stay, or leave"),
        (np.ones((40, 60)), "white everywhere"),
        (np.ones((40, 60), np.uint8), "one gray everywhere; paint white"),
        (np.full((40, 60), 0.5), "one gray everywhere"),
        (Image.new("RGB", SIZE, (10, 20, 30)), "one gray everywhere"),
        (rgba(PHOTO, HOLE * 0), "transparent everywhere; make opaque what must stay, or leave the mask out"),
        (rgba(255, HOLE * 0 + 255), "white everywhere"),
        (nan(np.nan), "no numbers"),
        (nan(np.inf), "no numbers"),
        (Image.fromarray(nan(np.nan)), "no numbers"),
        (nan(-1), "floats reach from -1 to 1; they must lie in 0..1 or 0..255"),
        (WHITE * np.float32(2), "floats reach from 0 to 510; they must lie in 0..1 or 0..255"),
        (Image.fromarray(WHITE * np.float32(2)), "floats reach from 0 to 510"),
        (-HOLE.astype(np.int16), "values reach from -1 to 0"),
        (HOLE * np.int64(70000), "values reach from 0 to 70000"),
        (HOLE.astype(complex), "array of complex128"),
        (HOLE.astype("O"), "array of object"),
        (np.zeros((5, 40, 60), np.uint8), r"must be \[H, W\], .* not \[5, 40, 60\]"),
        (np.zeros((40, 60, 7), np.uint8), r"not \[40, 60, 7\]"),
        (HOLE[:8], "the mask: 60x8 pixels is too small"),
        (b"no picture", "is not a picture"),
        (OnDevice(), "cannot be read as an array .*cuda:0"),
        (7, "must be a path"),
    ],
)
def test_masks_that_cannot_be_meant(source: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_mask(source, SIZE)
    assert "\n" not in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(100, 2000), height=st.integers(100, 2000), factor=st.floats(0.3, 1))
def test_a_scaled_and_rounded_mask_has_the_shape_of_its_picture(
    width: int, height: int, factor: float
) -> None:
    if max(width, height) < 5 * min(width, height):
        mask = np.tri(round(height * factor), round(width * factor), dtype=bool)
        assert load_mask(mask, (width, height)).shape == (height, width)
