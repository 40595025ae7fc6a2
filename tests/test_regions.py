"""A part of a picture edited in place of all of it, and room around a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copier import CONFIG, STEP
from hypothesis import given, settings
from hypothesis import strategies as st

import openkontext
from openkontext import InputError
from openkontext.regions import SIDES, Frame, around, extended


@pytest.fixture(scope="module")
def editor(copier: Path) -> openkontext.Editor:
    return openkontext.load(copier)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 180, (height, width, 3), np.uint8)


@settings(max_examples=200)
@given(
    width=st.integers(16, 900),
    height=st.integers(16, 900),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    side=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_the_part_shows_the_mask_with_room_around(
    width: int, height: int, corner: tuple[float, float], side: tuple[int, int]
) -> None:
    w, h = min(side[0], width), min(side[1], height)
    x, y = round(corner[0] * (width - w)), round(corner[1] * (height - h))
    mask = np.zeros((height, width), np.float32)
    mask[y : y + h, x : x + w] = 0.5
    left, top, right, bottom = around(mask, CONFIG.sizes)
    assert 0 <= left <= max(0, x - 32)
    assert 0 <= top <= max(0, y - 32)
    assert min(width, x + w + 32) <= right <= width
    assert min(height, y + h + 32) <= bottom <= height
    if right - left < width and bottom - top < height:  # large enough for the model's own aspect
        aspect = (right - left) / (bottom - top)
        assert min(abs(np.log(aspect * b / a)) for a, b in CONFIG.sizes) < 0.02


def test_a_part_goes_back_to_its_place() -> None:
    picture = noise(40, 30)
    frame = Frame(picture, (5, 6, 25, 16))
    assert frame.cut(picture).shape == (10, 20, 3)
    np.testing.assert_array_equal(frame.paste(frame.cut(picture)), picture)
    pasted = frame.paste(np.full((10, 20, 3), 255, np.uint8))
    changed = (pasted != picture).any(axis=2)
    assert changed[6:16, 5:25].all()
    assert changed.sum() == 200


@pytest.mark.parametrize(
    "box", [(400, 300, 440, 330), (0, 0, 30, 20), (570, 100, 600, 400), (3, 3, 590, 390)]
)
def test_only_the_mask_changes_and_the_rest_is_the_same_to_the_bit(
    editor: openkontext.Editor, box: tuple[int, int, int, int]
) -> None:
    picture = noise(600, 400)
    left, top, right, bottom = box
    mask = np.zeros((400, 600), np.uint8)
    mask[top:bottom, left:right] = 255
    result = editor.edit(
        picture, "make it brighter", mask_image=mask, crop_to_mask=True, seed=1, guidance_scale=8
    )
    found = np.asarray(result.image)
    assert found.shape == picture.shape
    np.testing.assert_array_equal(found[mask == 0], picture[mask == 0])
    inside = (slice(top, bottom), slice(left, right))
    assert abs(found[inside].mean() - picture[inside].mean() - 8 * STEP) < 12
    assert any("around the mask made at" in note for note in result.notes)
    assert result.metadata["crop_to_mask"] == "true"


def test_the_model_sees_the_part_alone_at_its_own_size(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    encode = editor.components.encode
    monkeypatch.setattr(editor.components, "encode", lambda images: (seen.append(images), encode(images))[1])
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[200:300, 200:300] = 255
    mask = np.zeros((512, 512), np.uint8)
    mask[218:282, 218:282] = 255  # 64 pixels, and 32 around: 128, as large as the model works
    editor.edit(picture, "the picture", mask_image=mask, crop_to_mask=True, num_inference_steps=1)
    np.testing.assert_allclose(seen[0], picture[186:314, 186:314].transpose(2, 0, 1)[None] / 127.5 - 1)


class Looking:
    """A check that keeps what it is shown."""

    name, version, stages, turn = "looking", "1", ("input", "output"), 0

    def __init__(self) -> None:
        self.shapes: dict[str, set[tuple[int, ...]]] = {}

    def scores(self, subject: Any) -> dict[str, float]:
        self.shapes.setdefault(subject.stage, set()).add(subject.pixels.shape[:2])
        return {}


def test_filters_see_the_whole_and_the_part(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Looking()
    monkeypatch.setattr(editor.guard, "checks", (*editor.guard.checks, check))
    mask = np.zeros((400, 600), np.uint8)
    mask[100:164, 100:164] = 255
    editor.edit(noise(600, 400), "the picture", mask_image=mask, crop_to_mask=True, num_inference_steps=1)
    assert check.shapes == {stage: {(400, 600), (128, 128)} for stage in ("input", "output")}


def test_room_is_filled_with_the_edge_and_may_change() -> None:
    picture = noise(8, 6)
    pixels, mask = extended(np.tile(picture, (3, 3, 1)), None, {"left": 4, "bottom": 2})
    assert pixels.shape == (20, 28, 3)
    assert mask.shape == (20, 28)
    np.testing.assert_array_equal(pixels[:18, 4:], np.tile(picture, (3, 3, 1)))
    np.testing.assert_array_equal(pixels[3, :4], np.repeat(picture[3, :1], 4, axis=0))
    assert mask[:18, 4:].max() == 0
    assert mask.sum() == 20 * 28 - 18 * 24
    with pytest.raises(InputError, match="the extended picture: 2024x18 pixels is too narrow"):
        extended(np.tile(picture, (3, 3, 1)), None, {"right": 2000})


@pytest.mark.parametrize("extend", [{"left": 32}, {"top": 16, "right": 48}, dict.fromkeys(SIDES, 24)])
def test_an_extended_picture_keeps_its_own_pixels(editor: openkontext.Editor, extend: dict[str, int]) -> None:
    picture = noise(160, 120)
    result = editor.edit(picture, "make it brighter", extend=extend, seed=1, guidance_scale=8)
    left, top, right, bottom = (extend.get(side, 0) for side in SIDES)
    found = np.asarray(result.image)
    assert found.shape == (120 + top + bottom, 160 + left + right, 3)
    np.testing.assert_array_equal(found[top : top + 120, left : left + 160], picture)
    room = np.ones(found.shape[:2], bool)
    room[top : top + 120, left : left + 160] = False
    edge = extended(picture, None, extend)[0]
    assert abs(found[room].mean() - edge[room].mean() - 8 * STEP) < 12
    assert result.metadata["extend"].startswith("{")


def test_an_extended_picture_can_come_in_an_asked_size_or_with_a_mask(editor: openkontext.Editor) -> None:
    picture = noise(128, 128)
    sized = editor.edit(
        picture, "the picture", extend={"left": 128}, width=256, height=128, num_inference_steps=1
    )
    assert sized.image.size == (256, 128)
    np.testing.assert_array_equal(np.asarray(sized.image)[:, 128:], picture)
    mask = np.zeros((128, 128), np.uint8)
    mask[40:80, 40:80] = 255
    both = editor.edit(
        picture, "make it brighter", extend={"top": 32}, mask_image=mask, seed=1, guidance_scale=8
    )
    changed = (np.asarray(both.image)[32:] != picture).any(axis=2)
    assert changed[40:80, 40:80].mean() > 0.95
    assert not changed[mask == 0].any()
