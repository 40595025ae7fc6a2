"""What diffusers' users hand to its pipelines, handed to an editor of the same weights: the same numbers."""

import dataclasses
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copier import CONFIG
from diffusers import FluxKontextInpaintPipeline, FluxKontextPipeline
from PIL import Image
from tiny_pipeline import tiny_pipeline

import openkontext
from openkontext import EditRequest, InputError, RefusedError, images
from openkontext.latents import pack
from openkontext.sampling import randn

SIZE = (96, 64)
PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 96, 3), np.uint8))
PROMPT = "make it brighter"


class Networks:
    """Networks of diffusers' pipeline in the place of an editor's graphs."""

    precision, arithmetic, warnings, loras = "fp32", "faithful", (), ()

    def __init__(self, pipe: FluxKontextPipeline) -> None:
        self.pipe = pipe

    def opened_ahead(self) -> AbstractContextManager[None]:
        """They are open."""
        return nullcontext()

    @torch.no_grad()
    def t5(self, ids: np.ndarray) -> np.ndarray:
        return self.pipe.text_encoder_2(torch.from_numpy(ids))[0].numpy()

    @torch.no_grad()
    def clip(self, ids: np.ndarray) -> np.ndarray:
        return self.pipe.text_encoder(torch.from_numpy(ids)).pooler_output.numpy()

    @torch.no_grad()
    def transformer(self, **inputs: np.ndarray) -> np.ndarray:
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()}
        return self.pipe.transformer(**tensors, return_dict=False)[0].numpy()

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> np.ndarray:
        return self.pipe.vae.encode(torch.from_numpy(pictures)).latent_dist.mode().numpy()

    @torch.no_grad()
    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self.pipe.vae.decode(torch.from_numpy(latent)).sample.numpy()


@pytest.fixture(scope="module")
def pipe() -> FluxKontextPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def editor(
    copier: Path, pipe: FluxKontextPipeline, tmp_path_factory: pytest.TempPathFactory
) -> openkontext.Editor:
    folder = shutil.copytree(copier, tmp_path_factory.mktemp("same") / "model")
    scale = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    dataclasses.replace(CONFIG, sizes=(SIZE, (64, 64)), words=None, min_area=0.1, **scale).save(folder)
    editor = openkontext.load(folder)
    editor.components = Networks(pipe)  # type: ignore[assignment]
    return editor


def embeds(editor: openkontext.Editor, prompt: str = PROMPT) -> dict[str, torch.Tensor]:
    ids = editor.tokenizers.encode(prompt)
    text, pooled = editor.components.t5(ids.t5_ids), editor.components.clip(ids.clip_ids)
    return {"prompt_embeds": torch.from_numpy(text), "pooled_prompt_embeds": torch.from_numpy(pooled)}


def theirs(editor: openkontext.Editor, pipe: Any, *seeds: int, **options: Any) -> Any:
    given: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "max_area": SIZE[0] * SIZE[1]}
    given |= {"width": SIZE[0], "height": SIZE[1]}
    if "sigmas" in options:
        del given["num_inference_steps"]
    return pipe(
        image=PICTURE,
        **embeds(editor),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_images_per_prompt=len(seeds),
        _auto_resize=False,
        **given | {"output_type": "latent"} | options,
    ).images


def ours(editor: openkontext.Editor, **options: Any) -> openkontext.EditResult:
    given: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}
    if "sigmas" in options:
        del given["num_inference_steps"]
    return editor.edit(PICTURE, PROMPT, **given | options)


def assert_near(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_several_pictures_have_seeds_that_follow(
    editor: openkontext.Editor, pipe: FluxKontextPipeline
) -> None:
    result = ours(editor, seed=7, num_images_per_prompt=3)
    assert_near(result.images, theirs(editor, pipe, 7, 8, 9))
    assert [each.seed for each in (result, *result.others)] == [7, 8, 9]
    alone = ours(editor, seed=9)
    assert alone.image == result.others[1].image
    assert not np.array_equal(result.image, result.others[0].image)


def test_output_types(editor: openkontext.Editor, pipe: FluxKontextPipeline) -> None:
    pil = ours(editor, seed=1, output_type="pil", num_images_per_prompt=2)
    assert [type(each) for each in pil.images] == [Image.Image] * 2
    assert pil.latents is None
    array = ours(editor, seed=1, output_type="np", num_images_per_prompt=2).images
    expected = theirs(editor, pipe, 1, 2, output_type="np")
    assert array.dtype == np.float32
    assert array.shape == expected.shape
    assert np.abs(array - expected).max() < 0.6 / 255  # ours is of 8 bits


@pytest.mark.parametrize("sigmas", [[1.0, 0.7, 0.2], [0.9, 0.5], [1.0]])
def test_sigmas(editor: openkontext.Editor, pipe: FluxKontextPipeline, sigmas: list[float]) -> None:
    result = ours(editor, seed=5, sigmas=sigmas)
    assert_near(result.images, theirs(editor, pipe, 5, sigmas=sigmas))
    assert result.num_inference_steps == len(sigmas)
    assert result.metadata["sigmas"].startswith("[")


@pytest.mark.parametrize("packed", [True, False])
def test_latents(editor: openkontext.Editor, pipe: FluxKontextPipeline, packed: bool) -> None:
    noise = randn((2, 16, 8, 12), 77)
    given = torch.from_numpy(pack(noise)) if packed else noise
    found = ours(editor, seed=0, latents=given, num_images_per_prompt=2).images
    assert_near(found, theirs(editor, pipe, 0, 0, latents=torch.from_numpy(pack(noise))))


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.5, 0.1])
def test_strength(editor: openkontext.Editor, pipe: FluxKontextPipeline, strength: float) -> None:
    inpaint = FluxKontextInpaintPipeline(**pipe.components)
    inpaint.set_progress_bar_config(disable=True)
    white = Image.new("L", SIZE, 255)
    options = {"mask_image": white, "strength": strength}
    found = ours(editor, seed=4, strength=strength)
    assert_near(found.images, theirs(editor, inpaint, 4, **options))
    assert ("strength" in found.metadata) == (strength < 1)


