"""Commands and code of the start and how-to pages run as they stand there.

A block is run when `<!-- run -->` stands above it. Every other block of these pages says why it is not:
`<!-- not run: needs the network -->`.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openkontext.cli import main

ROOT = Path(__file__).parents[2]
START = ("README", "first-edit", "page", "flux")
HOW_TO = (
    "finetune",
    "training",
    "export",
    "files",
    "loras",
    "evaluation",
    "providers",
    "filters",
    "service",
    "terms",
    "redteam",
    "release",
)
_BLOCK = re.compile(
    r"(?:<!-- (run|run: [^>]*|not run: [^>]*) -->\n\n?)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE
)


def _blocks(name: str) -> list[tuple[str, str, str]]:
    page = ROOT / ("README.md" if name == "README" else f"docs/{name}.md")
    return _BLOCK.findall(page.read_text())


def _to_run() -> list[tuple[str, list[tuple[str, str]]]]:
    pages = [
        (name, [(kind, body) for mark, kind, body in _blocks(name) if mark.startswith("run")])
        for name in (*START, *HOW_TO, "one-edit", "prompt-filter", "provenance")
    ]
    return [(name, blocks) for name, blocks in pages if blocks]


@pytest.mark.parametrize("name", [*START, *HOW_TO])
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    for mark, kind, body in _blocks(name):
        assert mark or kind in ("json", "toml", "text"), f"{name}: not marked:\n{body}"


@pytest.mark.parametrize(
    ("name", "blocks"), _to_run(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_pages_run(
    name: str, blocks: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "examples" / "poster" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 200", "steps = 2"))
    for kind, body in blocks:
        if kind == "python":
            exec(compile(body, f"{name}.md", "exec"), {})
            continue
        for line in body.replace("\\\n", " ").splitlines():
            _run(line)


def _run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if "|" in words:
        line = line.replace("openkontext", f"{shlex.quote(sys.executable)} -m openkontext")
        subprocess.run(["sh", "-c", line], check=True)
    elif words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
    else:
        assert words[0] == "openkontext", line
        assert main(words[1:]) == 0, line
