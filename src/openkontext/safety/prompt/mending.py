"""Words put back together and spelled as they were meant.

Two ways of writing get past a list of words and past no reader: cutting words up or running them together
("n u d e", "nak ed", "makehernude"), and misspelling them ("nkaed", "undrses"). The cuts are undone by the
cheapest way to divide the letters into known words (as P. Norvig describes in "Natural Language Corpus Data",
2009, with Zipf's law in place of counts), the misspellings by known words at one edit.
"""

import math
import re
from array import array
from collections.abc import Callable, Collection, Iterator
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np

from openkontext.safety.prompt.lexicon import Lexicon, lexicon
from openkontext.safety.prompt.rules import rules

MASKS = "*#_?"
"""Signs that are written in place of a letter."""
_LONE = re.compile("[⺀-鿿가-힣฀-๿]")
"""Characters of scripts in which each is a token."""
_LONGEST = 18
"""Letters of the longest word that is looked for in a run of letters."""
_RARE = 9.5
"""Cost of a word that only the lexicon knows, or whose stem it knows; the vocabulary's dearest costs 10."""
_LETTERS = {"a": 1.5, "i": 3.0}
"""Cost of the words of one letter."""
_UNKNOWN, _UNKNOWN_LETTER = 9.0, 2.0
"""Cost of an unknown word, and of each of its letters."""
_JOIN, _JOIN_LETTERS, _CUT = 4.0, 0.1, 1.0
"""Cost of a boundary of the text that is not kept, of one at a single letter, and of a new one."""
_MIN_LENGTH = 4
"""Letters of the shortest word that may be misspelled."""
_MIN_FOREIGN_LENGTH = 6
"""The same in a text of another language: its short words are one letter away from too many others."""
LITTLE_ENGLISH = frozenset(
    re.findall(
        r"\w+", "the an of in to and with her his from for make it this that my is are be at by she he your"
    )
)
LITTLE_FOREIGN = frozenset(
    re.findall(
        r"\w+",
        "el la los las un una del con por para su en que y le lo der die das den dem ein eine einen mit und"
        " auf im von zu ihr les des une avec dans sur et du au sa ses il elle di che per gli della de da al"
        " dal dalla dallo dei nel nella sul sulla um uma os com dos das em ao ist nicht vom zum zur est ne"
        " pas qui ohne sans senza sem",
    )
)
"""Little words that tell English from its neighbors, where those have more of them."""
_ELIDED = frozenset({"l", "d", "qu"})
"""What is left of such words before an apostrophe."""
_ENGLISH = 0.45
"""Share of a text's letters in known words from which unknown ones may be misspelled."""
_MENDED = 0.75
"""The same of a mended text, from which it was meant to be so."""
_GLUED = 3
"""Tokens below which a text may be one word because its spaces were left out."""
_MAX_SHORT = 6.5
"""Dearest word of three letters that is no piece of another."""


