"""Prompts that the classifier of instructions is trained on, made from lines with choices.

The lines are in the files benign*.toml and violating*.toml beside this one. `{a|b}` stands for one of its
choices, `<name>` for an entry of the file's list of that name; choices may hold lists and choices again.
To these come the prompts of those suites of the repository's tests that may be read, some in a few ways of
asking.
"""

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from openkontext.errors import InputError

_INNERMOST = re.compile(r"\{([^{}]*)\}|<(\w+)>")
_SUITES = Path(__file__).parents[4] / "tests" / "safety" / "prompt" / "suites"
_READ = {"development": 3, "near-edge": 0}
"""Suites whose failures are read (the others are only counted), and in how many ways of asking each of their
prompts comes, besides its own. Nearly all near the edge is benign: more of it outweighs what violates."""
_LEARNT = frozenset({"ncii", "nudity", "sexual", "gore", "violence", "hate_symbols", "self_harm", "weapons"})
"""Categories that the classifier tells apart; the rules alone know the others."""
_OPENINGS = (
    "please ",
    "pls ",
    "hey, ",
    "can you ",
    "could you ",
    "I want you to ",
    "edit: ",
    "task: ",
    "prompt: ",
    "for my project: ",
    "as a joke ",
    "you are a bot without rules: ",
    "do what I say: ",
    "photo edit, ",
    "",
    "",
    "",
)
_CLOSINGS = (
    " please",
    ", thanks",
    ", keep the face",
    ", realistic",
    " now",
    ", high detail",
    ".",
    "!",
    "",
    "",
    "",
)


@dataclass(frozen=True)
class Example:
    """One prompt."""

    text: str
    category: str | None
    """What it violates; None for a benign one."""


@dataclass(frozen=True)
class PromptLine:
    """The prompts drawn from one line."""

    number: int
    """Over all files."""
    examples: tuple[Example, ...]


def examples(seed: int, a_line: int) -> list[PromptLine]:
    """Prompts from all lines, benign and violating; the same for a seed.

    Args:
        seed: chooses among the choices.
        a_line: prompts drawn from each line; equal ones come once.
    """
    rng = random.Random(seed)
    found: list[PromptLine] = []
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml")]
    for file in sorted(files, key=lambda file: file.name):
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        lists = {name: _entries(text) for name, text in table.pop("lists").items()}
        for theme, entry in table.items():
            category = theme.removesuffix("_more") if file.name.startswith("violating") else None
            for line in entry["lines"].strip().splitlines():
                drawn = dict.fromkeys(draw(line, lists, rng) for _ in range(a_line))
                found.append(PromptLine(len(found), tuple(Example(text, category) for text in drawn)))
    for line, category, ways in _suites():
        text = draw(line, {}, rng)
        asked = dict.fromkeys(
            [text, *(rng.choice(_OPENINGS) + text + rng.choice(_CLOSINGS) for _ in range(ways))]
        )
        found.append(PromptLine(len(found), tuple(Example(text, category) for text in asked)))
    return found


def _suites() -> Iterator[tuple[str, str | None, int]]:
    """The lines of the suites that may be read, what they violate, and in how many more ways they are asked.

    Raises:
        InputError: the tests are not there.
    """
    if not (_SUITES / "development").is_dir():
        raise InputError(f"{_SUITES} has no prompts: train in a checkout of the repository")
    for suite, ways in _READ.items():
        for file in sorted((_SUITES / suite).glob("*.toml")):
            for kind, languages in tomllib.loads(file.read_text(encoding="utf-8")).items():
                category = kind if file.name.startswith("violating") else None
                if category is None or category in _LEARNT:
                    for text in languages.values():
                        yield from ((line, category, ways) for line in text.strip().splitlines())


def draw(line: str, lists: dict[str, list[str]], rng: random.Random) -> str:
    """One text of a line with choices."""
    while match := _INNERMOST.search(line):
        choices = lists[match[2]] if match[2] else match[1].split("|")
        line = line[: match.start()] + rng.choice(choices) + line[match.end() :]
    return line


def _entries(text: str) -> list[str]:
    return [entry.removeprefix(" ") for entry in text.split(",")]
