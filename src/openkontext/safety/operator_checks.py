"""Checks that an operator adds in a profile, besides those that come with openkontext.

They only add: what they find is refused as `FORBIDDEN`, and what others refuse stays refused.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from openkontext.safety.picture_classifier import PictureClassifier
from openkontext.safety.policy import ClassifierSettings
from openkontext.safety.prompt import word_list
from openkontext.safety.verdict import FORBIDDEN, CheckTurn, Stage, Subject


class WordsCheck:
    """Whether the instruction holds a word of an operator's list, as written or in disguise.

    The negative prompt says what shall not be seen, which is no offense.

    Args:
        name: of the list.
        words: that nobody may ask for.

    Raises:
        InputError: a word cannot be listed.
    """

    stages = frozenset({Stage.PROMPT})
    turn = CheckTurn.CHEAP

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name = f"words: {name}"
        self._list = word_list.WordList(f"words.{name}", words)
        digest = hashlib.sha256("\n".join(self._list.words).encode()).hexdigest()
        self.version = f"{word_list.VERSION}, {digest[:8]}"
        """Of the rule, and of the list."""

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """1 where the instruction holds a word of the list."""
        return {FORBIDDEN: 1.0} if self._list.holds(subject.prompt) else {}


class ClassifierCheck:
    """What an operator's own classifier sees in the pictures that are handed in and in results.

    Args:
        settings: of the classifier.

    Raises:
        InputError: its file cannot be used.
    """

    turn = CheckTurn.COSTLY

    def __init__(self, settings: ClassifierSettings) -> None:
        file = Path(settings.file)
        self._classifier = PictureClassifier(
            f"the classifier {file}",
            file,
            settings.classes,
            mean=settings.mean,
            scale=settings.scale,
            activation=settings.activation,
        )
        self._threshold = settings.threshold
        self.stages = frozenset(Stage(stage) for stage in settings.stages)
        at = "" if len(self.stages) > 1 else f" ({settings.stages[0]})"
        self.name = f"classifier: {file.stem}{at}"
        decides = self._classifier.digest + settings.model_dump_json(exclude={"file"})
        self.version = f"{hashlib.sha256(decides.encode()).hexdigest()[:8]}, from {self._threshold:g}"
        """Of the file and all settings, and the threshold."""

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """The highest score of all classes; the threshold of the operator is the policy's, 0.5.

        Raises:
            ValueError: a score is no probability.
        """
        assert subject.pixels is not None, "a check of pictures is only asked where there is one"
        score = max(self._classifier.scores(subject.pixels).values())
        if not 0 <= score <= 1:
            raise ValueError(f"it scored {score:g}, which is no probability; set its activation")
        if score >= self._threshold:
            above = (score - self._threshold) / (1 - self._threshold) if self._threshold < 1 else 1.0
            return {FORBIDDEN: 0.5 + 0.5 * above}
        return {FORBIDDEN: 0.5 * score / self._threshold}
