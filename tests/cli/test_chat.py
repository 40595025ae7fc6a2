"""`chat`: turns, branches, what was not saved."""

import json
from pathlib import Path

import pytest
from commands import Run, brightness, names
from PIL import Image

from openkontext import images


def test_chat_stays_at_the_original_size(run: Run, copier: Path) -> None:
    Image.new("RGB", (400, 300), (90, 90, 90)).save("large.png")
    lines = "brighter\nbrighter\n/save two.png\n"
    done = run("chat", "large.png", "--model", copier, "--size", "original", stdin=lines)
    assert done.code == 0
    assert Image.open("two.png").size == (400, 300)
    assert run("chat", "large.png", "--model", copier, "--size", "64x64", stdin="brighter").code == 0
    assert run("chat", "large.png", "--model", copier, "--size", "big", stdin="brighter").code == 2


def test_chat_edits_undoes_branches_and_saves(run: Run, copier: Path) -> None:
    lines = """
    make it brighter
    /save one.png
    make it brighter
    /undo
    the picture
    /history
    /branch 2
    /save
    /branch 0
    /quit
    """
    done = run("chat", "photo.png", "--model", copier, "--seed", 1, stdin=lines)
    assert done.code == 0
    assert done.out.splitlines() == [
        "picture 1, from 0: make it brighter (seed 1)",
        "saved picture 1 as one.png",
        "picture 2, from 1: make it brighter (seed 1)",
        "back at picture 1, from 0: make it brighter (seed 1)",
        "picture 3, from 1: the picture (seed 1)",
        "  picture 0: the one you began with",
        "  picture 1, from 0: make it brighter (seed 1)",
        "  picture 2, from 1: make it brighter (seed 1)",
        "* picture 3, from 1: the picture (seed 1)",
        "now at picture 2, from 1: make it brighter (seed 1)",
        "saved picture 2 as photo-2.png",
        "now at picture 0: the one you began with",
    ]
    assert abs(brightness("one.png") - brightness("photo.png") - 12.75) < 1.5
    assert abs(brightness("photo-2.png") - brightness("photo.png") - 25.5) < 2
    prompts = json.loads(images.read_metadata("photo-2.png")["prompts"])
    assert prompts == ["make it brighter", "make it brighter"]


def test_chat_says_what_was_not_saved(run: Run, copier: Path) -> None:
    done = run("chat", "photo.png", "--model", copier, stdin="make it brighter")
    assert done.code == 0
    assert "note: picture 1 was not saved" in done.err
    assert names() == ["photo.png"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/undo", "nothing to undo"),
        ("/save", "nothing to save yet"),
        ("/branch 7", "/branch needs the number of a picture, 0 to 0"),
        ("/branch", "/branch needs the number"),
        ("/dance", "there is no /dance; /help lists"),
        ("x" * 10_000, "the instruction has 10000 characters"),
    ],
)
def test_a_line_that_cannot_be_followed_ends_a_script(run: Run, copier: Path, line: str, says: str) -> None:
    done = run("chat", "photo.png", "--model", copier, stdin=f"{line}\n/help\n")
    assert done.code == 2
    assert says in done.error
    assert done.out == ""


def test_chat_helps(run: Run, copier: Path) -> None:
    out = run("chat", "photo.png", "--model", copier, stdin="/help").out
    assert all(command in out for command in ("/undo", "/branch N", "/history", "/save [FILE]", "/quit"))
