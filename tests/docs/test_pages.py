"""The pages keep their promises: prose that reads easily, links that lead somewhere, no stale reference."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from openkontext.cli import app
from openkontext.service.http.asking import RouteInputs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


prose = script("prose")


def test_sentences_are_counted_as_a_reader_counts_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\nOne two `three four` [five six](seven.md). Eight: nine ten!\n\n"
        "- An item\n  of four words\n"
        "- Two words\n\n```\nno prose\n```\n\n| a | table |\n|---|---|\n\n![A picture](a.png)\n"
    )
    assert prose.read(page).lengths == [5, 3, 5, 2]


@pytest.mark.parametrize("page", prose.pages(), ids=lambda page: f"{page.parent.name}/{page.name}")
def test_pages_are_easy_to_read(page: Path) -> None:
    read = prose.read(page)
    assert not read.too_long
    assert read.average <= prose.AVERAGE


@pytest.mark.parametrize("page", prose.pages(), ids=lambda page: f"{page.parent.name}/{page.name}")
def test_pages_are_wrapped_at_one_width(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [each for each in text.splitlines() if not each.lstrip().startswith(("|", "#", "!", "<!--"))]
    assert not [each for each in lines if len(each) > prose.WIDTH]


def test_the_page_on_http_names_every_field_that_all_routes_take() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    assert [name for name in RouteInputs.model_fields if f"`{name}`" not in text] == []


def test_the_reference_is_what_the_program_says() -> None:
    for name, write in script("reference").PAGES.items():
        assert (ROOT / "docs" / name).read_text() == write(), f"docs/{name} is stale: run make reference"


def test_the_site_is_built_with_links_that_lead_somewhere_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    for page in tmp_path.glob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(https?:)?//[^>]*>", page.read_text()
        )
        assert not loaded, page.name


def test_the_navigation_and_the_contents_name_every_page() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in contents, page.name


def _blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (page.name, line)
                for line in lines
                if line.startswith("openkontext ") and "[OPTIONS]" not in line
            ]
    return found


@pytest.mark.parametrize(("page", "line"), _blocks(), ids=lambda value: value[:60])
def test_commands_and_options_on_the_pages_exist(page: str, line: str) -> None:
    words = shlex.split(line.split(" | ")[0], comments=True)[1:]
    command = get_command(app)
    while words and hasattr(command, "commands"):
        names = words.pop(0).split("|")  # "review list|show" names two
        assert set(names) <= set(command.commands), line
        command = command.commands[names[0]]
    if hasattr(command, "commands"):
        return
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {
        "--help",
        "--debug",
    }
    used = {word.split("=")[0].strip("[]") for word in words if re.match(r"\[?--?[a-z]", word)}
    assert used <= known, line
