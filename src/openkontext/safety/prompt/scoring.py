"""The prompt check: an instruction in, a score for each category out."""

from openkontext.safety.prompt.classifier import classifier
from openkontext.safety.prompt.interpretations import interpretations, plain
from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.rules import rules
from openkontext.safety.verdict import ASKABLE, FIXED

ORDERED = "ordered"
"""Said of a line in a picture that tells to do what a fixed category names."""
_ORDER, _POLITE = "order", "polite"
"""Groups of the words that an instruction begins with, and of those before it."""
_NAMED = frozenset(
    [
        "person",
        "minor",
        "youth",
        "victim",
        "garment",
        "half_garment",
        "bikini",
        "scanty",
        "outer",
        "drape",
        "textiles",
        "wear",
        "worn",
        "body",
        "intimate",
        "chest",
        "skin",
        "bare",
        "bareword",
        "undress",
        "undressing",
        "sexual",
        "vulgar",
        "picture",
    ]
)
"""Groups of which a word must stand in a text for the network to find a fixed category in it."""

_SURE = 0.6
"""Probability from which the network refuses by itself; chosen by the false refusals on the suites."""


class PromptCheck:
    """Scores an instruction. Has no state; one serves all threads."""

    name = "prompt"
    version = "9"

    def scores(self, text: str) -> dict[str, float]:
        """How likely an instruction asks for what a category names.

        Args:
            text: an instruction, as it was handed in.

        Returns:
            Category to score, 0 to 1, for all of `verdict.ASKABLE`. From 0.5 on, the text more likely asks
            for it than not.
        """
        found = dict.fromkeys(ASKABLE, 0.0)
        for words in interpretations(text):
            for hit in rules().hits(words):
                found[hit.category] = max(found[hit.category], hit.score)
            for category, score in _guessed(rules().suspect(words)).items():
                found[category] = max(found[category], score)
        return found

    def written(self, line: str) -> dict[str, float]:
        """How likely a line of text that is read in a picture says what a category names.

        It was written for whoever sees it, and misread here and there: nothing is mended, decoded or guessed,
        and only the rules judge.

        Args:
            line: one line.

        Returns:
            As `scores`; `ORDERED` is besides the score of a fixed category in a line that tells to do it.
        """
        found = dict.fromkeys((*ASKABLE, ORDERED), 0.0)
        for words in plain(line):
            for hit in rules().hits(words):
                found[hit.category] = max(found[hit.category], hit.score)
            if _orders(words):
                found[ORDERED] = max(found[ORDERED], found["ncii"], found["csam"])
        return found


def _guessed(words: list[str]) -> dict[str, float]:
    """Scores of the network; of a fixed category only where somebody, clothes or a body is named."""
    scores = {category: _alone(probability) for category, probability in classifier().scores(words).items()}
    if _NAMED.isdisjoint(lexicon().find(words)):
        scores["nudity"] = max(scores["nudity"], *(scores.pop(each) for each in FIXED if each in scores))
    return scores


def _orders(words: list[str]) -> bool:
    """Whether a line begins by telling what to do, as an instruction does and prose seldom does."""
    spans = lexicon().find(words)
    begins = {0, *spans.get(_POLITE, {}).get(0, ())}
    return not begins.isdisjoint(spans.get(_ORDER, {}))


def _alone(probability: float) -> float:
    """The network's probability as a score: `_SURE` is 0.5, and linear on both sides."""
    if probability < _SURE:
        return probability * 0.5 / _SURE
    return 0.5 + (probability - _SURE) * 0.5 / (1 - _SURE)
