"""The prompt check: an instruction in, a score for each category out."""

from openkontext.safety.prompt.classifier import classifier
from openkontext.safety.prompt.readings import readings
from openkontext.safety.prompt.rules import rules
from openkontext.safety.verdict import ASKABLE

_SURE = 0.8
"""Probability from which the network refuses by itself; chosen by the false refusals on both suites."""


class PromptCheck:
    """Scores an instruction. Has no state; one serves all threads."""

    name = "prompt"
    version = "7"

    def scores(self, text: str) -> dict[str, float]:
        """How likely an instruction asks for what a category names.

        Args:
            text: An instruction, as it was handed in.

        Returns:
            Category to score, 0 to 1, for all of `verdict.ASKABLE`. From 0.5 on, the text more likely asks
            for it than not.
        """
        found = dict.fromkeys(ASKABLE, 0.0)
        for words in readings(text):
            for hit in rules().hits(words):
                found[hit.category] = max(found[hit.category], hit.score)
            for category, probability in classifier().scores(rules().suspect(words)).items():
                found[category] = max(found[category], _alone(probability))
        return found


def _alone(probability: float) -> float:
    """The network's probability as a score: `_SURE` is 0.5, and linear on both sides."""
    if probability < _SURE:
        return probability * 0.5 / _SURE
    return 0.5 + (probability - _SURE) * 0.5 / (1 - _SURE)