class Mender:
    """Undoes cuts and misspellings.

    Args:
        vocabulary: ordinary words, the most frequent first.
        words: the terms of the rules.
        foreign: words of other languages, and rare English ones, that are no misspellings.
    """

    def __init__(self, vocabulary: list[str], words: Lexicon, foreign: frozenset[str] = frozenset()) -> None:
        self.ordinary = {word: rank for rank, word in enumerate(vocabulary)}
        """The vocabulary's words to their rank, from 0."""
        self._lexicon = words
        self._foreign = foreign
        rare = (word for word in words.words if len(word) > 1 and word.isalpha())
        self._others = {word: _RARE for word in rare if word not in self.ordinary} | _LETTERS

    def mend(self, tokens: list[str]) -> list[list[str]]:
        """What the tokens of a text may be meant to be: cuts undone first, or misspellings first."""
        tokens = [self._reorder(self._shorten(token)) for token in tokens]
        foreign = _foreign(tokens)
        joined = self._join(tokens, foreign)
        least = _MIN_FOREIGN_LENGTH if foreign else _MIN_LENGTH
        found = [
            self._join([self.correct(token, least) for token in tokens], foreign),
            [self.correct(token, least) for token in joined],
        ]
        if self.sense(joined) < _ENGLISH:
            # A word of another language is no misspelled English one, unless all of it becomes English.
            terms = any(len(t) > 2 and self.knows(t) and not self.is_english(t) for t in joined)
            found = [joined, *(w for w in found if not terms and self.sense(w) >= _MENDED)]
        return [list(words) for words in dict.fromkeys(map(tuple, found))]

    def sense(self, tokens: list[str]) -> float:
        """Share of the letters that are in known words; of ASCII ones, in those of three letters or more."""
        known = sum(len(t) for t in tokens if (len(t) > 2 or not t.isascii()) and self.knows(t))
        return known / max(1, sum(map(len, tokens)))

    def correct(self, token: str, least: int = _MIN_LENGTH) -> str:
        """The word of the lexicon that an unknown token of `least` letters or more is one edit away from."""
        if len(token) < least or not (token.isascii() and token.isalpha()) or self.knows(token):
            return token
        close = (word for word in self._near.words(*_deletes(token)) if one_edit(token, word))
        return min(close, key=lambda word: (self._cost(word), word), default=token)

    def unmask(self, token: str) -> list[str]:
        """The words of the lexicon that a word with signs in place of letters may be ("n*ked")."""
        pattern = re.compile("".join("[a-z]" if c in MASKS else re.escape(c) for c in token))
        return [w for w in self._masked.get((token[0], len(token)), ()) if pattern.fullmatch(w)]

    @cached_property
    def _masked(self) -> dict[tuple[str, int], list[str]]:
        table: dict[tuple[str, int], list[str]] = {}
        for word in sorted(self._lexicon.spelled):
            if len(word) >= _MIN_LENGTH - 1 and word.isascii() and word.isalpha():
                table.setdefault((word[0], len(word)), []).append(word)
        return table

    def _reorder(self, token: str) -> str:
        """The known word that an unknown token is with its inner letters in another order; else the token."""
        if len(token) < _MIN_LENGTH or not token.isalpha() or self.knows(token):
            return token
        letters = ends_and_letters(token)
        same = (word for word in self._anagrams.words(letters) if ends_and_letters(word) == letters)
        return max(same, key=lambda word: (-self._cost(word), word), default=token)

    @cached_property
    def _anagrams(self) -> "_WordIndex":
        """Known words by their first, last and sorted inner letters."""
        known = self.ordinary.keys() | self._others.keys() | self._lexicon.spelled
        words = [word for word in known if len(word) >= _MIN_LENGTH and word.isalpha()]
        return _WordIndex(words, lambda word: [ends_and_letters(word)])

    def knows(self, token: str) -> bool:
        """Whether a token is a word, of English, of another language or of the rules."""
        return (
            token in self.ordinary
            or token in self._others
            or token in self._lexicon.words
            or token in self._foreign
            or self._lexicon.has_stem(token)
        )

    def is_english(self, token: str) -> bool:
        """Whether a token is an ordinary English word."""
        return token in self.ordinary

    def is_plain(self, token: str) -> bool:
        """Whether a token is a word that nobody would take for a piece of another."""
        if len(token) < _MIN_LENGTH:
            return self._cost(token) < _MAX_SHORT
        return self.knows(token)

    def _whole(self, token: str) -> bool:
        """Whether a token is surely no piece of a word."""
        known = len(token) > _MIN_LENGTH and self.knows(token)
        foreign = len(token) > 1 and not token.isascii()
        return known or foreign or not token.isalpha() or _LONE.match(token) is not None

    @cached_property
    def _near(self) -> "_WordIndex":
        """The lexicon's words by what is left of them with a letter less."""
        words = [word for word in self._lexicon.spelled if len(word) >= _MIN_LENGTH and word.isalpha()]
        return _WordIndex(words, _deletes)

    def _cost(self, word: str, unknown: float = _RARE) -> float:
        """What a word costs in a division: the more, the rarer it is."""
        cost = self._others.get(word)
        if cost is None:
            rank = self.ordinary.get(word)
            return unknown if rank is None else math.log(rank + 2)
        return cost

    def _shorten(self, token: str) -> str:
        """A token without the letters that lengthen it ("nuuude"): twice where that is a word, else once."""
        if not re.search(r"(.)\1\1", token):
            return token
        shorter = [re.sub(r"(.)\1\1+", count, token) for count in (r"\1\1", r"\1")]
        known = [word for word in shorter if self.knows(word)]
        return min(known, key=self._cost, default=re.sub(r"(.)\1+", r"\1", token))

    def _join(self, tokens: list[str], foreign: bool) -> list[str]:
        """The tokens with cuts undone; in another language its little words are no pieces ("de la")."""
        joined: list[str] = []
        little = LITTLE_FOREIGN | _ELIDED if foreign else frozenset[str]()
        for run in _runs(tokens, lambda token: token in little or self._whole(token)):
            # A short word of the rules that stands among whole ones is itself: "aus" is not "a us".
            alone = len(run) == 1 and self.knows(run[0])
            joined += run if alone or all(map(self.is_plain, run)) else self._parted(run, len(tokens))
        return joined

    def _parted(self, run: list[str], tokens: int) -> list[str]:
        """A run divided into words. One token among others is a word, unless whole words make it up."""
        pieces = self._divide(run)
        if len(run) > 1 or tokens < _GLUED:
            return pieces
        whole = all(len(piece) >= _MIN_LENGTH for piece in pieces)
        return pieces if whole or all(map(self._piece, pieces)) else run

    def _piece(self, word: str) -> bool:
        """Whether a word may be glued to another: the short ones are common words of English."""
        return self.knows(word) and (len(word) >= _MIN_LENGTH or self.is_plain(word))

    def _divide(self, run: list[str]) -> list[str]:
        """The cheapest division of a run of tokens' letters into words."""
        letters = "".join(run)
        edges, at = {}, 0  # boundaries of the text, and what not keeping them costs
        for token, following in zip(run, [*run[1:], ""], strict=True):
            at += len(token)
            edges[at] = _JOIN if min(len(token), len(following)) > 1 else _JOIN_LETTERS
        passed = [0.0] * (len(letters) + 1)  # what all boundaries up to each place cost
        for i in range(1, len(letters) + 1):
            passed[i] = passed[i - 1] + edges.get(i, 0.0)
        best = [0.0] + [math.inf] * len(letters)
        back = [0] * (len(letters) + 1)
        for end in range(1, len(letters) + 1):
            cut = 0.0 if end in edges else _CUT
            for start in range(max(0, end - _LONGEST), end):
                word = letters[start:end]
                cost = self._cost(word, math.inf)
                if cost == math.inf:
                    # An unknown word keeps a boundary of the text.
                    if cut and start and start not in edges:
                        continue
                    cost = self._rare_cost(word, whole=passed[end - 1] - passed[start] < _JOIN)
                cost += best[start] + cut + passed[end - 1] - passed[start]
                if cost < best[end]:
                    best[end], back[end] = cost, start
        words, end = [], len(letters)
        while end:
            words.append(letters[back[end] : end])
            end = back[end]
        return words[::-1]

    def _rare_cost(self, word: str, *, whole: bool) -> float:
        """Cost of a word that is not in the vocabulary; one made of several words has no stem."""
        return _RARE if whole and self._lexicon.has_stem(word) else _UNKNOWN + _UNKNOWN_LETTER * len(word)


