"""Inhibition: bad recipes, full disks and folders of others are one line, and leave what was there."""

import errno
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from inhibit_recipes import RECIPE

from openkontext.cli import main
from openkontext.files import alone

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_state: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.setattr(torch, "save", full)
    work = tmp_path / "work"
    assert main(["inhibit", str(tmp_path / "recipe.toml"), "--work", str(work)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {work / 'round-1' / 'cases.pt'}: cannot be written: No space left")
    assert {path.name for path in work.rglob("*") if path.is_file()} == {"lock", "recipe.sha256"}
    # A file stands where the folder should be.
    assert main(["inhibit", str(tmp_path / "recipe.toml"), "--work", str(tmp_path / "recipe.toml")]) == 2
    assert "cannot be written: " in capsys.readouterr().err


def test_a_work_folder_of_something_else_or_of_a_run_at_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    asked = ["inhibit", str(tmp_path / "recipe.toml"), "--work"]
    work, busy = tmp_path / "work", tmp_path / "busy"
    work.mkdir()
    (work / "lora.safetensors").write_bytes(b"of a fine-tuning")
    assert main([*asked, str(work)]) == 2
    says = f"error: {work}: holds lora.safetensors of something else; name another folder with --work\n"
    assert capsys.readouterr().err == says
    assert [each.read_bytes() for each in work.iterdir()] == [b"of a fine-tuning"]
    with alone(busy, "inhibition"):
        assert main([*asked, str(busy)]) == 2
    assert f"error: {busy}: another inhibition is at work in it; wait" in capsys.readouterr().err
    assert [each.name for each in busy.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rank = 2", "rang = 2", "inhibit.rang is not a setting of this stage"),
        ('"anchor"', '"ancor"', "inhibit.method = 'ancor'"),
        ("rank = 2", "rank = 0", "rank is 1 or more; 0 is for the closed form alone"),
        ("cases = 1", "cases = 0", "cases is 0; it must be from 1 to"),
        ("steps = 1\nbatch", "steps = 1\npreserve = -1.0\nbatch", "preserve is -1.0; it must be from 0"),
        ("rank = 2", "rank = 100_000_000", "rank is 100000000; it must be from"),
        ("rank = 2", "rank = 2\nalpha = nan", "alpha = nan: it must be a finite number"),
        ("rank = 2", "rank = 2\naverage_decay = 1", "average_decay is 1"),
        ("rank = 2", "rank = 2\neta = true", "inhibit.eta = True"),
        ('"star"', '"sun"', "there is no concept 'sun'"),
        ('"star"', '"empty.toml"', "has no cases"),
        ('"star"', '"star"\nmodel = "out/nothing"', "out/nothing: no such folder"),
        ('["attn.to_q"]', '["attn.to_z"]', "the target 'attn.to_z' is no linear layer"),
    ],
)
def test_a_bad_recipe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    (tmp_path / "empty.toml").write_text('name = "empty"\nwhat = "none"\nharmless = true\nshape = "ball"')
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    assert main(["inhibit", str(tmp_path / "recipe.toml"), "--work", str(tmp_path / "work")]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "work").exists()
