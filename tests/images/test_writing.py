"""Files come out whole, with their metadata, or not at all."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openkontext import images
from openkontext.errors import InputError

METADATA = {"prompt": "make the ball red", "seed": "1", "note": "größer — 日本語 🎈\n\0"}


def picture(width: int = 60, height: int = 40) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 4, rows * 6, 255 - columns * 4], axis=-1).astype(np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def refusal(path: Path | str, pixels: np.ndarray | None = None, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        images.save(path, picture() if pixels is None else pixels, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "kind", "tolerance"),
    [
        (".png", "PNG", 0),
        (".PNG", "PNG", 0),
        (".tif", "TIFF", 0),
        (".tiff", "TIFF", 0),
        (".jpg", "JPEG", 4),
        (".jpeg", "JPEG", 4),
        (".webp", "WEBP", 8),
    ],
)
def test_every_format_with_metadata(tmp_path: Path, suffix: str, kind: str, tolerance: int) -> None:
    file = tmp_path / f"out{suffix}"
    images.save(file, picture(), METADATA)
    with Image.open(file) as image:
        assert image.format == kind
        assert image.size == (60, 40)
    difference = images.load(file).pixels.astype(int) - picture()
    assert np.abs(difference).mean() <= tolerance / 2
    assert images.read_metadata(file) == METADATA
    assert names(tmp_path) == [file.name]


def test_metadata_can_be_seen_by_others(tmp_path: Path) -> None:
    images.save(tmp_path / "a.png", picture(), {"prompt": "größer"})
    assert '{"prompt": "größer"}'.encode() in (tmp_path / "a.png").read_bytes()
    images.save(tmp_path / "a.jpg", picture(), {"prompt": "größer"})
    with Image.open(tmp_path / "a.jpg") as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + '{"openkontext": {"prompt": "größer"}}'.encode("utf-16-le")


@settings(max_examples=60, deadline=None)
@given(
    metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=100), max_size=4),
    suffix=st.sampled_from([".png", ".jpg", ".webp", ".tiff"]),
)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str], suffix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"text{suffix}"
    images.save(file, picture(), metadata, overwrite=True)
    assert images.read_metadata(file) == metadata


def test_words_that_are_no_text_do_not_stop_the_writing(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        images.save(tmp_path / f"a{suffix}", picture(), {"prompt": "caf\udce9"})
        assert images.read_metadata(tmp_path / f"a{suffix}") == {"prompt": "caf?"}


def test_pictures_of_others_have_no_metadata_of_ours(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a holiday"
    Image.fromarray(picture()).save(tmp_path / "comment.jpg", exif=exif)
    for name in ("plain.png", "plain.jpg", "plain.gif"):
        Image.fromarray(picture()).save(tmp_path / name)
    for file in tmp_path.iterdir():
        assert images.read_metadata(file) == {}
    with pytest.raises(InputError, match="no such file"):
        images.read_metadata(tmp_path / "none.png")


def test_an_existing_file_stays_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "out.png"
    file.write_bytes(b"precious")
    assert refusal(file) == f"{file}: exists already; name another file, or overwrite it"
    assert file.read_bytes() == b"precious"
    images.save(file, picture(), overwrite=True)
    np.testing.assert_array_equal(images.load(file).pixels, picture())
    assert names(tmp_path) == ["out.png"]


def test_a_file_that_comes_into_being_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.png"
    sync = os.fsync

    def somebody_else_writes(descriptor: int) -> None:
        sync(descriptor)
        file.write_bytes(b"precious")

    monkeypatch.setattr(os, "fsync", somebody_else_writes)
    assert "exists already" in refusal(file)
    assert file.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.png"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to("there/out.png")
    images.save(tmp_path / "link.png", picture())
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(images.load(tmp_path / "there" / "out.png").pixels, picture())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "dir.png").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    cases = {
        tmp_path / "out": "has no suffix; use .png, .jpg, .webp or .tiff",
        tmp_path / "out.gif": "cannot write .gif files; use .png",
        tmp_path / "out.xyz": "cannot write .xyz files",
        tmp_path / "dir.png": "is a directory; name a file in it",
        tmp_path / "none" / "out.png": f"there is no directory {tmp_path}/none; make it first",
        tmp_path / "file" / "out.png": "",
        tmp_path / "loop.png": "cannot be written",
        tmp_path / f"{'long' * 100}.png": "cannot be written (File name too long)",
        "nul\0.png": "cannot be written",
    }
    for path, fault in cases.items():
        message = refusal(path)
        assert message.startswith(f"{path}: ")
        assert fault in message
        with pytest.raises(InputError) as caught:
            images.check_output(path)
        assert str(caught.value) == message
    assert names(tmp_path) == ["dir.png", "file", "loop.png"]


def test_a_directory_that_may_not_be_written(
    unprivileged: Callable[[], AbstractContextManager[None]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with unprivileged():
            fault = f"the directory {folder} is not writable; name another"
            assert refusal(folder / "out.png") == f"{folder}/out.png: {fault}"
        assert names(folder) == []
        folder.chmod(0o755)


def test_a_full_disk_leaves_nothing_behind_and_harms_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "out.tiff"
    file.write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the system stops a write after 4 of 7 kB
    try:
        message = refusal(file, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message == f"{file}: cannot be written (File too large)"
    assert file.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.tiff"]


def test_stopping_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        images.save(tmp_path / "out.png", picture())
    assert names(tmp_path) == []


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    assert "does not fit into WEBP" in refusal(tmp_path / "a.webp", np.zeros((16, 17_000, 3), np.uint8))
    assert "does not fit into JPEG" in refusal(tmp_path / "a.jpg", np.zeros((16, 66_000, 3), np.uint8))
    assert "does not fit into JPEG" in refusal(tmp_path / "a.jpg", metadata={"prompt": "x" * 40_000})
    assert names(tmp_path) == []


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    images.save(tmp_path / "out.png", picture())
    subprocess.run(["touch", tmp_path / "touched"], check=True)
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "touched").stat().st_mode
