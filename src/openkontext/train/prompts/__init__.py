"""Prompts that the classifier of instructions is trained on, made from lines with choices.

The lines are in benign.toml and violating.toml beside this file. `{a|b}` stands for one of its choices,
`<name>` for an entry of the list of that name; choices may hold lists and choices again.
"""

import random
import re
import tomllib
from dataclasses import dataclass
from importlib import resources

_INNERMOST = re.compile(r"\{([^{}]*)\}|<(\w+)>")


@dataclass(frozen=True)
class Example:
    """One prompt."""

    text: str
    category: str | None
    """What it violates; None for a benign one."""


@dataclass(frozen=True)
class Line:
    """The prompts drawn from one line."""

    number: int
    """Over all files."""
    examples: tuple[Example, ...]


def examples(seed: int, a_line: int) -> list[Line]:
    """Prompts from all lines, benign and violating; the same for a seed.

    Args:
        seed: Chooses among the choices.
        a_line: Prompts drawn from each line; equal ones come once.
    """
    rng = random.Random(seed)
    found: list[Line] = []
    for file in ("benign.toml", "violating.toml"):
        table = tomllib.loads((resources.files(__name__) / file).read_text(encoding="utf-8"))
        lists = {name: _entries(text) for name, text in table.pop("lists").items()}
        for theme, entry in table.items():
            category = theme.removesuffix("_more") if file == "violating.toml" else None
            for line in entry["lines"].strip().splitlines():
                drawn = dict.fromkeys(draw(line, lists, rng) for _ in range(a_line))
                found.append(Line(len(found), tuple(Example(text, category) for text in drawn)))
    return found


def draw(line: str, lists: dict[str, list[str]], rng: random.Random) -> str:
    """One text of a line with choices."""
    while match := _INNERMOST.search(line):
        choices = lists[match[2]] if match[2] else match[1].split("|")
        line = line[: match.start()] + rng.choice(choices) + line[match.end() :]
    return line


def _entries(text: str) -> list[str]:
    return [entry.removeprefix(" ") for entry in text.split(",")]
