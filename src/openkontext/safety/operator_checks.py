"""Checks that an operator adds in a profile, besides those that come with openkontext.

They only add: what they find is refused as `FORBIDDEN`, and what others refuse stays refused.
"""

import hashlib
from collections.abc import Mapping, Sequence

from openkontext.safety.prompt import word_list
from openkontext.safety.verdict import FORBIDDEN, CheckTurn, Stage, Subject


class WordsCheck:
    """Whether the instruction holds a word of an operator's list, as written or in disguise.

    The negative prompt says what shall not be seen, which is no offense.

    Args:
        name: of the list.
        words: that nobody may ask for.

    Raises:
        InputError: a word cannot be listed.
    """

    stages = frozenset({Stage.PROMPT})
    turn = CheckTurn.CHEAP

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name = f"words: {name}"
        self._list = word_list.WordList(f"words.{name}", words)
        digest = hashlib.sha256("\n".join(self._list.words).encode()).hexdigest()
        self.version = f"{word_list.VERSION}, {digest[:8]}"
        """Of the rule, and of the list."""

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """1 where the instruction holds a word of the list."""
        return {FORBIDDEN: 1.0} if self._list.holds(subject.prompt) else {}
