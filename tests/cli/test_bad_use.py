"""What a user can get wrong: one line of error, exit code 2, and nothing half-written."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import EDIT, Run, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image


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
        (
            (*EDIT, "--cache", "nan"),
            "--cache is 'nan'; it must be a number from 0 to 1, or one of off, close",
        ),
        ((*EDIT, "--cache", "2"), "--cache is '2'"),
        ((*EDIT, "--cache", ""), "--cache is ''"),
        ((*EDIT, "--cache", "fastest"), "--cache is 'fastest'"),
        (("generate", "a ball", "--cache", "-0.1"), "--cache is '-0.1'"),
        (
            (*EDIT, "--arithmetic", "INT8"),
            "unknown arithmetic 'INT8': choose one of auto, faithful, fast, int8",
        ),
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
