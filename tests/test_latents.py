"""Sizes, packing and position ids against diffusers' pipeline; masks against hand-worked values."""

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from hypothesis import given
from hypothesis import strategies as st

from openkontext.errors import InputError
from openkontext.latents import (
    PREFERRED_SIZES,
    changed_area,
    context_positions,
    latent_mask,
    latent_shape,
    nearest_size,
    pack,
    position_ids,
    unpack,
)

SHAPES = [(1, 16, 8, 8), (2, 16, 4, 10), (3, 4, 12, 2)]


def test_preferred_sizes_are_those_of_diffusers() -> None:
    assert list(PREFERRED_SIZES) == PREFERRED_KONTEXT_RESOLUTIONS


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_nearest_size_is_that_of_diffusers(width: int, height: int) -> None:
    aspect = width / height
    _, *expected = min((abs(aspect - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    assert nearest_size(width, height) == tuple(expected)


def test_nearest_size_takes_a_models_own_list() -> None:
    sizes = [(128, 128), (160, 96), (96, 160)]
    assert nearest_size(4200, 3000, sizes) == (160, 96)
    assert nearest_size(1100, 1000, sizes) == (128, 128)
    assert nearest_size(1, 3, sizes) == (96, 160)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_that_of_diffusers(shape: tuple[int, ...]) -> None:
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    B, C, H, W = shape
    expected = FluxKontextPipeline._pack_latents(torch.from_numpy(latents), B, C, H, W)
    np.testing.assert_array_equal(pack(latents), expected)
    np.testing.assert_array_equal(unpack(pack(latents), H, W), latents)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 10), (12, 2)])
def test_position_ids_are_those_of_diffusers(height: int, width: int) -> None:
    expected = FluxKontextPipeline._prepare_latent_image_ids(
        1, height // 2, width // 2, torch.device("cpu"), torch.float32
    )
    ids = position_ids(height, width)
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(ids, expected)
    expected[:, 0] = 2
    np.testing.assert_array_equal(position_ids(height, width, image=2), expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1024, 1024, (1, 16, 128, 128)), (672, 1568, (1, 16, 196, 84)), (17, 16, (1, 16, 2, 4))],
)
def test_latent_shape_rounds_up_to_whole_tokens(width: int, height: int, expected: tuple[int, ...]) -> None:
    assert latent_shape(width, height) == expected  # 2 * ceil(side / 16), rows first


def test_a_size_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="size 0x64"):
        latent_shape(0, 64)


def test_a_latent_pixel_may_change_where_any_of_its_pixels_may() -> None:
    mask = np.zeros((16, 24), np.float32)
    mask[9, 7] = 1  # in row 1, column 0
    mask[0, 16:] = 0.25
    expected = [[0, 0, 0.25], [1, 0, 0]]
    np.testing.assert_array_equal(latent_mask(mask), np.array(expected, np.float32)[None, None])


def test_the_area_that_changed_fades_over_one_latent_pixel() -> None:
    before = np.zeros((1, 2, 5, 6), np.float32)
    after = before.copy()
    after[0, :, 2, 3] = 0.1, 0.3  # 0.2 in the mean
    after[0, :, 0, 0] = 0.1, 0.2
    area = changed_area(after, before, keep_below=0.2)
    assert area.shape == (40, 48)
    # Nine pixels are averaged, of the latent pixel (24 to 31 across) grown by four on every side.
    fade = np.array([1, 2, 3, 4, 5, 6, 7, 8]) / 9
    across = np.concatenate((np.zeros(16), fade, np.ones(8), fade[::-1], np.zeros(8)))
    np.testing.assert_allclose(area[19], across, atol=1 / 255)
    np.testing.assert_allclose(area[:, 27], across[8:], atol=1 / 255)
    assert (area[16:24, 24:32] == 1).all()
    assert not changed_area(before, before, 0.2).any()


def laid_by_the_peers(shapes: list[tuple[int, int]]) -> list[set[tuple[int, int, int]]]:
    """The rule of ComfyUI's reference latents "offset", worked token by token from its description.

    Each next picture goes to the right where the height so far and its own exceed the width so far and its
    own, else below; what is taken grows to the furthest row and column.
    """
    taken_rows = taken_columns = 0
    found = []
    for height, width in shapes:
        right = height + taken_rows > width + taken_columns
        down, across = (0, taken_columns) if right else (taken_rows, 0)
        found.append(
            {
                (1, row // 2, column // 2)
                for row in range(down, down + height)
                for column in range(across, across + width)
            }
        )
        taken_rows, taken_columns = max(taken_rows, down + height), max(taken_columns, across + width)
    return found


SETS = [
    [(128, 128), (128, 128)],
    [(84, 196), (196, 84)],
    [(196, 84), (104, 156), (128, 128)],
    [(128, 128), (104, 156), (84, 196), (196, 84)],
]


@pytest.mark.parametrize("shapes", SETS)
def test_references_are_laid_side_by_side_as_peers_do(shapes: list[tuple[int, int]]) -> None:
    found = [set(map(tuple, ids.astype(int).tolist())) for ids in context_positions(shapes, "offset")]
    assert found == laid_by_the_peers(shapes)
    for first, one in enumerate(found):
        for other in found[first + 1 :]:
            assert not one & other


def test_four_squares_by_hand() -> None:
    """The second goes below the first, the third to the right of both, the fourth below all."""
    corners = [ids[0].tolist() for ids in context_positions([(4, 4)] * 4, "offset")]
    assert corners == [[1, 0, 0], [1, 2, 0], [1, 0, 2], [1, 4, 0]]


@pytest.mark.parametrize("shapes", SETS)
def test_numbered_references_carry_their_number(shapes: list[tuple[int, int]]) -> None:
    for number, (ids, shape) in enumerate(zip(context_positions(shapes, "index"), shapes, strict=True), 1):
        np.testing.assert_array_equal(ids, position_ids(*shape, image=number))


def test_one_picture_has_the_same_positions_by_either_rule() -> None:
    for rule in ("offset", "index"):
        np.testing.assert_array_equal(context_positions([(6, 8)], rule)[0], position_ids(6, 8, 1))
    with pytest.raises(InputError, match="offset, index"):
        context_positions([(6, 8)], "uxo")
