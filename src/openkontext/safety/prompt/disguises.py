"""Which of a few listed words a piece of text stands for, in disguise.

The prompt check undoes disguises by the words of a dictionary, and only where the text makes sense then.
A list of a few words allows more: a piece that no dictionary knows is compared with these words alone.
"""

import base64
import binascii
import codecs
import re
import string
from collections.abc import Iterable, Iterator, Sequence

from openkontext.safety.prompt.mending import (
    LITTLE_ENGLISH,
    MASKS,
    ends_and_letters,
    mender,
    one_edit,
)
from openkontext.safety.prompt.normalize import decoded, fold

_MIN_LENGTH = 4
"""Letters of the shortest word whose disguises are undone: a shorter one has too many neighbors."""
_MIN_MISSPELLED = 5
"""The same of misspellings by a letter."""
_MIN_DOUBLED = 3
"""The same of letters that are written twice."""
_MIN_SKELETON = 3
"""Letters that a word without its vowels must keep."""
_MIN_SHOWN = 2
"""Letters that a word must show between the signs that hide the others."""
_VOWELS = "aeiou"
_BEFORE = LITTLE_ENGLISH | {
    "a",
    "one",
    "some",
    "add",
    "put",
    "draw",
    "paint",
    "turn",
    "into",
    "no",
    "or",
    "as",
}
"""Words that are written together with a listed one that follows."""
_AFTER = LITTLE_ENGLISH | {"as", "or", "please"}
_EDGE = string.punctuation.translate({ord(sign): None for sign in MASKS})
_CODE = re.compile(r"[A-Za-z0-9+/_-]{4,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){3,}", re.ASCII)


class Disguises:
    """The words of a list, by what becomes of them in disguise.

    Args:
        words: folded, one token each.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        long = sorted(
            word for word in self._words if len(word) >= _MIN_LENGTH and word.isascii() and word.isalpha()
        )
        self._longest = max(map(len, self._words), default=0)
        self._doubled = {_squeezed(word): word for word in self._words if len(word) >= _MIN_DOUBLED}
        self._skeletons = {
            bones: word for word in long if word != (bones := _skeleton(word)) and len(bones) >= _MIN_SKELETON
        }
        self._turned = {word[::-1]: word for word in long} | {
            codecs.encode(word, "rot13"): word for word in long
        }
        self._shuffled = {ends_and_letters(word): word for word in long}
        self._long = long
        self._misspelled = [word for word in long if len(word) >= _MIN_MISSPELLED]
        self._by_size: dict[tuple[str, int], list[str]] = {}
        for word in long:
            self._by_size.setdefault((word[0], len(word)), []).append(word)

    def meant(self, token: str) -> str:
        """The listed word that a token stands for, else the token.

        What is a word of its own is no disguise: "rats" is not "star" backwards.
        """
        own = token in self._words or not (token.isascii() and token.isalpha()) or mender().is_english(token)
        return token if own else self._of_letters(token) or token

    def _of_letters(self, token: str) -> str | None:
        if (word := self._doubled.get(_squeezed(token))) and len(token) > len(word):
            return word
        if word := self._skeletons.get(token):
            return word
        if mender().knows(token):
            return None
        if word := self._turned.get(token) or self._shuffled.get(ends_and_letters(token)):
            return word
        for word in self._misspelled:
            if one_edit(token, word):
                return word
        return next((word for word in self._long if _is_glued(token, word)), None)

    def joined(self, tokens: Sequence[str]) -> Iterator[str]:
        """Listed words that tokens in a row are the pieces of, where one piece at least is no word."""
        for start in range(len(tokens)):
            letters, cut = tokens[start], not mender().is_plain(tokens[start])
            for token in tokens[start + 1 :]:
                letters, cut = letters + token, cut or not mender().is_plain(token)
                if len(letters) > self._longest:
                    break
                if cut and len(letters) >= _MIN_LENGTH and letters in self._words:
                    yield letters

    def unmasked(self, folded: str) -> str:
        """A folded text with the listed words in the place of those whose letters are hidden ("s**r")."""
        if not any(sign in folded for sign in MASKS):
            return folded
        return " ".join(map(self._shown, folded.split()))

    def _shown(self, piece: str) -> str:
        core = piece.strip(_EDGE)
        shown = sum(character not in MASKS for character in core)
        if shown < _MIN_SHOWN or shown == len(core):
            return piece
        pattern = re.compile("".join("." if sign in MASKS else re.escape(sign) for sign in core))
        known = self._by_size.get((core[0], len(core)), ())
        return next((word for word in known if pattern.fullmatch(word)), piece)


def codes(text: str) -> Iterator[str]:
    """What a text says in base64, hexadecimal, binary, percent escapes or Morse code, short pieces too."""
    yield from map(fold, decoded(text))
    for piece in _CODE.findall(text):
        letters = piece.rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            yield fold(base64.b64decode(letters + "=" * (-len(letters) % 4)).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue
    for piece in _HEX.findall(text.lower()):
        yield fold(bytes.fromhex(piece).decode(errors="ignore"))


def _is_glued(token: str, word: str) -> bool:
    """Whether a token is a word and a little one that is written together with it."""
    before, after = token.removesuffix(word), token.removeprefix(word)
    return (before != token and before in _BEFORE) or (after != token and after in _AFTER)


def _squeezed(word: str) -> str:
    """A word with each letter once where it stands several times in a row."""
    return re.sub(r"(.)\1+", r"\1", word)


def _skeleton(word: str) -> str:
    """A word without the vowels after its first letter."""
    return word[:1] + "".join(letter for letter in word[1:] if letter not in _VOWELS)
