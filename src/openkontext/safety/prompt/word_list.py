"""An operator's own list of words and phrases, and whether a text holds one, as written or in disguise."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from openkontext.errors import InputError
from openkontext.safety.prompt.disguises import Disguises, codes
from openkontext.safety.prompt.interpretations import interpretations, spellings
from openkontext.safety.prompt.mending import LITTLE_ENGLISH, LITTLE_FOREIGN, mender
from openkontext.safety.prompt.normalize import fold, tokens

Phrase = tuple[str, ...]

VERSION = "1"
"""Of the rule; goes up when it finds other things than before in the same text."""
_MIN_PLURAL = 3
"""Letters of the shortest word that has a plural."""
_REMEMBERED = 16
"""Texts whose readings are kept: several lists ask for the same ones."""
EVERYWHERE = (
    LITTLE_ENGLISH
    | LITTLE_FOREIGN
    | frozenset(
        re.findall(
            r"\w+",
            "i me we us our you they them their he she him hers its these those there here what which who "
            "whom when where while how why all any both each every some no not only own same so than too "
            "very just and or but if then as until because about against between into through during "
            "before after above below up down out off over under again further once on am was were been "
            "being have has had do does did can could will would shall should may might must more most "
            "other such like one two please add change make turn put set replace remove give take get "
            "keep let use edit picture image photo "
            "und oder et ou e o y",
        )
    )
)
"""Words that say nothing of what is asked for: a list with one of them would refuse nearly everything."""


class WordList:
    """Words and phrases that nobody may ask for.

    English plurals count with their singular. What is no letter, such as an emoji, counts as it stands.

    Args:
        name: of the list, for messages.
        words: one or more; case, accents and typographic variants do not matter.

    Raises:
        InputError: the list is empty, holds a word twice, or one that would refuse nearly everything.
    """

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name, self.words = name, tuple(words)
        if not self.words:
            raise InputError(f"{name}: is empty; list a word, or take it out")
        phrases: dict[Phrase, str] = {}
        self._signs: list[str] = []
        for word in self.words:
            phrase = tuple(tokens(fold(word))) or _signs(name, word)
            if phrase in phrases:
                raise InputError(f"{name}: {word!r} is listed twice; take one out")
            phrases[phrase] = word
            if not any(map(str.isalnum, phrase[0])):
                self._signs.append(phrase[0])
            elif reason := _too_common(phrase):
                raise InputError(f"{name}: {word!r} {reason}")
        self._phrases = frozenset(form for phrase in phrases for form in _forms(phrase))
        self._sizes = sorted({len(phrase) for phrase in self._phrases})
        glued = {"".join(phrase) for phrase in self._phrases}
        self._phrases |= {(word,) for word in glued}
        self._tokens = {token for phrase in self._phrases for token in phrase}
        self._disguises = Disguises(self._tokens - EVERYWHERE)

    def holds(self, text: str) -> bool:
        """Whether a text holds a word of the list in any of the ways to read it.

        Args:
            text: an instruction, as it was handed in.
        """
        return any(map(self._in, self._readings(text))) or any(sign in fold(text) for sign in self._signs)

    def _readings(self, text: str) -> Iterator[Sequence[str]]:
        """Token lists of a text, the likeliest first."""
        disguises, written = self._disguises, set[str]()
        for spelling in dict.fromkeys(spellings(text)):
            words = tokens(disguises.unmasked(spelling))
            written.update(words)
            yield [disguises.meant(word) for word in words]
            yield from ([word] for word in disguises.joined(words))
        for reading in _interpretations(text):
            # What cuts a word up and leaves a piece that is none has misread it: "Starnberg" holds no star.
            pieces = set(reading) - written - self._tokens
            if all(map(mender().knows, pieces)):
                yield reading
        yield from (tokens(piece) for piece in codes(text))

    def _in(self, words: Sequence[str]) -> bool:
        return any(
            tuple(words[at : at + size]) in self._phrases
            for size in self._sizes
            for at in range(len(words) - size + 1)
        )


@lru_cache(_REMEMBERED)
def _interpretations(text: str) -> list[list[str]]:
    return interpretations(text)


def _signs(name: str, word: str) -> Phrase:
    """What a word is that has no letters, such as an emoji.

    Raises:
        InputError: it is nothing that could be asked for.
    """
    if any(unicodedata.category(character) == "So" for character in word):
        return (fold(word).strip(),)
    raise InputError(f"{name}: {word!r} is no word; list what nobody may ask for")


def _too_common(phrase: Phrase) -> str:
    """Why nearly every instruction would hold a phrase; empty where it would not."""
    if len("".join(phrase)) == 1 and not "一" <= phrase[0] <= "鿿":  # a Chinese sign is a word
        return "is a single character, which nearly every instruction holds; give a whole word"
    if EVERYWHERE.issuperset(phrase):
        return "is in nearly every instruction; name what you forbid"
    return ""


def _forms(phrase: Phrase) -> Iterator[Phrase]:
    """A phrase and its plural."""
    yield phrase
    *before, last = phrase
    if len(last) >= _MIN_PLURAL and last.isascii() and last.isalpha() and not last.endswith("s"):
        if last.endswith("y") and last[-2] not in "aeiou":
            yield (*before, f"{last[:-1]}ies")
        else:
            yield (*before, f"{last}es" if last.endswith(("x", "z", "ch", "sh")) else f"{last}s")
