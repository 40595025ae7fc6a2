"""Groups of words in many languages, and where in a text they stand."""

import tomllib
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

from openkontext.safety.prompt.normalize import fold, tokens, transliterate

_MAX_ENDING = 3
"""Letters of the longest ending of a stem, where a word is only that."""
_MAX_STEMMED = 20000
"""Answers about stems that are kept."""
_MIN_STEM = 3
"""Letters of the shortest stem that a star may end."""
_MIN_TYPED = 5
"""Letters from which a word of another script also counts as typed in Latin letters: shorter is English."""
_OTHER_SCRIPTS = ("zh", "ja", "ko", "ar", "hi")
"""Languages whose terms, typed in Latin letters, are too many short words to compare misspellings with."""
_NAMES = ("figure", "mark")
"""Groups of names: too many words are one letter away from one."""
_MIN_MISSPELLED_STEM = 6
"""Letters of the shortest stem that misspellings are compared with."""

Spans = dict[str, dict[int, list[int]]]
"""Group to start to ends (exclusive), in tokens."""


class Term(NamedTuple):
    """A phrase of a group: one of thousands, and a tuple is made quicker than a data class."""

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
        self.groups = set(table)
        """Names of all groups."""
        self.words: set[str] = set()
        """Every token of every term."""
        self.spelled: set[str] = set()
        """Those that may be misspelled: of Latin and Cyrillic terms, and no short stems."""
        # Most terms are one word, and words of the same groups share one tuple of them.
        self._single: dict[str, tuple[str, ...]] = {}
        self._stems: dict[str, tuple[str, ...]] = {}
        self._phrases: dict[str, list[Term]] = {}
        self._stemmed: dict[str, bool] = {}  # answers of `has_stem`
        self._shared: dict[Any, Any] = {}  # the first of equal values, which memory then holds once
        for group, languages in table.items():
            for language, terms in languages.items():
                alphabetic = language not in _OTHER_SCRIPTS and group not in _NAMES
                for term in (
                    map(fold, terms) if language == "signs" else fold(" ".join(terms.split())).split(",")
                ):
                    for spelling in filter(None, _spellings(term.strip())):
                        self._add(group, spelling, alphabetic)
        self._shared.clear()

    def _add(self, group: str, spelling: tuple[str, ...], alphabetic: bool) -> None:
        last = spelling[-1]
        if stem := last.endswith("*"):
            spelling = (*spelling[:-1], last := last[:-1])
        if len(spelling) == 1:
            found = self._stems if stem else self._single
            groups = found.get(last, ())
            if group in groups:
                return
            groups = (*groups, group)
            found[last] = self._shared.setdefault(groups, groups)
        else:
            first, *rest = [self._shared.setdefault(word, word) for word in spelling]
            phrases, term = self._phrases.setdefault(first, []), Term(group, tuple(rest), stem)
            if term in phrases:
                return
            phrases.append(term)
        self.words.update(spelling)
        if alphabetic:
            self.spelled.update(spelling[:-1] if stem and len(last) < _MIN_MISSPELLED_STEM else spelling)

    def learn(self, words: Iterable[str]) -> None:
        """Take words that rules name themselves among those that misspellings are compared with."""
        self.words.update(words)
        self.spelled.update(words)

    def has_stem(self, word: str) -> bool:
        """Whether a word is mostly a stem that stands alone as a term."""
        if word in self._stemmed:
            return self._stemmed[word]
        if len(self._stemmed) > _MAX_STEMMED:
            self._stemmed.clear()
        least = max(_MIN_STEM + 1, len(word) * 3 // 5, len(word) - _MAX_ENDING)
        found = any(word[:length] in self._stems for length in range(least, len(word) + 1))
        self._stemmed[word] = found
        return found

    def find(self, words: list[str]) -> Spans:
        """Where the terms of each group stand among the tokens of a text."""
        spans: Spans = defaultdict(lambda: defaultdict(list))
        for start, word in enumerate(words):
            for group in self._single.get(word, ()):
                spans[group][start].append(start + 1)
            for term in self._phrases.get(word, ()):
                if _continues(words, start + 1, term):
                    spans[term.group][start].append(start + 1 + len(term.rest))
            for length in range(_MIN_STEM, len(word) + 1):
                for group in self._stems.get(word[:length], ()):
                    spans[group][start].append(start + 1)
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


def _spellings(folded: str) -> list[tuple[str, ...]]:
    """A folded term's tokens, a star at the end of a stem; of another script, in Latin letters, too."""
    if folded.isascii():
        return [(folded,) if folded.isalpha() else _starred(folded)]
    found = [_starred(folded)]
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
    table: dict[str, dict[str, str]] = defaultdict(dict)
    for file in tables("words"):
        for group, languages in file.items():
            for language, terms in languages.items():
                known = table[group].get(language)
                table[group][language] = terms if known is None else f"{known}, {terms}"
    return Lexicon(table)


def tables(name: str) -> list[dict[str, Any]]:
    """What the package's TOML files of a name hold: words.toml, words_acts.toml and so on."""
    folder = resources.files("openkontext.safety.prompt")
    files = sorted(
        (f for f in folder.iterdir() if f.name.startswith(name) and f.name.endswith(".toml")),
        key=lambda f: f.name,
    )
    return [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
