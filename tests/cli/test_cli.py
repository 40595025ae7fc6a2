"""The commands as a user meets them: exit codes, one line of error, files whole or absent."""

import dataclasses
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copier import BRIGHTER, CONFIG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import openkontext
from openkontext import images
from openkontext.cli import main
from openkontext.editor import UNCHANGED

Run = Callable[..., "Outcome"]


class Outcome:
    """What a command left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in an empty folder that holds `photo.png`, a picture of 128x96."""
    monkeypatch.chdir(tmp_path)
    save_photo(Path("photo.png"))

    def run(*args: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Outcome(code, *capsys.readouterr())

    return run


def save_photo(path: Path) -> None:
    colors = np.random.default_rng(2).integers(0, 200, (12, 16, 3))
    Image.fromarray(np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)).save(path)


def names(folder: str | Path = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def brightness(path: str) -> float:
    return float(np.asarray(Image.open(path).convert("RGB")).mean())


# ---- edit --------------------------------------------------------------------------------------------------


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
    assert abs(own[~outside].mean() - noise.mean() - 3 * BRIGHTER * 127.5) < 2
    read, made = json.loads(done.out)["notes"][:2]
    assert read.startswith("the mask was read by its transparency: the transparent 7.5% of the picture may")
    assert made.startswith("made at 128x128; the changed 8% is scaled to 400x300")
    assert f"note: {made}" in done.err


def test_chat_stays_at_the_original_size(run: Run, copier: Path) -> None:
    Image.new("RGB", (400, 300), (90, 90, 90)).save("large.png")
    lines = "brighter\nbrighter\n/save two.png\n"
    done = run("chat", "large.png", "--model", copier, "--size", "original", stdin=lines)
    assert done.code == 0
    assert Image.open("two.png").size == (400, 300)
    assert run("chat", "large.png", "--model", copier, "--size", "64x64", stdin="brighter").code == 0
    assert run("chat", "large.png", "--model", copier, "--size", "big", stdin="brighter").code == 2


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


# ---- what a user can get wrong -----------------------------------------------------------------------------

EDIT = ("edit", "photo.png", "make it brighter")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("edit", "photo.png", ""), "the instruction is empty; say what to change"),
        (("edit", "photo.png", " "), "the instruction is empty"),
        (("edit", "photo.png", "x" * 10_000), "the instruction has 10000 characters; shorten it"),
        (("generate", ""), "the instruction is empty"),
        ((*EDIT, "--steps", "0"), "--steps is 0; it must be a whole number from 1 to 1000"),
        ((*EDIT, "--steps", "-5"), "--steps is -5"),
        ((*EDIT, "--steps", "many"), "Invalid value for '--steps'"),
        ((*EDIT, "--guidance", "-1"), "--guidance is -1"),
        ((*EDIT, "--guidance", "nan"), "--guidance is nan"),
        ((*EDIT, "--true-cfg", "0"), "--true-cfg is 0"),
        ((*EDIT, "--seed", "-1"), "--seed is -1"),
        ((*EDIT, "--seed", str(2**64)), "--seed is 18446744073709551616"),
        ((*EDIT, "--size", "huge"), "--size 'huge' is no size; write auto, pixels such as 1024x768"),
        ((*EDIT, "--size", "0x0"), "--size is 0"),
        ((*EDIT, "--size", "99999x99999"), "--size is 99999; it must be a whole number from 16 to 4096"),
        ((*EDIT, "--size", "-4:3"), "--size '-4:3' is no size"),
        ((*EDIT, "--size", "0:3"), "--size is 0"),
        ((*EDIT, "--size", "100:1"), "100:1 is too narrow"),
        ((*EDIT, "--fit", "squash"), "--fit 'squash' is unknown; choose stretch, crop or pad"),
        ((*EDIT, "--precision", "fp7"), "unknown precision 'fp7'"),
        ((*EDIT, "--precision", "bf16"), "has no bf16 transformer, only fp32"),
        ((*EDIT, "--provider", "gpu"), "unknown provider 'gpu'"),
        ((*EDIT, "--provider", "tensorrt"), "provider 'tensorrt' is not in the installed ONNX Runtime"),
        ((*EDIT, "-o", "."), ".: "),
        ((*EDIT, "-o", "no/such/folder/a.png"), "there is no directory"),
        ((*EDIT, "-o", "a.gif"), "cannot write .gif"),
        ((*EDIT, "-o", "a"), "a: "),
        ((*EDIT, "--mask", "none.png"), "none.png: no such file"),
        ((*EDIT, "--reference", "none.png"), "none.png: no such file"),
        (("edit", "none.png", "brighter"), "none.png: no such file"),
        (("edit", "..", "brighter"), "..: holds no picture"),
        (("chat", "none.png"), "none.png: no such file"),
        (("chat", "photo.png", "--steps", "0"), "--steps is 0"),
        (("edit", "photo.png"), "Missing argument 'PROMPT'; see openkontext edit --help"),
        ((*EDIT, "--stepz", "3"), "No such option: --stepz"),
        (("edti", "photo.png"), "No such command 'edti'"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(
    run: Run, copier: Path, args: tuple[str, ...], says: str
) -> None:
    model = () if args[0] == "edti" else ("--model", copier)
    done = run(*args, *model)
    assert done.code == 2
    assert says in done.error
    assert done.out == ""
    assert names() == ["photo.png"]


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is and goes no further."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"just words, not a picture", "JPEG, PNG"),
        (b"\xff\xd8\xff\xe0 no jpeg", "bad"),
        (png(64, 64)[:80], "damaged or cut short"),
        (huge_png(50_000, 50_000), "too large"),
        (png(1, 1), "too small"),
        (png(20_000, 20), "too narrow"),
    ],
    ids=["empty", "text", "not jpeg", "truncated", "bomb", "1x1", "20000x20"],
)
def test_a_bad_picture_is_one_line_and_exit_code_2(run: Run, copier: Path, content: bytes, says: str) -> None:
    Path("bad").write_bytes(content)
    done = run("edit", "bad", "make it brighter", "--model", copier)
    assert done.code == 2
    assert says in done.error
    assert done.error.startswith("bad: ")
    assert names() == ["bad", "photo.png"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "vae.opt" / "model.onnx").unlink(), "lacks vae.opt/model.onnx"),
        (lambda root: (root / "clip.opt" / "model.onnx").write_bytes(b""), "clip.opt/model.onnx"),
        (
            lambda root: (root / "t5.opt" / "model.onnx").write_bytes(
                (root / "vae.opt" / "model.onnx").read_bytes()
            ),
            "not a t5 graph",
        ),
        (
            lambda root: (root / "openkontext.json").write_text('{"clip_length": 9, "license": "MIT"}'),
            "clip_length is",
        ),
        (lambda root: (root / "openkontext.json").write_text("{"), "openkontext.json"),
        (lambda root: (root / "tokenizer" / "tokenizer.json").write_text("{"), "cannot read the tokenizer"),
    ],
    ids=["no graph", "empty graph", "another graph", "another length", "bad settings", "bad tokenizer"],
)
def test_a_bad_repository_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    from copier import make_repository

    spoil(make_repository(tmp_path / "models" / "spoiled"))
    done = run(*EDIT, "--model", tmp_path / "models" / "spoiled")
    assert done.code == 2
    assert says in done.error
    assert not Path("photo-edited.png").exists()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(max_size=80), size=st.text(alphabet="0123456789x:auto-. ", max_size=9))
