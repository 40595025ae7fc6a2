"""What tests of commands share."""

import io
import sys
from pathlib import Path

import pytest
from commands import Outcome, Run, save_photo

from openkontext.cli import main


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
