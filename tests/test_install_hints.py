"""What pages and messages tell to install can be installed: no package index has openkontext."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from openkontext.errors import how_to_install

ROOT = Path(__file__).parent.parent
TOLD = ("README.md", "CONTRIBUTING.md", "benchmarks", "deploy", "docs", "examples", "src", "tests")
TEXT = (".md", ".py", ".yaml", ".service", ".toml", ".html", ".js")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _texts() -> list[tuple[Path, str]]:
    files = [path for name in TOLD for path in ([ROOT / name] if "." in name else (ROOT / name).rglob("*"))]
    found = [path for path in files if path.suffix in TEXT or path.name == "Dockerfile"]
    return [(path.relative_to(ROOT), path.read_text()) for path in found]


def test_nothing_tells_to_install_from_an_index_that_has_it_not() -> None:
    texts = _texts()
    assert len(texts) > 100
    index = re.compile(r"openkontext\[[\w,]+\]|pip install (?:-\S+ )*['\"]?openkontext\b")
    wrong = [f"{path}: {found[0]}" for path, text in texts if (found := index.search(text))]
    assert wrong == []


def test_the_groups_that_are_told_of_exist() -> None:
    named = {
        (path, name)
        for path, text in _texts()
        for groups in re.findall(r"'\.\[([\w,]+)\]'|how_to_install\([\"'](\w+)", text)
        for name in "".join(groups).split(",")
    }
    assert {path.name for path, _ in named} >= {
        "README.md",
        "service.md",
        "training.md",
        "serve.py",
        "train.py",
    }
    assert {(path, name) for path, name in named if name not in EXTRAS} == set()


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("pydantic_settings", ["accounts", "list"], "service"),
        ("torch", ["train", "recipe.toml"], "train"),
        ("torch", ["export", "checkpoint", "out"], "train"),
    ],
)
def test_a_command_whose_packages_are_absent_says_what_to_type(
    module: str, command: list[str], extra: str, tmp_path: Path
) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from openkontext.cli import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert how_to_install(extra) in " ".join(done.stderr.split())
