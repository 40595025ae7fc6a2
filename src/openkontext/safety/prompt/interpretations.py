"""The ways in which an instruction can be read."""

import codecs
import re
from collections.abc import Iterator

from openkontext import folding
from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.mending import MASKS, mender
from openkontext.safety.prompt.normalize import BREAK, clauses, decoded, fold, latin, tokens, unleet

_SENSE = 0.4
"""Share of a text's letters that must be in known words for it to be what another was decoded to."""
_TURNED = 0.15
"""The same before words are mended, of a text read backwards or as a cipher."""
_CLEAR = 0.7
"""The same, from which a text is only what it says."""

_SPACED = re.compile(r"(?:(?<=\s)|^)\w(?: \w){2,}\s{2,}\w")
_MASKED = re.compile(rf"[a-z][a-z{re.escape(MASKS)}]*[{re.escape(MASKS)}][a-z{re.escape(MASKS)}]*[a-z]")
_MAX_MASKED = 8
"""Masked words of a text that are looked up."""
_DENIALS = {"negator", "covers"}
"""Groups of words whose reach ends with the sentence."""


def interpretations(text: str) -> list[list[str]]:
    """Token lists of a text, the plain one first, then the plain one mended; the others undo an obfuscation.

    Each distinct list comes once.
    """
    mend = mender().mend
    spelled = spellings(text)
    folded = spelled[0]
    split = list(map(list, dict.fromkeys(tuple(tokens(spelling)) for spelling in spelled)))
    found = [split[0], *(words for pieces in split for words in mend(pieces)), *split[1:]]
    found += [
        words for unspaced in _unspaced(text) for words in mend(tokens(unleet(latin(fold(unspaced)), "i")))
    ]
    found += _unmasked(folded)
    if not folded.isascii():  # as a model of few words reads it, letters with a stroke too
        found.append(tokens(folding.fold(folded)))
    if not _DENIALS.isdisjoint(lexicon().find(split[0])):
        whole = fold(clauses(text))
        for parted in [tokens(whole), tokens(latin(whole))] if BREAK in whole else []:
            found += [parted, *mend(parted)]
    found += [words for pieces in decoded(text) for words in _read(pieces)]
    plain = mender().sense(split[0])
    if plain < _CLEAR:
        # What makes more sense as a cipher or backwards was written to be read so.
        turned = [tokens(codecs.encode(spelled[0], "rot13")) if text.isascii() else []]
        turned += [tokens(spelling[::-1]) for spelling in spelled[:2]]
        turned += [words[::-1] for words in turned[1:]]
        for words in turned:
            if mender().sense(words) >= max(_TURNED, plain / 2):
                found += [w for w in mend(words) if mender().sense(w) >= plain]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


def spellings(text: str) -> list[str]:
    """A text folded: as it stands, in Latin letters that look alike, and with digits and signs as letters."""
    folded = fold(text)
    seen = latin(folded)
    return [folded, unleet(seen, "i"), seen, unleet(seen, "l")]


def plain(text: str) -> list[list[str]]:
    """Token lists of a text as it stands, in its own letters and in Latin ones that look like them."""
    folded = fold(text)
    return [list(words) for words in dict.fromkeys(tuple(tokens(each)) for each in (folded, latin(folded)))]


def _unspaced(text: str) -> list[str]:
    """The text without the spaces inside its words, where wider ones part them ("m a k e   i t")."""
    if not _SPACED.search(text):
        return []
    return [re.sub(r"(?<=\S) (?=\S)", "", text)]


def _unmasked(folded: str) -> Iterator[list[str]]:
    """The text with each word that has signs in place of letters ("n*ked") as one that it may be."""
    masked = [word for word in folded.split() if _MASKED.fullmatch(word)]
    for word in dict.fromkeys(masked[:_MAX_MASKED]):
        for meant in mender().unmask(word):
            yield tokens(folded.replace(word, meant))


def _read(piece: str) -> list[list[str]]:
    """Readings of a decoded piece, where it makes sense."""
    raw = tokens(fold(piece))
    found = [raw, *mender().mend(tokens(unleet(latin(fold(piece)), "i")))]
    least = _SENSE if piece.isascii() else _SENSE / 3
    return [words for words in found if mender().sense(words) >= least]
