"""What the tests of red teaming share."""

from pathlib import Path

import pytest
from classifiers import save_bright


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a classifier whose first class is the picture's mean in -1..1."""
    save_bright(tmp_path / "bright.onnx")
    (tmp_path / "bounds.toml").write_text('[[bounds]]\nmost = 0.4\n[[bounds]]\nmost = 0\ncolumn = "system"')
    return tmp_path
