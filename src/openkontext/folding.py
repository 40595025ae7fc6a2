"""Any text -> the plain ASCII that a model with a small vocabulary was taught, and what is left over.

Phones put in curly quotes, dashes and accents by themselves. A model that was trained on open text reads
these as its publisher's tokenizer does. One that was taught a list of words (`RepositoryConfig.words`) gets
them folded to what it knows. The folding is made of the tokenizers' own normalizers: so it lies in
`tokenizer.json`, holds for whoever opens that file, and keeps track of where in the text a token stands.
"""

import re
import unicodedata
from collections.abc import Collection
from typing import Any

from tokenizers import Regex, normalizers

# Signs that lose their meaning where they are decomposed: 5½ is not 51/2, and ´ no accent on a space.
_BEFORE = {
    "´": "'",
    "΄": "'",
    "˝": '"',
    "″": '"',
    "‶": '"',
    **{
        sign: " " + unicodedata.normalize("NFKD", sign)
        for sign in map(chr, [*range(0xBC, 0xBF), *range(0x2150, 0x2160), 0x2189])
    },
}

# What decomposing leaves, by what it becomes: signs that look or mean the same, and letters that are joined
# or written with a stroke, not with an accent.
_AFTER = {
    "'": "‘’‚‛‹›′‵ʹʻʼʽʾʿˈꞌ׳❛❜",
    '"': "“”„‟«»ʺ״❝❞❠〝〞〟「」『』《》〈〉⟪⟫⟨⟩⹂",
    "-": r"\p{Pd}−⁃─━➖",
    "/": "⁄∕÷⟋",
    "*": "∗⁎",
    "|": "¦∣⏐",
    "~": "∼∽〜〰",
    ":": "∶׃",
    ",": "،、⸲",
    ";": "؛⁏",
    ".": "。۔।॥",
    "...": "⋯",
    "?": "؟⸮❓❔",
    "!": "❗❕",
    "[": "【〔〖⟦",
    "]": "】〕〗⟧",
    "%": "٪",
    "+": "➕",
    "x": "×✕✖⨯",
    " ": "\u115f\u1160\u2800",  # letters and signs that are blank
    "ss": "ß",
    "ae": "æ",
    "oe": "œ",
    "th": "þ",
    "ng": "ŋ",
    "b": "ƀɓ",
    "d": "đðɖɗ",
    "e": "ɇəǝɛ",
    "f": "ƒ",
    "g": "ǥɠ",
    "h": "ħ",
    "i": "ıɨɩ",
    "j": "ɉȷ",
    "k": "ĸƙ",
    "l": "łƚɫ",
    "n": "ɲƞ",
    "o": "øɵɔ",
    "p": "ƥ",
    "r": "ɍ",
    "t": "ŧƭʈ",
    "u": "ʉ",
    "y": "ɏƴ",
    "z": "ƶȥ",
}

_KNOWN = (
    *(normalizers.Replace(sign, plain) for sign, plain in _BEFORE.items()),
    normalizers.NFKD(),
    normalizers.Replace(Regex(r"\p{M}+"), ""),
    normalizers.Lowercase(),
    # Control and format characters stand for nothing that is seen: NUL, zero-width and soft ones, a BOM.
    normalizers.Replace(Regex(r"(?:(?!\s)[\p{Cc}\p{Cf}])+"), ""),
    *(normalizers.Replace(Regex(f"[{signs}]"), plain) for plain, signs in _AFTER.items()),
)
_FOLD = normalizers.Sequence(list(_KNOWN))
_LEFT = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\x00-\x7f\s]")
"""A word of folded text, or a sign that could not be folded."""

# Of a text whose characters are written as their classes: a word, in any script, or signs in a row. Marks,
# and what is not seen (z), belong to what stands before them: vowels of Devanagari, the joints of an emoji.
_WORD, _SIGNS = r"w(?:z*[wm])*", r"s(?:z*[sm])*"
_PIECE = re.compile(rf"{_WORD}(?:z*'z*{_WORD})*|{_SIGNS}")
_CLASSES = {"L": "w", "N": "w", "M": "m", "S": "s", "Co": "s", "Cn": "s", "Cc": "z", "Cf": "z"}
_JOINERS = "\u200c\u200d"


def plain_text() -> normalizers.Normalizer:
    """What turns any text into printable, lower-case ASCII.

    Typographic signs, accents, and other forms of letters and digits become the plain ones. What has none,
    such as an emoji or a letter of another script, becomes a space: a vector that was never trained would
    blur the words that the model knows. Where no word is left, a full stop stands for them, since no text at
    all asks for any picture. Nothing happens to ASCII but that capitals become small and blanks spaces.
    """
    return normalizers.Sequence(
        [
            *_KNOWN,
            normalizers.Replace(Regex(r"\A(?=\p{ASCII}*\P{ASCII})(?>[^a-z0-9]*)\z"), "."),
            normalizers.Replace(Regex(r"[^\x21-\x7e]+"), " "),
        ]
    )


def fold(text: str) -> str:
    """A text in the plain forms of its characters; those that have none stay as they are."""
    folded: Any = _FOLD.normalize_str(text)
    return str(folded)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: spaces of any kind, zero-width and control characters alone."""
    return not fold(text).strip()


def unknown_words(text: str, words: Collection[str]) -> list[str]:
    """Words and signs of a text that are not among some words, each once, in order, as they are written.

    Args:
        text: in any script.
        words: folded.
    """
    unknown: dict[str, str] = {}
    classes = "".join(map(_class, text))
    for match in _PIECE.finditer(classes):
        piece = text[match.start() : match.end()].lower()
        folded = fold(piece)
        if any(part not in words for part in _LEFT.findall(folded)):
            seen = "".join(c for c in piece if c in _JOINERS or _class(c) != "z")
            unknown.setdefault(folded, unicodedata.normalize("NFC", seen))
    return list(unknown.values())


def _class(character: str) -> str:
    """Whether a character is of a word, a sign, a mark, not seen (z), an apostrophe, or stands between."""
    if character in "\t\n\v\f\r\x85":
        return " "
    if character == "'" or character in _AFTER["'"] or _BEFORE.get(character) == "'":
        return "'"
    if unicodedata.normalize("NFKD", character).isalnum():  # also ⓜ and ™, which are signs by their category
        return "w"
    category = unicodedata.category(character)
    return _CLASSES.get(category) or _CLASSES.get(category[0], " ")
