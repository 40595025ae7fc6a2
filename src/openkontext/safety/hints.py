"""Hints in an instruction: what means nothing by itself, and something beside a picture of a person."""

import tomllib
from functools import cache
from importlib import resources

from openkontext.safety.prompt.compiled_terms import tables
from openkontext.safety.prompt.interpretations import interpretations, plain
from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.rules import HARMLESS, NEGATED, Rules

HINTS = ("minor", "suggestive")
"""Somebody is or may be a child; somebody shall be shown in a sexual way."""
_REFERS = "refers"
"""What to do is said in the picture."""


def hints(text: str, *, written: bool = False) -> dict[str, float]:
    """Hints of an instruction.

    Args:
        text: the instruction, as it was handed in.
        written: it is a line of a picture, which is read as it stands.

    Returns:
        Each of `HINTS` -> 0 to 1.
    """
    found = dict.fromkeys(HINTS, 0.0)
    for words in plain(text) if written else interpretations(text):
        for hit in _rules().hits(words):
            if hit.category in found:
                found[hit.category] = max(found[hit.category], hit.score)
    return found


def refers(text: str) -> bool:
    """Whether an instruction says that what to do is written in the picture.

    Args:
        text: the instruction, as it was handed in.
    """
    return any(hit.category == _REFERS for words in interpretations(text) for hit in _rules().hits(words))


@cache
def _rules() -> Rules:
    package = resources.files("openkontext.safety")
    own = tomllib.loads(package.joinpath("hints.toml").read_text("utf-8"))["rule"]
    theirs = [rule for table in tables("rules") for rule in table["rule"]]
    return Rules([*(rule for rule in theirs if rule["category"] in (HARMLESS, NEGATED)), *own], lexicon())
