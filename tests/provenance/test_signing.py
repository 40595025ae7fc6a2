"""What is signed, and that others read it: c2pa's own reader is the judge."""

import io
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import write_tiny_repository

import openkontext
from openkontext import images
from openkontext.errors import InputError
from openkontext.provenance import Ingredient, Record, Signer, default_signer, sign, verify

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "TIFF": "image/tiff"}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> openkontext.Editor:
    return openkontext.load(write_tiny_repository(tmp_path_factory.mktemp("models") / "tiny"))


def c2pa_reads(data: bytes, kind: str = "PNG") -> dict[str, Any]:
    """The store as c2pa's reader gives it with no setting of ours."""
    return json.loads(c2pa.Reader(MEDIA_TYPES[kind], io.BytesIO(data)).json())


def active(store: dict[str, Any]) -> dict[str, Any]:
    return store["manifests"][store["active_manifest"]]


def assertion(manifest: dict[str, Any], label: str) -> dict[str, Any]:
    (found,) = [a["data"] for a in manifest["assertions"] if a["label"] == label]
    return found


def actions(manifest: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return assertion(manifest, "c2pa.actions.v2")["actions"]


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_c2pa_finds_the_record_whole_in_every_format(signed: dict[str, bytes], kind: str) -> None:
    store = c2pa_reads(signed[kind], kind)
    assert store["validation_state"] == "Valid"  # "Trusted" would need our authority's certificate
    (failure,) = store["validation_results"]["activeManifest"]["failure"]
    assert failure["code"] == "signingCredential.untrusted"
    report = verify(signed[kind])
    assert (report.valid, report.trust, report.tampering) == (True, "own", ())
    assert [step.action for step in report.chain] == ["c2pa.created", "c2pa.edited"]


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_signing_changes_neither_pixels_nor_metadata(
    tmp_path: Path, pixels: NDArray[np.uint8], kind: str
) -> None:
    said = {"prompt": "größer", "seed": "1"}
    plain = images.encode(pixels, kind, said)
    file = tmp_path / f"picture.{kind.lower()}"
    file.write_bytes(sign(plain, kind, Record(model="m", digest="0" * 64)))
    np.testing.assert_array_equal(images.load(file).pixels, images.load(plain).pixels)
    assert images.read_metadata(file) == said


def test_an_edit_says_what_made_it_of_what(editor: openkontext.Editor, pixels: NDArray[np.uint8]) -> None:
    photo = images.encode(pixels, "JPEG")
    result = editor.edit(photo, "make it red", reference_images=[pixels], seed=1)
    manifest = active(c2pa_reads(result.encode()))
    assert manifest["claim_version"] == 2
    (generator,) = manifest["claim_generator_info"]
    assert (generator["name"], generator["version"]) == ("openkontext", openkontext.__version__)
    opened, edited = actions(manifest)
    assert opened["action"] == "c2pa.opened"
    assert edited["action"] == "c2pa.edited"
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    assert edited["digitalSourceType"] == source
    disclosure = assertion(manifest, "c2pa.ai-disclosure")
    assert disclosure["modelName"] == "tiny"
    assert disclosure["modelIdentifier"] == f"urn:sha256:{editor.digest}"
    relations = {i["relationship"]: i for i in manifest["ingredients"]}
    assert set(relations) == {"parentOf", "inputTo"}
    assert relations["parentOf"]["format"] == "image/jpeg"
    urls = {i["label"]: f"self#jumbf=c2pa.assertions/{i['label']}" for i in manifest["ingredients"]}
    assert opened["parameters"]["ingredients"][0]["url"] == urls[relations["parentOf"]["label"]]
    assert edited["parameters"]["ingredients"][0]["url"] == urls[relations["inputTo"]["label"]]
    (step,) = verify(result.encode()).chain
    assert (step.model, step.digest, step.inputs, step.unsigned_parent) == ("tiny", editor.digest, 1, True)


def test_a_picture_from_words_alone_is_created(editor: openkontext.Editor) -> None:
    manifest = active(c2pa_reads(editor.generate("make it red", seed=1).encode()))
    (created,) = actions(manifest)
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert "ingredients" not in manifest


def test_the_instruction_is_signed_only_where_it_is_asked(editor: openkontext.Editor) -> None:
    result = editor.generate("make it red", negative_prompt="blue", true_cfg_scale=2, seed=1)
    plain, told = result.encode(metadata=False), result.encode(metadata=False, sign_prompt=True)
    assert b"make it red" not in plain
    assert b"blue" not in plain
    assert verify(plain).chain[-1].prompt is None
    assert verify(told).chain[-1].prompt == "make it red"


def test_six_successive_edits_are_read_back(editor: openkontext.Editor, tmp_path: Path) -> None:
    file = tmp_path / "0.jpg"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(file)
    names = ["1.png", "2.jpg", "3.webp", "4.png", "5.tiff", "6.jpg"]
    for number, name in enumerate(names):
        result = editor.edit(file, "make it red" if number % 2 else "make it blue", seed=number)
        file = tmp_path / name
        result.save(file, sign_prompt=True)
    report = verify(file)
    assert (report.valid, report.trust) == (True, "own")
    assert [step.prompt for step in report.chain] == ["make it blue", "make it red"] * 3
    assert {step.digest for step in report.chain} == {editor.digest}
    assert [step.unsigned_parent for step in report.chain] == [True] + [False] * 5
    assert [step.warnings for step in report.chain] == [()] * 6
    store = c2pa_reads(file.read_bytes(), "JPEG")
    assert store["validation_state"] == "Valid"
    assert len(store["manifests"]) == 6


def test_a_changed_input_is_told_in_what_was_made_of_it(
    signed: dict[str, bytes], pixels: NDArray[np.uint8]
) -> None:
    parent = signed["WEBP"].replace(b"VP8 ", b"VP8 ")
    at = parent.index(b"VP8 ") + 200
    parent = parent[:at] + bytes([parent[at] ^ 1]) + parent[at + 1 :]
    ingredient = Ingredient(parent, "WEBP")
    data = sign(images.encode(pixels, "PNG"), "PNG", Record(model="m", digest="", ingredients=(ingredient,)))
    report = verify(data)
    assert report.valid
    assert report.chain[-1].warnings == ("the picture was changed after it was signed",)


def test_a_record_beyond_reading_does_not_stop_the_edit(
    signed: dict[str, bytes], pixels: NDArray[np.uint8]
) -> None:
    parent = signed["JPEG"].replace(b"cbor", b"cbxr")
    data = sign(
        images.encode(pixels, "PNG"),
        "PNG",
        Record(model="m", digest="", ingredients=(Ingredient(parent, "JPEG"),)),
    )
    report = verify(data)
    assert report.valid
    assert report.chain[-1].unsigned_parent
    assert report.chain[-1].warnings == ("its own record was damaged beyond reading and is left out",)


def test_pictures_without_a_file_are_ingredients_by_their_pixels(pixels: NDArray[np.uint8]) -> None:
    bmp = io.BytesIO()
    Image.fromarray(pixels).save(bmp, "BMP")
    for source in (pixels, Image.fromarray(pixels), bmp.getvalue()):
        media_type, data = Ingredient.of(images.load(source)).file
        assert media_type == "image/png"
        np.testing.assert_array_equal(images.load(data).pixels, pixels)


def test_previews_are_signed_too(editor: openkontext.Editor, tmp_path: Path) -> None:
    def save(step: openkontext.EditStep) -> None:
        step.save(tmp_path / f"{step.index}.png")

    editor.edit(np.zeros((64, 64, 3), np.uint8), "make it red", num_inference_steps=2, on_step=save)
    for name in ("1.png", "2.png"):
        report = verify(tmp_path / name)
        assert (report.valid, report.model) == (True, "tiny")


def broken_signers() -> dict[str, Signer]:
    good = default_signer()

    def unreachable(data: bytes) -> bytes:
        raise ConnectionError("the key service does not answer")

    return {
        "the key service does not answer": Signer(unreachable, good.certificates),
        "": Signer(lambda data: bytes(64), good.certificates),
        " ": Signer(lambda data: good.sign(data + b"x"), good.certificates),
        "not written": Signer(lambda data: b"", good.certificates),
    }


def test_a_broken_signer_writes_nothing(editor: openkontext.Editor, tmp_path: Path) -> None:
    result = editor.generate("make it red", seed=1)
    there = tmp_path / "there.png"
    there.write_bytes(b"precious")
    for reason, signer in broken_signers().items():
        for kind in ("png", "jpg", "webp", "tiff"):
            with pytest.raises(InputError, match=f"the picture cannot be signed.*{reason}") as caught:
                result.save(tmp_path / f"new.{kind}", signer=signer)
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError):
            result.save(there, overwrite=True, signer=signer)
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]
    assert there.read_bytes() == b"precious"


