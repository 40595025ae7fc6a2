"""Attacks with words alone: plain, paraphrased, obfuscated."""

import re
from dataclasses import dataclass

import numpy as np

from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attacks.converters import CONVERTERS
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal


@dataclass(frozen=True, kw_only=True)
class Plain(Attack):
    """Asks for the concept by its name."""

    name = "plain"
    queries: int = 1

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """One instruction."""
        yield Attempt((goal.instruction,))


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Attack):
    """Asks in other words: around the concept's name, by what it looks like, misspelled."""

    name = "paraphrase"
    queries: int = 4

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """One after the other, the kinds in turns."""
        yield from (attempt for attempt in goal.other_words)  # a generator: it is sent answers


@dataclass(frozen=True, kw_only=True)
class Obfuscation(Attack):
    """Writes the words that name the concept in disguise."""

    name = "obfuscation"
    source = "converters as in PyRIT (github.com/Azure/PyRIT)"
    queries: int = 6
    converters: tuple[str, ...] = tuple(CONVERTERS)
    """Of `converters.CONVERTERS`; each case takes `queries` of them, in an order of chance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.converters:
            raise ValueError(f"converters is empty; choose of {', '.join(CONVERTERS)}")
        for name in self.converters:
            if name not in CONVERTERS:
                raise ValueError(f"there is no converter {name!r}; choose of {', '.join(CONVERTERS)}")

    def attempts(self, goal: AttackGoal, access: Access, rng: np.random.Generator) -> Attempts:
        """The instruction with its telling words in one disguise after the other."""
        for at in rng.permutation(len(self.converters)):
            converter = self.converters[int(at)]
            text = disguised(goal.instruction, goal.names, converter)
            if text != goal.instruction:
                yield Attempt((text,), note=converter)


def disguised(text: str, words: tuple[str, ...], converter: str) -> str:
    """A text with some of its words in disguise.

    Args:
        text: the instruction.
        words: those to disguise, whatever their case.
        converter: one of `CONVERTERS`.
    """
    if not words:
        return text
    found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    convert = CONVERTERS[converter]
    return re.sub(rf"\b(?:{found})\b", lambda match: convert(match[0]), text, flags=re.IGNORECASE)
