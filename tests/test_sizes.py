"""At which size an edit is made, how large it comes back, and what of the picture's own pixels is left."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copier import CONFIG
from PIL import Image
from tiny import TINY, write_tiny_repository

import openkontext
from openkontext import InputError, images
from openkontext.compositing import changed_cells
from openkontext.editor import UNCHANGED
from openkontext.latents import PREFERRED_SIZES
from openkontext.provenance import verify

BRIGHT = 0.6
"""What `Painting` adds to pixels in -1..1."""


class Transformer:
    """In the place of an editor's transformer: tells for which size of the result it was asked."""

    def __init__(self, editor: openkontext.Editor) -> None:
        self.run = editor.components.transformer
        self.size = (0, 0)

    def __call__(self, **arrays: Any) -> Any:
        ids = arrays["img_ids"]
        _, rows, columns = ids[ids[:, 0] == 0].max(axis=0)
        self.size = (16 * int(columns + 1), 16 * int(rows + 1))
        return self.run(**arrays)


class Painting(Transformer):
    """Brightens the tokens of one part of the result, rows and columns from 2 to 3, and no others."""

    def __call__(self, **arrays: Any) -> Any:
        velocity = np.array(super().__call__(**arrays))
        which, rows, columns = arrays["img_ids"].T
        part = (which == 0) & (rows >= 2) & (rows < 4) & (columns >= 2) & (columns < 4)
        # velocity = (x - goal) / sigma; in all channels, though the copier's decoder shows only three.
        velocity[:, part] -= BRIGHT * CONFIG.scaling_factor / arrays["timestep"]
        return velocity


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> openkontext.Editor:
    """A tiny model that was trained on FLUX.1 Kontext's sizes."""
    config = dataclasses.replace(TINY, sizes=PREFERRED_SIZES, num_inference_steps=1)
    return openkontext.load(write_tiny_repository(tmp_path_factory.mktemp("flux") / "tiny", config=config))


def keeper(copier: Path, folder: Path, keep_below: float) -> openkontext.Editor:
    shutil.copytree(copier, folder)
    dataclasses.replace(CONFIG, keep_below=keep_below).save(folder)
    return openkontext.load(folder)


@pytest.fixture(params=[0.0, 0.05], ids=["by pixels", "by latents"])
def painter(
    copier: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> openkontext.Editor:
    """A model that changes one part alone, with and without a number that says from when on it changed it."""
    editor = keeper(copier, tmp_path / "painter", request.param)
    monkeypatch.setattr(editor.components, "transformer", Painting(editor))
    return editor


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 130, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((512, 512), (512, 512)),
        ((256, 256), (256, 256)),
        ((320, 640), (320, 640)),
        ((500, 300), (512, 304)),
        ((1024, 1024), (1024, 1024)),
        ((64, 64), (1024, 1024)),  # a sixteenth of 1024x1024 is the least
        ((2048, 2048), (1024, 1024)),
    ],
)
def test_a_flux_sized_model_works_at_the_asked_size(
    flux: openkontext.Editor, monkeypatch: pytest.MonkeyPatch, asked: tuple[int, int], made: tuple[int, int]
) -> None:
    transformer = Transformer(flux)
    monkeypatch.setattr(flux.components, "transformer", transformer)
    width, height = asked
    result = flux.edit(noise(64, 64), "make it red", width=width, height=height, seed=0)
    assert transformer.size == made
    assert result.image.size == asked
    scaled = f"made at {made[0]}x{made[1]} and scaled to {width}x{height}"
    assert result.notes == (() if asked == made else (scaled,))


def test_no_smaller_than_a_model_can_is_said_by_its_own_number(copier: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(copier, tmp_path / "choosy")
    dataclasses.replace(CONFIG, min_area=0.5).save(folder)
    choosy = openkontext.load(folder)
    for editor, made in ((choosy, "128x128"), (openkontext.load(copier), None)):
        result = editor.edit(noise(64, 64), "the picture", width=64, height=64, num_inference_steps=1)
        assert result.image.size == (64, 64)
        assert [note for note in result.notes if "made at" in note] == (
            [f"made at {made} and scaled to 64x64"] if made else []
        )


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, "the picture of 2000x1500 comes back as 128x96: copier works at that size; size=original keeps"),
        ({"fit": "crop"}, "comes back as 128x128: copier works at that size; size=original keeps its own"),
        (
            {"aspect_ratio": (5, 3)},
            "the picture of 2000x1500 comes back as 160x96: copier works at that size",
        ),
        ({"width": 400, "height": 300}, "made at 128x128 and scaled to 400x300"),
    ],
)
def test_a_size_that_is_not_the_pictures_is_said(copier: Path, options: dict[str, Any], note: str) -> None:
    picture = np.full((1500, 2000, 3), 90, np.uint8)
    result = openkontext.load(copier).edit(picture, "the picture", num_inference_steps=1, **options)
    assert note in result.notes[0]


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_the_original_keeps_every_pixel_that_the_model_left_alone(
    painter: openkontext.Editor, fit: str
) -> None:
    picture = noise(640, 480)
    result = painter.edit(picture, "the picture", size="original", fit=fit, seed=1)
    assert result.image.size == (640, 480)
    assert not result.unchanged
    changed = np.asarray(result.image).astype(int) - picture
    # At 128x128 the painted part is 32 to 64 both ways, and its soft edge reaches 8 pixels further.
    left, top, right, bottom = (160, 120, 320, 240) if fit == "stretch" else (160, 80, 320, 240)
    outside = np.ones((480, 640), bool)
    outside[top - 45 : bottom + 45, left - 45 : right + 45] = False
    assert not changed[outside].any()
    inside = changed[top + 8 : bottom - 8, left + 8 : right - 8]
    assert abs(inside.mean() - BRIGHT * 127.5) < 3
    # Of the noise there only its mean over a cell of 40 pixels is left: the result is the enlarged one.
    middle = np.asarray(result.image).astype(int)[top + 8 : bottom - 8, left + 8 : right - 8]
    assert middle.std() < picture.std() / 4
    (note,) = result.notes
    assert note.startswith("made at 128x128; the changed ")
    assert note.endswith("is scaled to 640x480, the rest is the picture's own")


