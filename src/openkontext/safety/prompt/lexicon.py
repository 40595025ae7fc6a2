"""Groups of words in many languages, and where in a text they stand."""

import tomllib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from openkontext.safety.prompt.normalise import fold, tokens, transliterate

_MIN_STEM = 3
"""Letters of the shortest stem that a star may end."""
_MIN_TYPED = 5
"""Letters from which a word of another script also counts as typed in Latin letters: shorter is English."""

Spans = dict[str, dict[int, list[int]]]
"""Group to start to ends (exclusive), in tokens."""


@dataclass(frozen=True)
class Term:
    """A word or phrase of a group."""

    group: str
    rest: tuple[str, ...]
    """Tokens after the first."""
    stem: bool
    """Whether the last token may go on."""


class Lexicon:
    """All groups of words.

    Args:
        table: group to language to terms, parted by commas; a star ends a stem.
    """

    def __init__(self, table: dict[str, dict[str, str]]) -> None:
        self.words: set[str] = set()
        """Every token of every term."""
        self._whole: dict[str, list[Term]] = defaultdict(list)
        self._stems: dict[str, list[Term]] = defaultdict(list)
        seen = set()
        for group, languages in table.items():
            for language, terms in languages.items():
                for term in terms if language == "signs" else terms.split(","):
                    for spelling in _spellings(term.strip()):
                        if spelling and (group, spelling) not in seen:
                            seen.add((group, spelling))
                            self._add(group, spelling)

    def _add(self, group: str, spelling: tuple[str, ...]) -> None:
        *before, last = spelling
        stem = last.endswith("*")
        parts = [*before, last.removesuffix("*")]
        self.words.update(parts)
        term = Term(group, tuple(parts[1:]), stem)
        (self._stems if stem and len(parts) == 1 else self._whole)[parts[0]].append(term)

    def find(self, words: list[str]) -> Spans:
        """Where the terms of each group stand among the tokens of a text."""
        spans: Spans = defaultdict(lambda: defaultdict(list))
        for start, word in enumerate(words):
            for term in self._whole.get(word, ()):
                end = start + 1 + len(term.rest)
                if _continues(words, start + 1, term):
                    spans[term.group][start].append(end)
            for length in range(_MIN_STEM, len(word) + 1):
                for term in self._stems.get(word[:length], ()):
                    spans[term.group][start].append(start + 1)
        return spans


def _continues(words: list[str], start: int, term: Term) -> bool:
    end = start + len(term.rest)
    if not term.stem:
        return tuple(words[start:end]) == term.rest
    return (
        end <= len(words)
        and tuple(words[start : end - 1]) == term.rest[:-1]
        and words[end - 1].startswith(term.rest[-1])
    )


def _spellings(term: str) -> list[tuple[str, ...]]:
    """A term's tokens, a star at the end of a stem; also in Latin letters where it is of another script."""
    folded = fold(term)
    found = [_starred(folded)]
    if not folded.isascii():
        typed = transliterate(folded)
        if len(typed) >= _MIN_TYPED:
            found.append(_starred(typed))
            if "".join(tokens(folded.rstrip("*"))) and not folded[0].isascii() and ord(folded[0]) > 0x2E7F:
                # Chinese is typed syllable by syllable or in one.
                found.append(tuple(tokens(typed)))
    return found


def _starred(folded: str) -> tuple[str, ...]:
    words = tokens(folded)
    if words and folded.endswith("*"):
        words[-1] += "*"
    return tuple(words)


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The groups that the package ships."""
    file = resources.files("openkontext.safety.prompt") / "words.toml"
    return Lexicon(tomllib.loads(file.read_text(encoding="utf-8")))
