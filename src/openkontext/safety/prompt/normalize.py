"""Text as it is read, whatever characters spell it.

A writer who wants to get past a filter spells words so that people and models still read them: with letters
of other scripts, digits, spaces, invisible characters. Here are the ways back, each a function from text to
text; `interpretations.py` puts them together.
"""

import base64
import binascii
import html
import re
import string
import unicodedata
import urllib.parse
from functools import lru_cache

from anyascii import anyascii

_LONE = "一-鿿㐀-䶿豈-﫿぀-ヿ가-힣฀-๿"
"""Scripts without spaces, or with endings glued on (Han, kana, Hangul, Thai): each character is a token."""
_GLUED = re.compile(f"([{_LONE}]+)")
"""A run of such a script: a number in the midst of it is no part of a word."""
_SIGNS = "🔞🍆🍑💦👙👶👧👦🧒🍼🔫🔪💣🩸"
"""Emoji that say something here; all others only part words."""
_TOKEN = re.compile(f"[{_LONE}{_SIGNS}¶]|\\d+\\+|\\+\\d+|[^\\W_{_LONE}]+")
"""A plus at a number says what it means: 18 is a number, 18+ is not."""
BREAK = "¶"
"""Stands for the end of a sentence among tokens."""
_STOP = re.compile(r"(?:[.!?;:…—–\n]|\.\.\.| - )+(?=\s|$|[^\x00-\x7f])|[。！？；：]+")
_LONE_NO = re.compile(
    r"\b((?:no|nope|nah|not|never|non|nein|nicht|nie|nunca|jamais|нет|не|нельзя)"
    r"(?: (?:a|the|an|one|way|that|this|at all))?)\s*[,，、]",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?<=prompt)\s*:", re.IGNORECASE)
_INVISIBLE = dict.fromkeys([0x034F, 0x0640, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0])
"""Letters that print nothing (fillers, joiners) or only lengthen a word (the tatweel)."""