def test_the_original_lets_a_mask_cut_sharply(painter: openkontext.Editor) -> None:
    picture, mask = noise(640, 480), np.zeros((480, 640), bool)
    mask[150:203, 200:251] = True
    result = painter.edit(picture, "the picture", size="original", mask_image=mask, seed=1)
    changed = np.asarray(result.image).astype(int) - picture
    assert not changed[~mask].any()
    assert abs(changed[mask].mean() - BRIGHT * 127.5) < 3


def test_the_original_of_a_crop_is_its_middle(painter: openkontext.Editor) -> None:
    picture = noise(640, 480)
    result = painter.edit(picture, "the picture", size="original", fit="crop", seed=1)
    assert result.image.size == (480, 480)
    same = (np.asarray(result.image) == picture[:, 80:560]).all(axis=2)
    assert same[:60].all()
    assert same[300:].all()
    assert not same[130:230, 130:230].all()
    assert result.warnings == ("cropped from 640x480 to the 480x480 in its middle",)


def test_the_original_of_a_picture_that_stays_is_that_picture(copier: Path, tmp_path: Path) -> None:
    for number, keep_below in enumerate((0.0, 0.05)):
        editor = keeper(copier, tmp_path / str(number), keep_below)
        for width, height in ((301, 200), (128, 128), (60, 40)):
            picture = noise(width, height)
            result = editor.edit(picture, "the picture", size="original", seed=1)
            np.testing.assert_array_equal(np.asarray(result.image), picture)
            assert result.notes == (UNCHANGED,)
        painted = editor.edit(noise(640, 480), "the picture", size="original", keep_unchanged=False, seed=1)
        assert painted.image.size == (640, 480)
        assert painted.notes[0] == "made at 128x128 and scaled to 640x480"
        assert np.asarray(painted.image).std() < noise(640, 480).std() / 4


def test_a_change_of_all_the_picture_is_enlarged_as_a_whole(copier: Path, tmp_path: Path) -> None:
    for number, keep_below in enumerate((0.0, 0.05)):
        editor = keeper(copier, tmp_path / str(number), keep_below)
        picture = noise(640, 480)
        result = editor.edit(picture, "make it brighter", size="original", guidance_scale=40, seed=1)
        assert result.notes == ("made at 128x128 and scaled to 640x480 as a whole, since most of it changed",)
        assert np.asarray(result.image).std() < picture.std() / 4


def test_edits_of_edits_at_the_original_size_carry_their_records(painter: openkontext.Editor) -> None:
    picture = noise(320, 240)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    data, references = file.getvalue(), [noise(64, 64, 1)]
    for turn in range(2):
        result = painter.edit(
            data,
            "the picture",
            size="original",
            reference_images=references,
            seed=turn,
            num_inference_steps=1,
        )
        data = result.encode("PNG")
    report = verify(data)
    assert (report.valid, report.tampering) == (True, ())
    assert [step.action for step in report.chain].count("c2pa.edited") == 2
    np.testing.assert_array_equal(images.load(data).pixels[:30], picture[:30])
    np.testing.assert_array_equal(images.load(data).pixels[180:], picture[180:])


def test_previews_are_no_larger_than_the_model_makes_them(painter: openkontext.Editor) -> None:
    request = openkontext.EditRequest(image=noise(640, 480), prompt="the picture", size="original", seed=1)
    for step in painter.steps(request):
        assert step.preview().size == (128, 96)


def test_a_cell_differs_by_its_mean() -> None:
    before = noise(64, 48)
    assert not changed_cells(before, before).any()
    made = before.copy()
    made[16:24, 8:16] += 9
    made[32:40, 48:56] += 7  # less than the least
    area = changed_cells(made, before)
    assert (area[16:24, 8:16] == 1).all()
    assert not area[32:].any()
    assert not area[:, 32:].any()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": "huge"}, "size 'huge' is unknown; choose auto or original"),
        ({"size": "original", "width": 64, "height": 64}, "leave out width, height and aspect_ratio"),
        ({"size": "original", "aspect_ratio": (1, 1)}, "leave out width, height and aspect_ratio"),
        ({"size": "original", "image": None}, "needs a picture to edit"),
    ],
)
def test_a_size_that_cannot_be_meant(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        openkontext.EditRequest(**({"prompt": "make it night", "image": noise(64, 64)} | fields))


def test_a_mask_of_what_is_cropped_away_is_an_error(copier: Path) -> None:
    mask = np.zeros((480, 640), bool)
    mask[:, :40] = True
    with pytest.raises(InputError, match="the mask lies outside"):
        openkontext.load(copier).edit(noise(640, 480), "the picture", fit="crop", mask_image=mask)
