"""Ways to write a word so that a model may still read it and a filter may not.

They are those that PyRIT's prompt converters offer (github.com/Azure/PyRIT), as far as they need no other
model. The prompt check undoes most of them (docs/prompt-filter.md); whether the edited model reads them at
all depends on its tokenizer.
"""

import base64
import codecs
from collections.abc import Callable

_LEET = str.maketrans("aeiost", "4310$7")
_LOOKALIKE = str.maketrans("aceiopsxy", "асеіорѕху")
"""Cyrillic letters that look like Latin ones."""
_FULLWIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
_BOLD = str.maketrans({chr(97 + i): chr(0x1D41A + i) for i in range(26)})
_ZERO_WIDTH, _ACUTE, _STROKE = "\u200b", "\u0301", "\u0336"


def _swapped(word: str) -> str:
    """Two letters in the middle in each other's place, as a quick hand types."""
    middle = max(len(word) // 2, 1)
    return (
        word if len(word) < 3 else word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    )


def _doubled(word: str) -> str:
    middle = len(word) // 2
    return word[: middle + 1] + word[middle:]


def _shortened(word: str) -> str:
    """Without the vowels after the first letter."""
    return word[:1] + "".join(letter for letter in word[1:] if letter not in "aeiou")


CONVERTERS: dict[str, Callable[[str], str]] = {
    "leetspeak": lambda word: word.translate(_LEET),
    "homoglyphs": lambda word: word.translate(_LOOKALIKE),
    "zero width": lambda word: _ZERO_WIDTH.join(word),
    "spaced": lambda word: " ".join(word),
    "dotted": lambda word: ".".join(word),
    "hyphenated": lambda word: "-".join(word),
    "fullwidth": lambda word: word.translate(_FULLWIDTH),
    "bold letters": lambda word: word.translate(_BOLD),
    "accents": lambda word: "".join(letter + _ACUTE for letter in word),
    "struck out": lambda word: "".join(letter + _STROKE for letter in word),
    "alternating case": lambda word: "".join(c.upper() if i % 2 else c for i, c in enumerate(word)),
    "swapped letters": _swapped,
    "doubled letter": _doubled,
    "no vowels": _shortened,
    "reversed": lambda word: word[::-1],
    "masked": lambda word: word[:1] + "*" * (len(word) - 2) + word[-1:] if len(word) > 2 else word,
    "in halves": lambda word: f"{word[: len(word) // 2]} {word[len(word) // 2 :]}",
    "rot13": lambda word: codecs.encode(word, "rot13"),
    "base64": lambda word: base64.b64encode(word.encode()).decode(),
    "hexadecimal": lambda word: word.encode().hex(),
    "glued": lambda word: f"a{word}",
}
"""By name; each takes one word and gives it in disguise."""