_LEET = {
    **dict(zip("0345789@$€£¥(+µ", "oeasttgaselyctu", strict=True)),
    "6": "g",
    "8": "b",
    "7": "t",
    "9": "g",
    "2": "z",
}
_AMBIGUOUS = "1!|"
"""Stand for i as well as for l."""
_LEET_PAIRS = (
    ("|\\|", "n"),
    ("/\\/", "n"),
    ("|)", "d"),
    ("\\/", "v"),
    ("()", "o"),
    ("|_|", "u"),
    ("vv", "w"),
)
_LOOSE = dict(
    zip("вкмнтгпиузчьыѕіјԁһѡαβγεηικνορτυχωκшщ", "bkmhtrnnyz4bbsijdhwabyenikvoptuxwkww", strict=True)
)
"""Letters that look Latin in lower case only, or that such writing uses though Unicode's table lacks them."""
_EDGE = ".,;:!?\"'`´“”‘’()[]{}<>…-–—*_~#/\\"
_PLAIN_NUMBER = re.compile(
    r"\d+(?:st|nd|rd|th|s|k|d|x|p|mm|cm|m|px|ft|in|yo|yr|yrs|y|kg|g|am|pm|%)?|[a-z]\d+|\d+h\d+", re.ASCII
)
"""Numbers, with a unit or without, labels of parts ("r127") and French times ("17h30")."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(r"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,]*){4,}")
_BINARY = re.compile(r"(?:[01]{8}\s*){3,}")
_MORSE = re.compile(r"(?:[.\-·–−]{1,4}(?:\s+/?\s*|/|$)){3,}")
_MORSE_SIGNS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- "
    "-. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
)
_MORSE_CODE = dict(
    zip(
        _MORSE_SIGNS.split(),
        string.ascii_lowercase,
        strict=True,
    )
)


def fold(text: str) -> str:
    """Lower case without marks, invisible characters and typographic variants; scripts stay as they are.

    Compatibility forms (fullwidth, circled, mathematical letters) become plain letters (NFKC); what is drawn
    on top of or through a letter goes, and so does what prints nothing: format and control characters,
    variation selectors, tags.
    """
    if "&" in text:
        text = html.unescape(text)
    if text.isascii() and text.isprintable():
        return text.lower()  # which is all that the rest would do, for most of the 20,000 words that are read
    text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", text).translate(_FOLDED))


class _Folded(dict[int, str | int | None]):
    """What `str.translate` puts in the place of a character, found when it is first met."""

    def __missing__(self, code: int) -> str | int | None:
        category = unicodedata.category(chr(code))
        kept: str | int | None = code
        if category in ("Zs", "Zl", "Zp") or chr(code) in "\t\n\r\v\f":
            kept = " "
        elif 0x1F1E6 <= code <= 0x1F1FF:  # flags are made of letters
            kept = code - 0x1F1E6 + ord("a")
        elif category in ("Mn", "Me", "Cf", "Cc", "Co", "Cn"):
            kept = None
        if code < _REMEMBERED:
            self[code] = kept
        return kept


_REMEMBERED = 0x3000
"""Characters from here on are looked up each time: nobody can fill the memory with them."""
_FOLDED = _Folded()


def tokens(folded: str) -> list[str]:
    """The words of a folded text; what has no spaces between words comes character by character."""
    return _TOKEN.findall(folded)


def clauses(text: str) -> str:
    """The text with a sign for itself, `BREAK`, where a sentence ends, or a "no" stands alone ("No, do it.").

    What is denied in one sentence is not denied in the next.
    """
    text = _LABEL.sub(" ", text)
    return _LONE_NO.sub(rf"\1 {BREAK} ", _STOP.sub(f" {BREAK} ", text))


def latin(folded: str) -> str:
    """The text with letters of other scripts read as Latin ones that look alike (Unicode's confusables)."""
    if folded.isascii():
        return folded
    return " ".join(word if word.isascii() else _latin_word(word) for word in folded.split(" "))


def _latin_word(word: str) -> str:
    """A word in Latin letters; loose lookalikes only count beside Latin letters: Russian is no English."""
    table = _confusables() | (_LOOSE if any(c.isascii() and c.isalpha() for c in word) else {})
    return "".join(table.get(character, character) for character in word)


def transliterate(folded: str) -> str:
    """The text in ASCII letters, by sound: Russian, Chinese and the rest as typed on a Latin keyboard."""
    return folded.translate(_SOUNDS)


class _Sounds(dict[int, str]):
    """What `str.translate` puts in the place of a character: ASCII letters, found when it is first met."""

    def __missing__(self, code: int) -> str:
        sound = anyascii(chr(code)).lower() if code > 0x7F else chr(code)
        if len(self) < _REMEMBERED_SOUNDS:
            self[code] = sound
        return sound


_REMEMBERED_SOUNDS = 8192
"""Characters whose sound is kept; the lexicon has 1,200 of them, fifteen times each."""
_SOUNDS = _Sounds()


@lru_cache(maxsize=1)
def _confusables() -> dict[str, str]:
    """Single characters beyond ASCII that look like an ASCII letter, folded, to that letter."""
    from confusable_homoglyphs.confusables import confusables_data

    table: dict[str, str] = {}
    for character, lookalikes in confusables_data.items():
        if len(character) != 1 or character.casefold().isascii():
            continue
        letters = [
            other["c"].lower() for other in lookalikes if other["c"].isascii() and other["c"].isalpha()
        ]
        letters = [letter for letter in letters if len(letter) == 1]
        if letters:
            table[character.casefold()] = min(letters, key=lambda letter: letter in "il")
    return table


def unleet(folded: str, ambiguous: str) -> str:
    """Digits and signs inside words as the letters that they stand for ("n4k3d"); numbers stay.

    Digits alone are read so only where another word has them among its letters.

    Args:
        folded: text.
        ambiguous: what 1, ! and | stand for: "i" or "l".
    """
    words = []
    parted = " ".join(filter(None, _GLUED.split(folded))).split(" ")
    disguised = any(map(_mixed, parted))
    for word in parted:
        core = word.rstrip(_EDGE).lstrip(_EDGE.replace("!", ""))
        for pair, letter in _LEET_PAIRS:
            if pair in core and pair != "vv":
                core = core.replace(pair, letter)
        if any(c.isalpha() for c in core) and not core.isalpha() and not _PLAIN_NUMBER.fullmatch(core):
            core = "".join(ambiguous if c in _AMBIGUOUS else _LEET.get(c, c) for c in core)
        elif disguised and core.isdigit() and 4 <= len(core) <= 8 and core[0] in "0346789":
            core = "".join(ambiguous if c == "1" else _LEET.get(c, c) for c in core)
        words.append(core or word)
    return " ".join(words)


def _mixed(word: str) -> bool:
    """Whether a word has digits among its letters, and is no number with a unit."""
    core = word.strip(_EDGE)
    letters, digits = any(map(str.isalpha, core)), any(map(str.isdigit, core))
    return letters and digits and not _PLAIN_NUMBER.fullmatch(core)


def decoded(text: str) -> list[str]:
    """What it says in base64, hexadecimal, binary, percent escapes or Morse code, if anything."""
    found = []
    for piece in _BASE64.findall(text):
        padded = piece.rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            found.append(base64.b64decode(padded + "=" * (-len(padded) % 4)).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue
    for match in _HEX.finditer(text):
        digits = re.sub(r"0x|\\x|[\s,]", "", match.group())
        if len(digits) % 2 == 0:
            found.append(bytes.fromhex(digits).decode(errors="ignore"))
    for match in _BINARY.finditer(text):
        bits = re.sub(r"\s", "", match.group())
        found.append(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).decode(errors="ignore"))
    for match in _MORSE.finditer(text):
        letters = re.split(r"\s+|/", match.group().translate(str.maketrans("·–−", ".--")))
        found.append("".join(_MORSE_CODE.get(letter, " ") for letter in letters))
    if "%" in text:
        unquoted = urllib.parse.unquote(text)
        found += [unquoted] if unquoted != text else []
    return [
        piece for piece in found if sum(c.isprintable() for c in piece) > 0.9 * len(piece) and piece.strip()
    ]
