"""The picture of the house in CONTRIBUTING is that of the imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_picture_is_of_this_house(tmp_path: Path) -> None:
    script, made = ROOT / "scripts" / "architecture.py", tmp_path / "made.svg"
    subprocess.run([sys.executable, str(script), str(made)], check=True, capture_output=True)
    kept = ROOT / "docs" / "images" / "architecture.svg"
    assert made.read_text() == kept.read_text(), "draw it anew: make architecture"
