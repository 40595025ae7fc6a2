"""What a release cannot read or write is one line, and leaves the repository as it was."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from releasable import change, contents, run

from openkontext.files import write_whole
from openkontext.release import releasing

Change = Callable[[Path, Path], object]


BAD: dict[str, tuple[Change, str]] = {
    "json without a head": (lambda _, d: (d / "x.json").write_text('{"kind": "evaluation"}'), "is no report"),
    "no json": (lambda _, d: (d / "x.json").write_text("{"), "is no report"),
    "a list": (lambda _, d: (d / "x.json").write_text("[1]"), "is no report"),
    "a time without a zone": (
        lambda _, d: change(d / "red-team.json", made="2026-01-01T00:00:00"),
        "with its zone",
    ),
    "a time before all calendars": (
        lambda _, d: change(d / "red-team.json", made="0001-01-01T00:00:00+09:00"),
        "is no report",
    ),
    "a time after them": (
        lambda _, d: change(d / "evaluation-fp32.json", made="9999-12-31T23:00:00-05:00"),
        "is no report",
    ),
    "an unknown setting": (lambda _, d: (d / "release.toml").write_text("trained = 1\n"), "trained"),
    "no toml": (lambda _, d: (d / "release.toml").write_text("trained"), "is no TOML"),
    "a digest that is none": (
        lambda _, d: (d / "release.toml").write_text('trained_on = ["x"]\n'),
        "trained_on",
    ),
    "a key in the dossier": (
        lambda _, d: (d / "k.pem").write_text("-----BEGIN EC PRIVATE KEY-----\n"),
        "holds a private key",
    ),
    "a key in the repository": (
        lambda h, _: (h / "k.pem").write_text("-----BEGIN PRIVATE KEY-----\n"),
        "holds a private key",
    ),
    "a link": (lambda h, _: (h / "more.bin").symlink_to(h / "openkontext.json"), "is a link"),
    "a pipe": (lambda h, _: os.mkfifo(h / "tokenizer" / "pipe"), "pipe: is no file"),
    "half a model": (lambda h, _: (h / "vae.opt" / "model.onnx").unlink(), "lacks vae.opt/model.onnx"),
    "a head that is no yaml": (
        lambda h, _: (h / "README.md").write_text("---\na: [\n---\n"),
        "head cannot be read",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line_and_nothing_is_written(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    home, dossier = ready
    broken, message = BAD[case]
    broken(home, dossier)
    before = contents(home)
    code, out, err = run(capsys, "release", home, "--dossier", dossier)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert contents(home) == before


def test_folders_that_are_none(ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, dossier = ready
    for repository, reports_folder, message in (
        (home, dossier / "gone", "no such folder"),
        (home, home, "holds the repository"),
        (home, home.parent, "holds the repository"),
        (dossier, dossier, "no model repository"),
    ):
        code, out, err = run(capsys, "release", repository, "--dossier", reports_folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_a_full_disk_leaves_what_was_there_or_a_model_without_a_signed_list(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, dossier = ready
    full: set[str] = set()

    def write(path: Path, content: bytes) -> None:
        if path.name in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(releasing, "write_whole", write)
    before = contents(home)
    full.add("red-team.json")
    code, out, err = run(capsys, "release", home, "--dossier", dossier)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No space left on device" in err
    assert contents(home) == before
    full.clear()
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    released = contents(home)
    full.add("evaluation-fp32.json")
    assert run(capsys, "release", home, "--dossier", dossier, "--overwrite")[0] == 2
    assert contents(home) == released
    full = {"README.md"}
    assert run(capsys, "release", home, "--dossier", dossier, "--overwrite")[0] == 2
    assert not (home / "model.sig").exists()
    full.clear()
    assert run(capsys, "release", home, "--dossier", dossier, "--overwrite")[0] == 0
    assert run(capsys, "verify", home)[0] == 0
