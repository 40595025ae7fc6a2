"""One edit end to end, on a model whose edits can be worked out by hand (tests/support/copier.py)."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copier import CONFIG, STEP, blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import openkontext
from openkontext import EditRequest, InputError, images
from openkontext.editor import UNCHANGED
from openkontext.images import side_by_side
from openkontext.latents import pack
from openkontext.repository import RepositoryConfig
from openkontext.sampling import randn


@pytest.fixture(scope="module")
def editor(copier: Path) -> openkontext.Editor:
    return openkontext.load(copier)


def difference(result: openkontext.EditResult, picture: np.ndarray) -> np.ndarray:
    return np.asarray(result.image).astype(int) - picture


@pytest.mark.parametrize("width_height", CONFIG.sizes)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_picture_comes_through_unchanged(
    editor: openkontext.Editor, width_height: tuple[int, int], steps: int
) -> None:
    picture = blocks(*width_height)
    result = editor.edit(picture, "the picture", num_inference_steps=steps, seed=steps)
    assert np.abs(difference(result, picture)).max() <= 1
    assert result.num_inference_steps == steps
    assert result.warnings == ()
    assert result.notes == (UNCHANGED,)
    assert result.unchanged


@pytest.mark.parametrize(("guidance", "expected"), [(None, STEP), (0.0, 0.0), (3.5, 3.5 * STEP)])
def test_instruction_and_guidance_reach_the_picture(
    editor: openkontext.Editor, guidance: float | None, expected: float
) -> None:
    picture = blocks(high=200)
    result = editor.edit(picture, "make it brighter", guidance_scale=guidance, seed=0)
    assert np.abs(difference(result, picture) - expected).max() <= 1
    assert result.guidance_scale == (CONFIG.guidance_scale if guidance is None else guidance)


def test_what_cannot_be_done_changes_nothing_and_the_result_says_so(
    editor: openkontext.Editor, tmp_path: Path
) -> None:
    picture = blocks()
    result = editor.edit(picture, "remove the dragon", seed=3)  # words that the copier never learned
    assert np.abs(difference(result, picture)).max() <= 1
    assert result.unchanged
    assert result.notes == (UNCHANGED,)
    (warning,) = result.warnings
    assert "'remove', 'dragon'" in warning
    changed = editor.edit(blocks(high=100), "make the picture brighter", seed=3, guidance_scale=40)
    assert not changed.unchanged
    assert changed.notes == ()


def test_a_new_picture_is_no_unchanged_one_though_it_repeats_its_reference(
    editor: openkontext.Editor,
) -> None:
    assert not editor.generate("make it", reference_images=[blocks()], num_inference_steps=1).unchanged


def test_a_change_of_one_token_is_a_change(editor: openkontext.Editor) -> None:
    picture = blocks(high=100)
    everywhere = editor.edit(picture, "make it brighter", guidance_scale=40)
    assert not everywhere.unchanged
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[32:48, 64:80] = 255
    assert not editor.edit(picture, "make it brighter", guidance_scale=40, mask_image=mask).unchanged


def test_what_the_model_leaves_alone_keeps_its_own_pixels(copier: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(copier, tmp_path / "keeper")
    dataclasses.replace(CONFIG, keep_below=0.05).save(folder)
    keeper = openkontext.load(folder)
    # The copier's autoencoder averages blocks of 8x8 pixels: of noise it keeps nothing.
    picture = np.random.default_rng(7).integers(60, 120, (128, 128, 3)).astype(np.uint8)
    kept = keeper.edit(picture, "the picture", seed=0)
    np.testing.assert_array_equal(np.asarray(kept.image), picture)
    painted = keeper.edit(picture, "the picture", seed=0, keep_unchanged=False)
    averaged = picture.reshape(16, 8, 16, 8, 3).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    assert np.abs(np.asarray(painted.image) - averaged).max() <= 1

    # "brighter" changes 3 of the 16 channels, by 0.05 times the guidance: 0.094 in the mean at 10.
    brighter = keeper.edit(picture, "make it brighter", seed=0, guidance_scale=10)
    assert np.abs(np.asarray(brighter.image) - averaged - 10 * STEP).max() <= 1
    faint = keeper.edit(picture, "make it brighter", seed=0, guidance_scale=1)
    np.testing.assert_array_equal(np.asarray(faint.image), picture)
    # Where a mask lets a part change, the rest is the input's, and the part the model's.
    mask = np.zeros((128, 128), np.uint8)
    mask[32:64, 64:80] = 255
    part = keeper.edit(picture, "make it brighter", seed=0, guidance_scale=10, mask_image=mask)
    np.testing.assert_array_equal(np.asarray(part.image)[mask == 0], picture[mask == 0])
    assert np.abs(np.asarray(part.image) - averaged - 10 * STEP)[mask == 255].max() <= 1.5


def test_a_large_picture_keeps_its_detail_as_far_as_the_result_shows_it(copier: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(copier, tmp_path / "keeper")
    dataclasses.replace(CONFIG, keep_below=0.05).save(folder)
    picture = np.random.default_rng(8).integers(0, 255, (192, 320, 3)).astype(np.uint8)
    result = openkontext.load(folder).edit(picture, "the picture", seed=0)
    shrunk = Image.fromarray(picture).resize((160, 96), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(shrunk))


def test_true_cfg_goes_away_from_the_negative_prompt(editor: openkontext.Editor) -> None:
    picture = blocks(low=60, high=200)
    # negative + scale * (positive - negative) in units of a "brighter": 0 + 3 * (1 - 0), then 2 + 3 * (1 - 2)
    for negative, expected in [("the picture", 3 * STEP), ("brighter brighter", -STEP)]:
        result = editor.edit(picture, "brighter", negative_prompt=negative, true_cfg_scale=3, seed=0)
        assert np.abs(difference(result, picture) - expected).max() <= 1
        assert result.warnings == ()


def test_generate_begins_from_no_picture(editor: openkontext.Editor) -> None:
    # The copier then leads to latents of 0, which the repository's shift makes 0.25 in -1..1.
    result = editor.generate("the picture", seed=0)
    assert result.image.size == (128, 128)
    assert np.unique(np.asarray(result.image)).tolist() == [round(1.25 * 127.5)]
    assert editor.generate("the picture", aspect_ratio=(5, 3)).image.size == (160, 96)


def test_a_mask_keeps_every_pixel_outside_of_it(editor: openkontext.Editor) -> None:
    picture = np.random.default_rng(0).integers(
        0, 180, (128, 128, 3), dtype=np.uint8
    )  # no blocks: not kept by itself
    mask = np.zeros((128, 128), np.uint8)
    mask[20:60, 30:99] = 255
    result = editor.edit(picture, "make it brighter", mask_image=mask, seed=0)
    changed = difference(result, picture)
    assert not changed[mask == 0].any()
    averaged = picture[:128, :128].reshape(16, 8, 16, 8, 3).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    assert np.abs(np.asarray(result.image) - averaged - STEP)[mask == 255].max() <= 1.5


def test_the_result_has_the_aspect_of_the_input(editor: openkontext.Editor) -> None:
    assert editor.edit(blocks(304, 200), "the picture").image.size == (round(96 * 304 / 200), 96)
    assert editor.edit(blocks(800, 400), "the picture").image.size == (160, 80)


@pytest.mark.parametrize("fit", images.FITS)
@settings(max_examples=8)
@given(width=st.integers(16, 300), height=st.integers(16, 300), side=st.integers(16, 200))
def test_the_result_has_exactly_the_asked_size(
    editor: openkontext.Editor, fit: str, width: int, height: int, side: int
) -> None:
    picture = np.full((side, 2 * side, 3), 77, np.uint8)
    result = editor.edit(
        picture, "the picture", width=width, height=height, fit=fit, num_inference_steps=1, seed=0
    )
    assert result.image.size == (width, height)
    assert np.abs(difference(result, np.full_like(result.image, 77))).max() <= 1


def test_the_asked_aspect_is_stretched_cropped_or_padded_to(editor: openkontext.Editor) -> None:
    picture = np.zeros((128, 256, 3), np.uint8)
    picture[:, 128:] = 240  # black left half, light right half
    results = {
        fit: editor.edit(picture, "the picture", aspect_ratio=(1, 1), fit=fit, seed=0) for fit in images.FITS
    }
    shown = {fit: np.asarray(result.image)[..., 0] > 120 for fit, result in results.items()}
    for fit in images.FITS:
        assert shown[fit].shape == (128, 128)
        assert not shown[fit][:, :62].any()
        assert shown[fit][:, 66:].all()
    assert results["stretch"].warnings == results["pad"].warnings == ()
    (warning,) = results["crop"].warnings
    assert warning == "cropped from 256x128 to the 128x128 in its middle"


def test_a_size_that_the_model_does_not_know_is_made_smaller_and_scaled(editor: openkontext.Editor) -> None:
    result = editor.edit(blocks(), "the picture", width=512, height=512, seed=0)
    assert result.notes[0] == "made at 128x128 and scaled to 512x512"
    assert editor.edit(blocks(), "the picture", width=144, height=144).notes == (UNCHANGED,)


class Spy:
    """Records the transformer's inputs."""

    def __init__(self, editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self._run = editor.components.transformer
        monkeypatch.setattr(editor.components, "transformer", self)

    def __call__(self, **arrays: Any) -> Any:
        self.calls.append(arrays)
        return self._run(**arrays)


def test_the_noise_is_the_seeds(editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(editor, monkeypatch)
    result = editor.edit(blocks(), "the picture", num_inference_steps=1)
    noise = pack(randn((1, 16, 16, 16), result.seed))
    np.testing.assert_array_equal(spy.calls[0]["hidden_states"][:, :64], noise)


def test_references_follow_the_picture_in_sizes_of_their_own(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(editor, monkeypatch)
    references = [blocks(320, 192), Image.fromarray(blocks(96, 160))]
    editor.edit(blocks(), "the picture", reference_images=references, num_inference_steps=1)
    ids = spy.calls[0]["img_ids"]
    which, counts = np.unique(ids[:, 0], return_counts=True)
    assert which.tolist() == [0, 1, 2, 3]
    assert counts.tolist() == [64, 64, 60, 60]
    assert ids[ids[:, 0] == 2].max(0).tolist() == [2, 5, 9]
    assert ids[ids[:, 0] == 3].max(0).tolist() == [3, 9, 5]


def test_a_model_of_open_text_has_its_references_side_by_side(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FLUX.1 Kontext [dev], which was trained on one picture; and so any repository that says it."""
    open_text = dataclasses.replace(editor.repository.config, references="offset")
    repository = dataclasses.replace(editor.repository, config=open_text)
    monkeypatch.setattr(editor, "repository", repository)
    spy = Spy(editor, monkeypatch)
    editor.edit(blocks(), "the picture", reference_images=[blocks(320, 192)], num_inference_steps=1)
    ids = spy.calls[0]["img_ids"]
    assert np.unique(ids[:, 0]).tolist() == [0, 1]
    second = ids[128:]  # 64 tokens of the target, 64 of the picture; 6 x 10 of the reference lie below it
    assert (second.min(0).tolist(), second.max(0).tolist()) == ([1, 8, 0], [1, 13, 9])
    assert RepositoryConfig().position_rule == "offset"
    assert RepositoryConfig(words=("red",)).position_rule == "index"


def test_stitched_pictures_are_one(editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(editor, monkeypatch)
    left, right = blocks(), blocks(320, 640)
    result = editor.edit(left, "the picture", reference_images=[right], stitch=True, num_inference_steps=1)
    assert result.image.size == (128, 128)
    ids = spy.calls[0]["img_ids"]
    assert np.unique(ids[:, 0]).tolist() == [0, 1]
    assert len(ids) == 64 + 10 * 6  # 192 x 128 comes to the size of that aspect
    joined = side_by_side([left, right])
    assert joined.shape == (128, 192, 3)
    np.testing.assert_array_equal(joined[:, :128], left)
    with pytest.raises(InputError, match="leave out the mask or stitch"):
        EditRequest(prompt="x", image=left, reference_images=[right], stitch=True, mask_image=left)
    assert EditRequest(prompt="x", image=left, stitch=True).warnings == [
        "stitch has no effect without reference images"
    ]


def test_steps_can_be_watched_previewed_and_left(editor: openkontext.Editor) -> None:
    picture = blocks()
    request = EditRequest(image=picture, prompt="the picture", num_inference_steps=5, seed=0)
    seen = []
    for step in editor.steps(request):
        seen.append((step.index, step.count))
        # The copier points straight at the picture, so that it is foreseen from the first step on.
        assert np.abs(np.asarray(step.preview()).astype(int) - picture).max() <= 1
        if step.index == 3:
            break
    assert seen == [(1, 5), (2, 5), (3, 5)]


def test_an_exception_of_the_watcher_stops_the_edit(editor: openkontext.Editor) -> None:
    class Stop(Exception):
        pass

    seen = []

    def watch(step: openkontext.EditStep) -> None:
        seen.append(step.sigma)
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        editor.edit(blocks(), "the picture", num_inference_steps=5, on_step=watch)
    assert len(seen) == 2


def test_low_memory_gives_the_same_picture(copier: Path, editor: openkontext.Editor) -> None:
    options: dict[str, Any] = {"negative_prompt": "brighter", "true_cfg_scale": 2, "seed": 1}
    sparing = openkontext.load(copier, low_memory=True)
    assert (
        sparing.edit(blocks(), "make it", **options).image
        == editor.edit(blocks(), "make it", **options).image
    )


def test_words_without_effect_are_told(editor: openkontext.Editor) -> None:
    def warnings(prompt: str, **options: Any) -> tuple[str, ...]:
        return editor.edit(blocks(), prompt, num_inference_steps=1, **options).warnings

    (unknown,) = warnings("make the zebra brighter than the Zebra")
    assert "'zebra', 'than'" in unknown
    (cut,) = warnings("make it brighter " * 4)
    assert "'make it brighter it brighter'" not in cut
    assert cut.endswith("'it brighter make it brighter'")  # 8 tokens: seven words and the end mark
    (cut,) = warnings("make it brighter " * 200)
    assert cut.endswith("…'")
    assert len(cut) < 300
    (unknown,) = warnings("make it", negative_prompt="brighter 夜 zebra", true_cfg_scale=2)
    assert "'夜', 'zebra' of the negative prompt" in unknown
    (cut,) = warnings("make it", negative_prompt="make it brighter " * 4, true_cfg_scale=2)
    assert cut.startswith("the negative prompt is too long")
    assert "no effect while true_cfg_scale is 1" in warnings("make it", negative_prompt="brighter")[0]
    assert "no effect without a negative prompt" in warnings("make it", true_cfg_scale=2)[0]


def test_metadata_goes_into_the_file_and_comes_back(editor: openkontext.Editor, tmp_path: Path) -> None:
    result = editor.edit(blocks(), " make it brighter", seed=7, num_inference_steps=2)
    result.save(tmp_path / "a.png")
    found = images.read_metadata(tmp_path / "a.png")
    assert found == result.metadata
    assert found["prompt"] == " make it brighter"
    assert (found["seed"], found["num_inference_steps"], found["guidance_scale"]) == ("7", "2", "1.0")
    assert (found["model"], found["precision"], found["digest"]) == ("copier", "fp32", editor.digest)
    assert found["software"] == f"openkontext {openkontext.__version__}"
    again = editor.edit(
        blocks(),
        found["prompt"],
        seed=int(found["seed"]),
        num_inference_steps=int(found["num_inference_steps"]),
    )
    assert again.image == result.image
    result.save(tmp_path / "b.png", metadata=False)
    assert images.read_metadata(tmp_path / "b.png") == {}


def test_edit_without_a_picture_points_to_generate(editor: openkontext.Editor) -> None:
    with pytest.raises(InputError, match=r"Editor\.generate"):
        editor.edit(None, "make it night")  # type: ignore[arg-type]


def test_a_broken_model_gives_no_picture(editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        editor.components, "encode", lambda images: np.full((1, 16, 16, 16), np.nan, np.float32)
    )
    with pytest.raises(InputError, match="copier computed not-a-number values"):
        editor.edit(blocks(), "the picture")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere"}, "no such model repository"),
        ({"precision": "fp7"}, "unknown precision 'fp7'"),
        ({"precision": "bf16"}, "has no bf16 transformer, only fp32"),
        ({"provider": "gpu"}, "unknown provider 'gpu': choose one of cpu"),
    ],
)
def test_a_model_that_cannot_be_opened_says_why(copier: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        openkontext.load(**({"model": copier} | options))
    assert message in str(caught.value)


def modules_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh Python has loaded after running some code."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_is_cheap() -> None:
    assert not modules_after("import openkontext") & {"numpy", "PIL", "onnxruntime", "pydantic", "torch"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        openkontext.nothing  # noqa: B018


def test_editing_loads_no_torch(copier: Path) -> None:
    code = f"import openkontext, numpy; editor = openkontext.load({str(copier)!r})\n"
    code += "editor.edit(numpy.zeros((64, 64, 3), 'uint8'), 'make it brighter', num_inference_steps=1)"
    loaded = modules_after(code)
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "transformers", "diffusers", "safetensors", "accelerate"}
