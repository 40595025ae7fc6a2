"""Count the words of each sentence of the pages: the bounds that CONTRIBUTING.md names.

    python scripts/prose.py [PAGE ...]

Code blocks, tables, headings, pictures and comments are left out. A code span counts as one word. A sentence
ends at `.`, `!` or `?` before a space, at a blank line, and with an item of a list.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
AVERAGE, LONGEST, WIDTH = 15, 35, 110
NOT_PROSE = ("commands.md", "settings.md", "recipes.md", "addresses.md", "log.md")
"""Pages that the program writes, and the log."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LEFT_OUT = re.compile(r"^\s*(\||#|!\[).*$", re.MULTILINE)
_CODE = re.compile(r"`[^`]+`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ITEM = re.compile(r"^\s*([-*]|\d+\.)\s+", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])[*_\"')\]]*\s+|\n\s*\n")
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Prose:
    """The sentences of one page."""

    page: str
    sentences: tuple[str, ...]

    @property
    def lengths(self) -> list[int]:
        """Words of each sentence."""
        return [_words(each) for each in self.sentences]

    @property
    def average(self) -> float:
        """Words of a sentence, as the mean."""
        return sum(self.lengths) / max(1, len(self.lengths))

    @property
    def too_long(self) -> list[str]:
        """Sentences above the bound."""
        return [each for each in self.sentences if _words(each) > LONGEST]


def _words(sentence: str) -> int:
    return sum(1 for word in sentence.split() if _WORD.search(word))


def read(path: Path) -> Prose:
    """The prose of a page."""
    text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    for pattern in (_FENCE, _LEFT_OUT):
        text = pattern.sub("\n\n", text)
    text = _ITEM.sub("\n\n", _LINK.sub(r"\1", _CODE.sub("code", text)))
    sentences = (" ".join(each.split()) for each in _END.split(text))
    return Prose(path.name, tuple(each for each in sentences if _WORD.search(each)))


def pages() -> list[Path]:
    """The pages that the bounds hold for."""
    found = [each for each in sorted((ROOT / "docs").glob("*.md")) if each.name not in NOT_PROSE]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *found]


if __name__ == "__main__":
    for page in [Path(each) for each in sys.argv[1:]] or pages():
        prose = read(page)
        print(f"{page.name:22} {prose.average:5.1f} words a sentence, {len(prose.too_long)} above {LONGEST}")
        for sentence in prose.too_long:
            print(f"    {sentence}")