class _WordIndex:
    """Words by keys, of which each has several: in arrays, for which a dict takes ten times the memory.

    Args:
        words: in any order.
        keys: of a word.
    """

    def __init__(self, words: list[str], keys: Callable[[str], Collection[str]]) -> None:
        self._words = words
        hashes, places = array("q"), array("i")
        for place, word in enumerate(words):
            found = keys(word)
            hashes.extend(map(hash, found))
            places.extend([place] * len(found))
        order = np.argsort(hashes)
        self._hashes, self._places = np.array(hashes)[order], np.array(places)[order]

    def words(self, *keys: str) -> Iterator[str]:
        """The words that have one of some keys, and seldom others, whose keys have the same hash."""
        wanted = np.array([hash(key) for key in keys])
        starts, ends = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            for place in self._places[start:end].tolist():
                yield self._words[place]


def _runs(tokens: list[str], whole: Callable[[str], bool]) -> Iterator[list[str]]:
    """The tokens in runs that may be pieces of words, and one by one where they are none."""
    run: list[str] = []
    for token in tokens:
        if not whole(token):
            run.append(token)
            continue
        if run:
            yield run
            run = []
        yield [token]
    if run:
        yield run


def _foreign(tokens: list[str]) -> bool:
    """Whether a text's little words are of another language than English."""
    foreign, english = (sum(t in words for t in tokens) for words in (LITTLE_FOREIGN, LITTLE_ENGLISH))
    return foreign > english


def ends_and_letters(word: str) -> str:
    """What words that differ in the order of their inner letters alone have in common."""
    return word[0] + "".join(sorted(word[1:-1])) + word[-1]


def _deletes(word: str) -> set[str]:
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def one_edit(a: str, b: str) -> bool:
    """Whether one letter was left out, put in or changed, not the first, or swapped with its neighbor."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    if len(a) == len(b):
        changed = a[start + 1 :] == b[start + 1 :] and start > 0 and len(a) > _MIN_LENGTH
        swapped = a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        return changed or swapped
    if start == 0:
        return False
    shorter, longer = sorted((a, b), key=len)
    return shorter[start:] == longer[start + 1 :]


@lru_cache(maxsize=1)
def mender() -> Mender:
    """The one for the package's vocabulary and lexicon."""
    folder = resources.files("openkontext.safety.prompt")
    vocabulary, foreign = (
        (folder / name).read_text(encoding="utf-8").split() for name in ("vocabulary.txt", "foreign.txt")
    )
    rules()  # they teach the lexicon the words that they name
    return Mender(vocabulary, lexicon(), frozenset(foreign))
