"""The house as CONTRIBUTING describes it: its picture, one name for one thing, files of one reason."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_picture_is_of_this_house(tmp_path: Path) -> None:
    script, made = ROOT / "scripts" / "architecture.py", tmp_path / "made.svg"
    subprocess.run([sys.executable, str(script), str(made)], check=True, capture_output=True)
    kept = ROOT / "docs" / "images" / "architecture.svg"
    assert made.read_text() == kept.read_text(), "draw it anew: make architecture"


SOURCE = ROOT / "src" / "openkontext"
MIRRORS = ({"model", "export", "train"}, {"cli", "service/http/routes", "service/people", "."})
"""Rooms whose files bear one name for one thing: a network, or what a command and a route show."""


def test_no_public_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(SOURCE).as_posix())
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_a_file_stem_stands_twice_only_where_rooms_mirror_each_other() -> None:
    rooms: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if not path.name.startswith("__"):
            rooms.setdefault(path.stem, set()).add(path.parent.relative_to(SOURCE).as_posix())
    twice = {stem: where for stem, where in rooms.items() if len(where) > 1}
    assert not {stem: where for stem, where in twice.items() if not any(where <= each for each in MIRRORS)}


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text("utf-8").splitlines()) for file in files}
    assert not {name: length for name, length in lengths.items() if length > 400}
