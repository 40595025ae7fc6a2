"""`edit` and `generate` as a user meets them: files whole or absent, and what is said of them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Run, brightness, names
from copier import CONFIG, STEP
from PIL import Image

from openkontext import images
from openkontext.editor import UNCHANGED


def test_edit_writes_the_edited_picture_beside_nothing_else(run: Run, copier: Path) -> None:
    done = run("edit", "photo.png", "make it brighter", "--model", copier, "--seed", 5)
    assert done.code == 0
    assert done.out.startswith("photo-edited.png: 128x96, 3 steps, seed 5, ")
    assert "step 3/3" in done.err
    assert names() == ["photo-edited.png", "photo.png"]
    assert abs(brightness("photo-edited.png") - brightness("photo.png") - 12.75) < 1.5
    assert images.read_metadata("photo-edited.png")["prompt"] == "make it brighter"


def test_edit_without_output_never_overwrites(run: Run, copier: Path) -> None:
    done = [run("edit", "photo.png", "make it", "--model", copier) for _ in range(3)]
    assert [outcome.out.partition(":")[0] for outcome in done] == [
        "photo-edited.png",
        "photo-edited-2.png",
        "photo-edited-3.png",
    ]


def test_json_is_one_object_and_nothing_else(run: Run, copier: Path) -> None:
    done = run(
        "edit", "photo.png", "make the zebra brighter", "--model", copier, "--json", "--seed", 9,
        "-o", "a.webp", "--steps", 2, "--guidance", 2, "--negative", "the picture", "--true-cfg", 3,
        "--size", "64x48",
    )  # fmt: skip
    found = json.loads(done.out)
    assert found.pop("seconds") > 0
    assert len(found.pop("digest")) == 64
    verdict = found.pop("verdict")
    assert (verdict["allowed"], verdict["category"]) == (True, None)
    looked = {(check["name"], check["stage"]) for check in verdict["checks"]}
    assert {("prompt", "prompt"), ("nudenet", "input"), ("ocr", "output"), ("together", "pair")} <= looked
    (warning,) = found.pop("warnings")
    assert "'zebra'" in warning
    assert warning in done.err
    assert found == {
        "output": "a.webp",
        "width": 64,
        "height": 48,
        "prompt": "make the zebra brighter",
        "negative_prompt": "the picture",
        "cache": 0.0,
        "seed": 9,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "true_cfg_scale": 3.0,
        "model": "copier",
        "precision": "fp32",
        "arithmetic": "faithful",
        "notes": [UNCHANGED],  # the copier brightens by little
        "unchanged": True,
    }
    assert Image.open("a.webp").size == (64, 48)


def test_an_edit_that_did_nothing_says_so(run: Run, copier: Path) -> None:
    done = run("edit", "photo.png", "remove the dragon", "--model", copier, "-o", "same.png")
    assert done.code == 0
    assert f"note: {UNCHANGED}" in done.err
    assert "'remove', 'dragon'" in done.err
    done = run("edit", "photo.png", "brighter brighter", "--model", copier, "-o", "b.png", "--guidance", 20)
    assert done.code == 0
    assert UNCHANGED not in done.err


def test_size_mask_reference_fit_and_metadata_options(run: Run, copier: Path) -> None:
    mask = Image.new("L", (128, 96), 255)
    mask.paste(0, (0, 0, 20, 96))
    mask.save("mask.png")
    done = run(
        "edit", "photo.png", "brighter", "--model", copier, "-o", "a.png", "--size", "1:1", "--fit", "crop",
        "--mask", "mask.png", "--reference", "photo.png", "--reference", "mask.png",
        "--no-metadata", "--low-memory",
    )  # fmt: skip
    assert done.code == 0
    assert "warning: cropped from 128x96 to the 96x96 in its middle" in done.err
    assert Image.open("a.png").size == (128, 128)
    assert images.read_metadata("a.png") == {}


def test_the_original_size_and_the_notes_of_sizes_and_masks(run: Run, copier: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 100, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(noise).save("large.png")
    hole = Image.new("RGBA", (400, 300), "white")
    hole.paste((0, 0, 0, 0), (100, 90, 200, 180))  # 7.5%
    hole.save("hole.png")
    asked = ("edit", "large.png", "brighter", "--model", copier, "--guidance", 3)
    done = run(*asked, "-o", "small.png")
    assert "note: the picture of 400x300 comes back as 128x96: copier works at that size;" in done.err
    assert "; --size original keeps its own" in done.err
    done = run(*asked, "-o", "own.png", "--size", "original", "--mask", "hole.png", "--json")
    own = np.asarray(Image.open("own.png")).astype(int)
    outside = np.ones((300, 400), bool)
    outside[90:180, 100:200] = False
    np.testing.assert_array_equal(own[outside], noise[outside])
    assert abs(own[~outside].mean() - noise.mean() - 3 * STEP) < 2
    read, made = json.loads(done.out)["notes"][:2]
    assert read.startswith("the mask was read by its transparency: the transparent 7.5% of the picture may")
    assert made.startswith("made at 128x128; the changed 8% is scaled to 400x300")
    assert f"note: {made}" in done.err


def test_repaint_lets_the_model_paint_all_anew(run: Run, copier: Path) -> None:
    shutil.copytree(copier, "keeper")
    dataclasses.replace(CONFIG, keep_below=0.05).save(Path("keeper"))
    noise = np.random.default_rng(1).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(noise).save("noise.png")
    for name, options in (("kept.png", ()), ("painted.png", ("--repaint",))):
        done = run("edit", "noise.png", "the picture", "--model", "keeper", "-o", name, *options)
        assert done.code == 0
    assert (np.asarray(Image.open("kept.png")) == noise).all()
    # The copier's autoencoder averages blocks of 8x8 pixels.
    assert np.asarray(Image.open("painted.png"))[:8, :8].std(axis=(0, 1)).max() < 1


def test_preview_writes_one_picture_a_step(run: Run, copier: Path) -> None:
    done = run(
        "edit", "photo.png", "brighter", "--model", copier, "--steps", 11, "--preview", "a/b", "-o", "c.png"
    )
    assert done.code == 0
    assert names("a/b") == [f"step-{step:02}.png" for step in range(1, 12)]
    assert abs(brightness("a/b/step-01.png") - brightness("c.png")) < 1  # the copier foresees the end
    again = run("edit", "photo.png", "brighter", "--model", copier, "--preview", "a/b", "-o", "d.png")
    assert again.code == 2
    assert again.error == "a/b: is not empty; name a new folder for the previews, or --overwrite"
    assert not Path("d.png").exists()
    assert run("edit", "photo.png", "brighter", "--model", copier, "--preview", "photo.png").code == 2


def test_a_signer_that_cannot_be_used_is_told_before_the_steps(
    run: Run, copier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENKONTEXT_SIGNER", "no_such_module:signer")
    done = run("edit", "photo.png", "make it", "--model", copier, "-o", "a.png", "--preview", "steps")
    assert done.code == 2
    assert "OPENKONTEXT_SIGNER" in done.error
    assert not Path("a.png").exists()
    assert not Path("steps").exists()


def test_overwrite_is_asked_for(run: Run, copier: Path) -> None:
    before = Path("photo.png").read_bytes()
    refused = run("edit", "photo.png", "brighter", "--model", copier, "-o", "photo.png")
    assert refused.code == 2
    assert "photo.png: exists already" in refused.error
    assert Path("photo.png").read_bytes() == before
    done = run("edit", "photo.png", "brighter", "--model", copier, "-o", "photo.png", "--overwrite")
    assert done.code == 0
    assert Path("photo.png").read_bytes() != before


def test_generate_names_its_file_after_the_prompt(run: Run, copier: Path) -> None:
    done = run("generate", "The  picture, brighter!", "--model", copier, "--size", "5:3")
    assert done.code == 0
    assert Image.open("the-picture-brighter.png").size == (160, 96)
    assert run("generate", "!!!", "--model", copier).out.startswith("generated.png: ")