def test_any_words_and_any_size_end_in_0_or_2(run: Run, copier: Path, prompt: str, size: str) -> None:
    done = run(
        "edit", "--model", copier, "--steps", 1, "-o", "a.png", f"--size={size}", "--", "photo.png", prompt
    )  # fmt: skip
    assert done.code in (0, 2)
    assert Path("a.png").exists() == (done.code == 0)
    Path("a.png").unlink(missing_ok=True)
    if done.code == 2:
        assert done.error


# ---- chat --------------------------------------------------------------------------------------------------


def test_chat_edits_undoes_branches_and_saves(run: Run, copier: Path) -> None:
    lines = """
    make it brighter
    /save one.png
    make it brighter
    /undo
    the picture
    /history
    /branch 2
    /save
    /branch 0
    /quit
    """
    done = run("chat", "photo.png", "--model", copier, "--seed", 1, stdin=lines)
    assert done.code == 0
    assert done.out.splitlines() == [
        "picture 1, from 0: make it brighter (seed 1)",
        "saved picture 1 as one.png",
        "picture 2, from 1: make it brighter (seed 1)",
        "back at picture 1, from 0: make it brighter (seed 1)",
        "picture 3, from 1: the picture (seed 1)",
        "  picture 0: the one you began with",
        "  picture 1, from 0: make it brighter (seed 1)",
        "  picture 2, from 1: make it brighter (seed 1)",
        "* picture 3, from 1: the picture (seed 1)",
        "now at picture 2, from 1: make it brighter (seed 1)",
        "saved picture 2 as photo-2.png",
        "now at picture 0: the one you began with",
    ]
    assert abs(brightness("one.png") - brightness("photo.png") - 12.75) < 1.5
    assert abs(brightness("photo-2.png") - brightness("photo.png") - 25.5) < 2
    prompts = json.loads(images.read_metadata("photo-2.png")["prompts"])
    assert prompts == ["make it brighter", "make it brighter"]