def test_a_callback_sees_and_changes_the_latents(
    editor: openkontext.Editor, pipe: FluxKontextPipeline
) -> None:
    seen: dict[str, list[Any]] = {"ours": [], "theirs": []}

    def callback(name: str) -> Any:
        def change(pipe: Any, step: int, timestep: Any, arrays: dict[str, Any]) -> dict[str, Any]:
            seen[name].append((step, float(timestep), sorted(arrays)))
            return {"latents": arrays["latents"] * (0.9 if step != 1 else 1.2)}

        return change

    names = ["latents", "prompt_embeds"]
    options = {"callback_on_step_end_tensor_inputs": names}
    found = ours(editor, seed=2, callback_on_step_end=callback("ours"), **options)
    expected = theirs(editor, pipe, 2, callback_on_step_end=callback("theirs"), **options)
    assert_near(found.images, expected)
    for (step, timestep, asked), (their_step, their_timestep, their_asked) in zip(
        seen["ours"], seen["theirs"], strict=True
    ):
        assert (step, asked) == (their_step, their_asked)
        assert timestep == pytest.approx(their_timestep, rel=1e-5)


def test_a_callback_that_returns_nothing_only_watches(editor: openkontext.Editor) -> None:
    seen = []
    found = ours(editor, seed=2, callback_on_step_end=lambda *given: seen.append(given[0]))
    np.testing.assert_array_equal(found.images, ours(editor, seed=2).images)
    assert seen == [editor] * 4


def test_what_a_callback_may_not_return(editor: openkontext.Editor) -> None:
    def returning(value: Any) -> Any:
        return lambda *_: value

    with pytest.raises(InputError, match="must return a dictionary, not list"):
        ours(editor, callback_on_step_end=returning([1]))
    with pytest.raises(InputError, match=r"shape \[1, 24, 64\] or"):
        ours(editor, callback_on_step_end=returning({"latents": np.zeros((1, 5, 64))}))
    with pytest.raises(InputError, match="not finite"):
        ours(editor, callback_on_step_end=returning({"latents": np.full((1, 24, 64), np.nan)}))
    with pytest.raises(InputError, match="no filter could judge"):
        ours(editor, callback_on_step_end=returning({"prompt_embeds": np.zeros((1, 8, 24))}))


def test_embeddings_of_the_prompt_are_taken_and_others_refused(
    editor: openkontext.Editor, pipe: FluxKontextPipeline
) -> None:
    own = embeds(editor)
    np.testing.assert_array_equal(ours(editor, seed=1, **own).images, ours(editor, seed=1).images)
    rounded = {name: tensor.bfloat16() for name, tensor in own.items()}
    assert_near(ours(editor, seed=1, **rounded).images, ours(editor, seed=1).images, 0.05)
    with pytest.raises(InputError, match="not those of the prompt"):
        ours(editor, **embeds(editor, "make the picture brighter"))
    with pytest.raises(InputError, match="not those of the prompt"):  # one of the two is enough
        ours(editor, **own | {"pooled_prompt_embeds": -own["pooled_prompt_embeds"]})
    with pytest.raises(InputError, match=r"prompt_embeds must have the shape \[1, 8, 24\]"):
        ours(editor, **own | {"prompt_embeds": torch.zeros(1, 5, 24)})
    with pytest.raises(InputError, match="prompt_embeds and pooled_prompt_embeds come together"):
        ours(editor, prompt_embeds=own["prompt_embeds"])
    with pytest.raises(InputError, match="instruction is empty"):
        editor.edit(PICTURE, "", **own)


