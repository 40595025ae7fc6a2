"""Groups of words in many languages, and where in a text they stand."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from openkontext.safety.prompt.compiled_terms import CompiledTerms, compiled, shipped_terms

_MAX_ENDING = 3
"""Letters of the longest ending of a stem, where a word is only that."""
_MAX_STEMMED = 20000
"""Answers about stems that are kept."""
_MIN_STEM = 3
"""Letters of the shortest stem that a star may end."""

Spans = dict[str, dict[int, list[int]]]
"""Group to start to ends (exclusive), in tokens."""


class Term(NamedTuple):
    """A phrase of a group."""

    group: str
    rest: tuple[str, ...]
    """Tokens after the first."""
    stem: bool
    """Whether the last token may go on."""


class Lexicon:
    """All groups of words.

    Args:
        terms: of the groups; or group to language to terms, as `compiled` takes them.
    """

    def __init__(self, terms: CompiledTerms | Mapping[str, Mapping[str, str]]) -> None:
        terms = terms if isinstance(terms, CompiledTerms) else compiled(terms)
        self.groups = terms.groups
        """Names of all groups."""
        self.words = set(terms.words)
        """Every token of every term."""
        self.spelled = set(terms.spelled)
        """Those that may be misspelled: of Latin and Cyrillic terms, and no short stems."""
        self._single, self._stems, self._packed = terms.single, terms.stems, terms.phrases
        self._phrases: dict[str, list[Term]] = {}  # of the words that were met
        self._stemmed: dict[str, bool] = {}  # answers of `has_stem`

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
            for term in self._begun(word):
                if _continues(words, start + 1, term):
                    spans[term.group][start].append(start + 1 + len(term.rest))
            for length in range(_MIN_STEM, len(word) + 1):
                for group in self._stems.get(word[:length], ()):
                    spans[group][start].append(start + 1)
        return spans

    def _begun(self, word: str) -> list[Term]:
        """The phrases that begin with a word."""
        found = self._phrases.get(word)
        if found is None:
            if word not in self._packed:
                return []
            found = self._phrases[word] = list(map(_term, self._packed[word].split("\n")))
        return found


def _term(line: str) -> Term:
    group, *rest = line.split(" ")
    stem = rest[-1].endswith("*")
    return Term(group, (*rest[:-1], rest[-1].removesuffix("*")), stem)


def _continues(words: list[str], start: int, term: Term) -> bool:
    end = start + len(term.rest)
    if not term.stem:
        return tuple(words[start:end]) == term.rest
    return (
        end <= len(words)
        and tuple(words[start : end - 1]) == term.rest[:-1]
        and words[end - 1].startswith(term.rest[-1])
    )


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The groups that the package ships."""
    return Lexicon(shipped_terms())
