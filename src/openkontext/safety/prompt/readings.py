"""The ways in which an instruction can be read."""

from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.normalise import decoded, fold, latin, tokens, transliterate, unleet

MAX_CHARACTERS = 8000
"""Longer texts are read in pieces of this many characters."""


def readings(text: str) -> list[list[str]]:
    """Token lists of a text, the plain one first; the others undo one obfuscation or several.

    Each distinct list comes once.
    """
    folded = fold(text)
    seen = latin(folded)
    spelled = [folded, seen, transliterate(folded)]
    spelled += [unleet(seen, "i"), unleet(seen, "l")]
    found = [tokens(t) for t in spelled]
    found += [mend(words) for words in found]
    found += [mend(tokens(fold(piece))) for piece in decoded(text)]
    backwards = tokens(spelled[-2][::-1])
    found += [mend(backwards), backwards[::-1]]
    unique = dict.fromkeys(tuple(words) for words in found)
    return [list(words) for words in unique]


def mend(words: list[str]) -> list[str]:
    """Tokens with words put together that spaces, hyphens or dots took apart."""
    known = lexicon().words
    mended: list[str] = []
    at = 0
    while at < len(words):
        end = at
        while end < len(words) and len(words[end]) == 1 and words[end].isalpha():
            end += 1
        if end - at >= 3:
            mended += segment("".join(words[at:end]), known)
            at = end
            continue
        pair = "".join(words[at : at + 2])
        if at + 1 < len(words) and pair in known and 2 <= len(words[at]) <= 3 and len(words[at + 1]) > 1:
            mended.append(pair)
            at += 2
            continue
        mended.append(words[at])
        at += 1
    return mended


def segment(run: str, known: set[str]) -> list[str]:
    """The known words in a run of letters, longest first from the left; what is in between stays as it is."""
    found, at, loose = [], 0, ""
    while at < len(run):
        for end in range(len(run), at + 1, -1):
            if run[at:end] in known:
                found += [loose] if loose else []
                found.append(run[at:end])
                at, loose = end, ""
                break
        else:
            loose += run[at]
            at += 1
    return [*found, loose] if loose else found
