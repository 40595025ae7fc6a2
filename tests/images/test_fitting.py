"""Sizes worked by hand, and the properties that a fit must have for any picture."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openkontext.errors import InputError
from openkontext.images import FITS, Fit, blend, from_model, to_model

sizes = st.tuples(st.integers(16, 400), st.integers(16, 400))


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def ramp(size: tuple[int, int]) -> np.ndarray:
    """Rises from left to right in red and from top to bottom in green."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    red, green = (columns + 0.5) / size[0], (rows + 0.5) / size[1]
    return np.rint(np.stack([red, green, 0 * red], axis=-1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "source_box", "target_box", "output_size"),
    [
        # 1200x900 to 1184x880: 880 rows of 4:3 are 1173 columns
        ("stretch", (0, 0, 1200, 900), (0, 0, 1184, 880), (1173, 880)),
        # 1200 columns of 1184:880 are 892 rows
        ("crop", (0, 4, 1200, 896), (0, 0, 1184, 880), (1184, 880)),
        ("pad", (0, 0, 1200, 900), (5, 0, 1178, 880), (1173, 880)),
    ],
)
def test_boxes_by_hand(
    mode: str, source_box: tuple[int, ...], target_box: tuple[int, ...], output_size: tuple[int, int]
) -> None:
    fit = Fit((1200, 900), (1184, 880), mode)
    assert fit.source_box == source_box
    assert fit.target_box == target_box
    assert fit.output_size == output_size


def test_only_crop_loses_something_and_says_so() -> None:
    assert Fit((300, 100), (64, 64), "stretch").note is None
    assert Fit((300, 100), (64, 64), "pad").note is None
    assert Fit((300, 100), (64, 64), "crop").note == "cropped from 300x100 to the 100x100 in its middle"
    assert Fit((300, 300), (64, 64), "crop").note is None


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(InputError, match="fit 'zoom' is unknown; choose stretch, crop or pad"):
        Fit((100, 100), (64, 64), "zoom")


@pytest.mark.parametrize("mode", FITS)
def test_a_picture_of_the_models_size_is_left_alone(mode: str) -> None:
    fit, pixels = Fit((96, 64), (96, 64), mode), noise((96, 64))
    np.testing.assert_array_equal(fit.apply(pixels), pixels)
    np.testing.assert_array_equal(fit.undo(pixels), pixels)


def test_stretch_is_the_resize_of_diffusers() -> None:
    pixels = noise((90, 60))
    expected = VaeImageProcessor().resize(Image.fromarray(pixels), 48, 112)
    np.testing.assert_array_equal(Fit((90, 60), (112, 48)).apply(pixels), np.asarray(expected))


@settings(max_examples=150, deadline=None)
@given(input_size=sizes, size=sizes, mode=st.sampled_from(FITS))
def test_there_and_back_for_any_sizes(input_size: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    fit = Fit(input_size, size, mode)
    there = fit.apply(noise(input_size))
    assert there.shape == (size[1], size[0], 3)
    back = fit.undo(there)
    width, height = fit.output_size
    assert back.shape == (height, width, 3)
    assert width <= size[0]
    assert height <= size[1]
    if mode != "crop":  # the aspect is the input's, to the rounding of one side
        assert abs(width * input_size[1] - height * input_size[0]) <= max(input_size)
    mask = fit.apply(np.ones((input_size[1], input_size[0]), np.float32))
    np.testing.assert_allclose(mask, np.ones((size[1], size[0])), rtol=1e-6)
    assert fit.undo(there, input_size).shape == (input_size[1], input_size[0], 3)


@settings(max_examples=50, deadline=None)
@given(input_size=sizes, size=sizes, mode=st.sampled_from(["stretch", "pad"]))
def test_what_comes_back_lies_where_it_lay(
    input_size: tuple[int, int], size: tuple[int, int], mode: str
) -> None:
    fit = Fit(input_size, size, mode)
    back = fit.undo(fit.apply(ramp(input_size))).astype(int)
    # What becomes small is coarse; a shift by a pixel of the result is what must not be.
    tolerance = 8 + 255 / min(fit.output_size)
    assert np.abs(back - ramp(fit.output_size)).max() <= tolerance


def test_crop_takes_the_middle() -> None:
    pixels = noise((100, 40))
    np.testing.assert_array_equal(Fit((100, 40), (40, 40), "crop").apply(pixels), pixels[:, 30:70])


def test_pad_keeps_the_picture_and_continues_its_edge() -> None:
    pixels = noise((40, 20))
    there = Fit((40, 20), (40, 32), "pad").apply(pixels)
    np.testing.assert_array_equal(there[6:26], pixels)
    np.testing.assert_array_equal(there[:6], np.repeat(pixels[:1], 6, axis=0))
    np.testing.assert_array_equal(there[26:], np.repeat(pixels[-1:], 6, axis=0))


def test_blend_is_exact_at_both_ends() -> None:
    changed, original = noise((30, 20), 1), noise((30, 20), 2)
    mask = np.zeros((20, 30), np.float32)
    mask[5:10], mask[15] = 1, 0.25
    mixed = blend(changed, original, mask)
    np.testing.assert_array_equal(mixed[5:10], changed[5:10])
    np.testing.assert_array_equal(mixed[mask == 0], original[mask == 0])
    expected = 0.75 * original[15].astype(float) + 0.25 * changed[15]
    assert np.abs(mixed[15] - expected).max() <= 0.5


def test_the_models_numbers_are_those_of_diffusers() -> None:
    pixels, processor = noise((32, 16)), VaeImageProcessor()
    expected = processor.preprocess(Image.fromarray(pixels)).numpy()
    ours = to_model(pixels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    decoded = np.random.default_rng(0).normal(0, 0.8, (1, 3, 16, 32)).astype(np.float32)
    (image,) = processor.postprocess(torch.from_numpy(decoded))
    assert np.abs(from_model(decoded).astype(int) - np.asarray(image)).max() <= 1
    np.testing.assert_array_equal(from_model(ours), pixels)