def test_nothing_that_a_picture_names_is_fetched(pixels: NDArray[np.uint8]) -> None:
    builder = c2pa.Builder.from_json(json.dumps({"claim_generator_info": [{"name": "elsewhere"}]}))
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
    builder.set_no_embed()
    builder.set_remote_url("http://127.0.0.1:9/record")
    good = default_signer()
    signer = c2pa.Signer.from_callback(good.sign, c2pa.C2paSigningAlg.ES256, good.certificates)
    out = io.BytesIO()
    builder.sign(signer, "image/jpeg", io.BytesIO(images.encode(pixels, "JPEG")), out)
    report = verify(out.getvalue())
    assert (report.signed, report.remote) == (False, "http://127.0.0.1:9/record")
    record = Record(model="m", digest="", ingredients=(Ingredient.of(images.load(out.getvalue())),))
    assert verify(sign(images.encode(pixels, "PNG"), "PNG", record)).chain[-1].unsigned_parent


def test_ctrl_c_while_signing_is_not_lost(pixels: NDArray[np.uint8], request: pytest.FixtureRequest) -> None:
    # A test run in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    good = default_signer()

    def interrupted(data: bytes) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return good.sign(data)

    signer = Signer(interrupted, good.certificates)
    with pytest.raises(KeyboardInterrupt):
        sign(images.encode(pixels, "PNG"), "PNG", Record(model="m", digest=""), signer)
