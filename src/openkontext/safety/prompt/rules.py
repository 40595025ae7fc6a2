"""Rules: patterns over groups of words. What they mean is said in rules.toml."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from openkontext.safety.prompt.compiled_terms import tables
from openkontext.safety.prompt.lexicon import Lexicon, Spans, lexicon
from openkontext.safety.prompt.normalize import BREAK, fold

HARMLESS = "harmless"
"""The category whose matches take words away from all others."""
NEGATED = "negated"
"""The same, unless what stands before denies it in turn ("don't avoid ...")."""
_INSISTS, _REVIVES = "insists", "revives"
"""Groups of the words that deny a denial: before it, and after it ("not ... enough")."""


@dataclass(frozen=True)
class Element:
    """One step of a pattern."""

    groups: frozenset[str]
    words: frozenset[str]
    least: int = 1
    most: int = 1
    gap: bool = False
    """Any word will do."""
    never: bool = False
    """One word that none of the groups begins with."""
    unless: bool = False
    """No word at all, where none of the groups begins."""


@dataclass(frozen=True)
class Rule:
    """One pattern of one category."""

    category: str
    score: float
    parts: tuple[tuple[Element, ...], ...]
    """Sequences that must all be somewhere in the text."""


@dataclass(frozen=True)
class RuleHit:
    """A rule that holds."""

    category: str
    score: float
    spans: tuple[tuple[int, int], ...]
    """Of its parts, in tokens."""


class Rules:
    """All rules over a lexicon.

    Args:
        table: what rules.toml holds.
        words: the groups that the patterns name.

    Raises:
        ValueError: a pattern that cannot be read.
    """

    def __init__(self, table: list[dict[str, object]], words: Lexicon) -> None:
        self._lexicon = words
        self._harmless: list[Rule] = []
        self._rules: list[Rule] = []
        for entry in table:
            for line in str(entry["patterns"]).strip().splitlines():
                parts = tuple(tuple(_element(e) for e in part.split()) for part in line.split(" & "))
                rule = Rule(str(entry["category"]), float(str(entry.get("score", 1.0))), parts)
                words.learn(word for part in parts for element in part for word in element.words)
                (self._harmless if rule.category in (HARMLESS, NEGATED) else self._rules).append(rule)

    def hits(self, tokens: list[str]) -> list[RuleHit]:
        """The rules that hold for a text.

        Args:
            tokens: what `interpretations` gives, one of them.
        """
        spans = self._lexicon.find(tokens)
        covered = self._covered(tokens, spans)
        if covered:
            spans = _without(spans, covered)
            tokens = _blanked(tokens, covered)
        present = set(tokens)
        return [hit for rule in self._rules for hit in _holds(rule, tokens, spans, present, every=False)]

    def suspect(self, tokens: list[str]) -> list[str]:
        """The text with "" in place of each number, and of each token that is harmless where it stands."""
        numbers = {i for i, token in enumerate(tokens) if token.isdigit()}
        return _blanked(tokens, self._covered(tokens, self._lexicon.find(tokens)) | numbers)

    def _covered(self, tokens: list[str], spans: Spans) -> set[int]:
        """Places of the tokens that are harmless where they stand."""
        present = set(tokens)
        harmless = [
            hit for rule in self._harmless for hit in _holds(rule, tokens, spans, present, every=True)
        ]
        denied = {end for ends in spans.get(_INSISTS, {}).values() for end in ends} if harmless else set()
        revived = spans.get(_REVIVES, {})
        return {
            i
            for hit in harmless
            for start, end in hit.spans
            if hit.category == HARMLESS or not (start in denied or end in revived)
            for i in range(start, end)
        }


def _blanked(tokens: list[str], covered: set[int]) -> list[str]:
    return ["" if i in covered else token for i, token in enumerate(tokens)]


def _without(spans: Spans, covered: set[int]) -> Spans:
    left: Spans = defaultdict(lambda: defaultdict(list))
    for group, starts in spans.items():
        for start, ends in starts.items():
            kept = [end for end in ends if covered.isdisjoint(range(start, end))]
            if kept:
                left[group][start] = kept
    return left


def _holds(rule: Rule, tokens: list[str], spans: Spans, present: set[str], *, every: bool) -> list[RuleHit]:
    """The rule's matches: all of them, or just one that shows that it holds."""
    found: list[tuple[int, int]] = []
    for part in rule.parts:
        if any(
            e.least
            and not (e.gap or e.never or e.unless)
            and present.isdisjoint(e.words)
            and not any(g in spans for g in e.groups)
            for e in part
        ):
            return []
        matches = _matches(part, tokens, spans, every=every)
        if not matches:
            return []
        found += matches
    return [RuleHit(rule.category, rule.score, tuple(found))]


def _matches(
    part: tuple[Element, ...], tokens: list[str], spans: Spans, *, every: bool
) -> list[tuple[int, int]]:
    matches = []
    for start in range(len(tokens)):
        ends = {start}
        for element in part:
            ends = _advance(element, ends, tokens, spans)
            if not ends:
                break
        ends.discard(start)
        if ends:
            matches.append((start, max(ends)))
            if not every:
                break
    return matches


def _advance(element: Element, starts: set[int], tokens: list[str], spans: Spans) -> set[int]:
    """Where an element may end that starts at one of these places."""
    if element.gap:
        return {end for start in starts for end in _skips(start, element.most, tokens)}
    reached = set(starts) if element.least == 0 else set()
    edge = starts
    for _ in range(element.most):
        edge = {end for start in edge for end in _ends(element, start, tokens, spans)} - reached
        if not edge:
            break
        reached |= edge
    return reached


def _skips(start: int, most: int, tokens: list[str]) -> Iterator[int]:
    """Where a gap may end: it does not go beyond a sentence."""
    yield start
    for end in range(start + 1, min(start + most, len(tokens)) + 1):
        if tokens[end - 1] == BREAK:
            return
        yield end


def _ends(element: Element, start: int, tokens: list[str], spans: Spans) -> list[int]:
    if element.never or element.unless:
        begins = any(start in spans[group] for group in element.groups if group in spans)
        if element.unless:
            return [] if begins else [start]
        return [] if begins or start >= len(tokens) else [start + 1]
    ends = [end for group in element.groups if group in spans for end in spans[group].get(start, ())]
    if start < len(tokens) and tokens[start] in element.words:
        ends.append(start + 1)
    return ends


@cache  # patterns are made of the same few hundred
def _element(text: str) -> Element:
    if gap := re.fullmatch(r"\.\.(\d+)", text):
        return Element(frozenset(), frozenset(), 0, int(gap[1]), gap=True)
    if text.startswith("!"):
        return replace(_element(text[1:]), never=True)
    if text.startswith("-<"):
        return replace(_element(text[1:]), unless=True)
    repeat = text[-1] if text[-1] in "?*" else ""
    least, most = {"": (1, 1), "?": (0, 1), "*": (0, 12)}[repeat]
    body = text.removesuffix(repeat) if repeat else text
    if body.startswith("<") and body.endswith(">"):
        return Element(frozenset(body[1:-1].split("|")), frozenset(), least, most)
    return Element(frozenset(), frozenset(map(fold, body.split("|"))), least, most)


@lru_cache(maxsize=1)
def rules() -> Rules:
    """The rules that the package ships."""
    return Rules([entry for table in tables("rules") for entry in table["rule"]], lexicon())