def test_chat_says_what_was_not_saved(run: Run, copier: Path) -> None:
    done = run("chat", "photo.png", "--model", copier, stdin="make it brighter")
    assert done.code == 0
    assert "note: picture 1 was not saved" in done.err
    assert names() == ["photo.png"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/undo", "nothing to undo"),
        ("/save", "nothing to save yet"),
        ("/branch 7", "/branch needs the number of a picture, 0 to 0"),
        ("/branch", "/branch needs the number"),
        ("/dance", "there is no /dance; /help lists"),
        ("x" * 10_000, "the instruction has 10000 characters"),
    ],
)
def test_a_line_that_cannot_be_followed_ends_a_script(run: Run, copier: Path, line: str, says: str) -> None:
    done = run("chat", "photo.png", "--model", copier, stdin=f"{line}\n/help\n")
    assert done.code == 2
    assert says in done.error
    assert done.out == ""


def test_chat_helps(run: Run, copier: Path) -> None:
    out = run("chat", "photo.png", "--model", copier, stdin="/help").out
    assert all(command in out for command in ("/undo", "/branch N", "/history", "/save [FILE]", "/quit"))


# ---- around ------------------------------------------------------------------------------------------------


def test_doctor_tells_what_works(run: Run, copier: Path) -> None:
    done = run("doctor", "--model", copier, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    states = {check["what"]: check["state"] for check in found["checks"]}
    assert found["ok"] is True
    assert states["provider cpu"] == states[f"model {copier}"] == "ok"
    plain = run("doctor", "--model", "nowhere")
    assert plain.code == 2
    assert "bad     model nowhere" in plain.out
    assert "no such model repository" in plain.error


ODD = "don’t \x1b[31mmake\x07 it\u2028 \u202e“red” — 夜 🌙 [bold]now[/bold]"


def test_any_text_is_shown_on_one_line_that_no_terminal_obeys(run: Run, copier: Path) -> None:
    done = run("edit", "photo.png", ODD, "--model", copier, "--seed", 1, "-o", "out.png")
    assert done.code == 0, done.err
    lines = done.err.rstrip("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    (warning,) = [line for line in lines if "never taught" in line]
    assert all(f"'{word}'" in warning for word in ("don’t", "夜", "🌙", "bold"))
    assert images.read_metadata("out.png")["prompt"] == ODD
    bad = run("edit", "photo.png", "make it brighter", "--model", f"no\x1b]0;such\x07\n{ODD}")
    assert bad.code == 2
    assert bad.error.isprintable()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_is_whole_whatever_the_pipe_can_hold(copier: Path, tmp_path: Path, encoding: str) -> None:
    save_photo(tmp_path / "photo.png")
    command = ["edit", "photo.png", "brighter é 夜 🌙", "--model", str(copier), "--seed", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "openkontext", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.decode(encoding))
    assert record["prompt"] == "brighter é 夜 🌙"
    assert "🌙" in record["warnings"][0]


def test_no_arguments_show_the_help(run: Run) -> None:
    done = run()
    assert done.code == 0
    assert "Edit images from text instructions" in done.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"openkontext {openkontext.__version__}\n"


def test_a_defect_of_ours_is_one_line_and_exit_code_1(
    run: Run, copier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("openkontext.editor.Editor.run", fail)
    done = run(*EDIT, "--model", copier)
    assert done.code == 1
    assert "RuntimeError: two lines" in done.error
    with pytest.raises(RuntimeError):
        run(*EDIT, "--model", copier, "--debug")


def test_debug_after_two_dashes_is_an_instruction(run: Run, copier: Path) -> None:
    done = run("edit", "--model", copier, "--", "photo.png", "--debug")
    assert done.code == 0
    assert images.read_metadata("photo-edited.png")["prompt"] == "--debug"


def test_ctrl_c_leaves_nothing_behind(copier: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "photo.png")
    command = [sys.executable, "-m", "openkontext", *EDIT, "--model", str(copier), "--steps", "1000"]
    process = subprocess.Popen(
        [*command, "--preview", "steps"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "steps" / "step-0003.png").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert names(tmp_path) == ["photo.png", "steps"]
    assert not [name for name in names(tmp_path / "steps") if not name.endswith(".png")]