def test_a_shorter_sequence_sees_less(editor: openkontext.Editor) -> None:
    long = "make it brighter the picture"
    cut = editor.edit(PICTURE, long, seed=1, num_inference_steps=1, max_sequence_length=3)
    short = editor.edit(PICTURE, "make it", seed=1, num_inference_steps=1)
    full = editor.edit(PICTURE, long, seed=1, num_inference_steps=1, max_sequence_length=512)
    assert "'brighter the picture'" in cut.warnings[0]
    assert full.warnings == ()
    ids = editor.tokenizers.encode(long, 3).t5_ids
    np.testing.assert_array_equal(ids, editor.tokenizers.encode("make it").t5_ids)
    np.testing.assert_array_equal(
        editor.tokenizers.encode(long).t5_ids, editor.tokenizers.encode(long, 512).t5_ids
    )
    assert short.image != full.image


BAD: list[tuple[dict[str, Any], str]] = [
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt is 1.5"),
    ({"output_type": "pt"}, "'pt' is unknown; choose pil, np, latent"),
    ({"strength": 0}, "strength is 0, which changes nothing"),
    ({"strength": 1.5}, "strength is 1.5"),
    ({"strength": float("nan")}, "strength is nan"),
    ({"image": None, "strength": 0.5}, "strength needs a picture"),
    ({"sigmas": []}, "sigmas must be a list of 1 to 1000"),
    ({"sigmas": "much"}, "sigmas must be a list"),
    ({"sigmas": [0.5, 0.7]}, "sigmas must fall"),
    ({"sigmas": [1.0, 0.0]}, "sigmas must fall"),
    ({"sigmas": [1.2, 0.5]}, "sigmas must fall"),
    ({"sigmas": [1.0, 0.5], "num_inference_steps": 3}, "2 steps, and num_inference_steps is 3"),
    ({"max_sequence_length": 513}, "max_sequence_length is 513"),
    ({"max_sequence_length": 0}, "max_sequence_length is 0"),
    ({"callback_on_step_end": 3}, "must be a function"),
    ({"callback_on_step_end_tensor_inputs": ["noise"]}, "has 'noise'; choose of latents, prompt_embeds"),
    ({"crop_to_mask": True}, "crop_to_mask needs a mask"),
    (
        {"crop_to_mask": True, "mask_image": "m.png", "width": 64, "height": 64},
        "keeps the picture's own size",
    ),
    ({"extend": {"up": 3}}, "extend has no side 'up'"),
    ({"extend": {"left": 0}}, "extend left is 0"),
    ({"extend": {"left": 5000}}, "extend left is 5000"),
    ({"extend": 3}, "it must be sides with pixels"),
    ({"image": None, "extend": {"left": 3}}, "extend needs a picture"),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_bad_values_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match="^.*" + says.replace("[", r"\[")):
        EditRequest(**{"image": PICTURE, "prompt": PROMPT} | options)


def test_latents_of_another_shape(editor: openkontext.Editor) -> None:
    with pytest.raises(InputError, match=r"latents must have the shape \[1, 24, 64\] or \[1, 16, 8, 12\]"):
        ours(editor, latents=np.zeros((2, 24, 64)))


class Refusing:
    """A check that refuses pictures which are, in the mean, brighter than a limit."""

    name, version, stages, turn = "bright", "1", ("output",), 0

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seen: list[np.ndarray] = []

    def scores(self, subject: Any) -> dict[str, float]:
        self.seen.append(subject.pixels)
        return {"sexual": float(subject.pixels.mean() > self.limit)}


def test_latents_are_judged_before_they_are_given(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Refusing(256)
    monkeypatch.setattr(editor.guard, "checks", (*editor.guard.checks, check))
    mask = np.zeros((64, 96), np.uint8)
    mask[16:32, 16:32] = 255
    result = ours(editor, seed=3, mask_image=mask)
    composed, decoded = sorted(check.seen, key=lambda pixels: np.abs(pixels - np.asarray(result.image)).max())
    np.testing.assert_array_equal(composed, result.image)
    latents = np.asarray(result.images)
    raw = images.from_model(
        editor.components.decode(
            latents.reshape(1, 4, 6, 16, 2, 2).transpose(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 12)
            / np.float32(0.3611)
            + np.float32(0.1159)
        )
    )
    np.testing.assert_array_equal(decoded, raw)
    check.limit = -1
    for options in (
        {},
        {"callback_on_step_end": lambda *given: given[3]},
        {"latents": np.zeros((1, 24, 64))},
    ):
        with pytest.raises(RefusedError):
            ours(editor, seed=3, **options)


def test_of_several_pictures_those_that_may_be_shown_are(
    editor: openkontext.Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ours(editor, seed=7, output_type="pil", num_images_per_prompt=3)
    means = [float(np.asarray(image).mean()) for image in whole.images]
    limit = sorted(means)[1] + 1e-6  # the brightest of the three is refused
    monkeypatch.setattr(editor.guard, "checks", (*editor.guard.checks, Refusing(limit)))
    rest = ours(editor, seed=7, output_type="pil", num_images_per_prompt=3)
    assert len(rest.images) == 2
    assert [each.seed for each in (rest, *rest.others)] == [7 + i for i in range(3) if means[i] < limit]
    assert "a picture is missing: refused" in rest.warnings[-1]
