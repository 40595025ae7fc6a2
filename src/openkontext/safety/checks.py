"""The checks that come with openkontext, each as a `verdict.Check`."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from openkontext.errors import InputError
from openkontext.safety import nudenet, nudity
from openkontext.safety.hints import hints, refers
from openkontext.safety.known.material import KnownMaterial, Match
from openkontext.safety.policy import Remote
from openkontext.safety.prompt import ORDERED
from openkontext.safety.verdict import FIXED, CheckTurn, Stage, Subject

if TYPE_CHECKING:
    from openkontext.safety.quarantine import Quarantine
    from openkontext.safety.remote.generic import GenericModerator
    from openkontext.safety.remote.hive import Hive

PICTURES = frozenset({Stage.INPUT, Stage.OUTPUT})
"""Stages at which one picture is looked at."""

WRITTEN = "written"
"""Sign of a line in a picture that tells to undress or sexualize somebody."""
_SHOWN = 0.39
"""What scores of a line in a picture are multiplied by: it stays below the default profile's thresholds for
results, and reaches the strict one's."""
_SHOWN_CHILD = 0.6
"""The same of a line that speaks of a child in a sexual way; it counts as sexual content."""
_TOLD = 0.8
"""The same of a line that tells to do what a fixed category names."""
_LINE_HINT = 0.5
"""What hints of a line are multiplied by: "kids" on a menu says little of who is in the picture."""
_FEW_LINES = 4
"""Lines of a picture that may be one sentence, where the instruction says that what to do is in it."""
_HINTED = 0.3
"""Score of suggestive or sexual words in the instruction from which it agrees with a line of the picture."""
_SURELY_A_PERSON = 0.3
"""NudeNet's confidence in a part from which somebody is in the picture."""
_CLOTHED = 0.25
"""NudeNet's confidence in nudity below which somebody was dressed."""
_UNDRESSED = 1.5
"""What NudeNet's confidence is multiplied by where somebody was dressed before: it need not be sure."""
_ON_A_PERSON = 1.1
"""What scores of words are multiplied by where a person is in the picture. Chosen on the prompt check's
development suite: more would refuse too many harmless instructions."""
_CHILD = 2.5
"""What the product of hints of a child and of nudity is multiplied by: it errs on refusing."""


class TextScorer(Protocol):
    """What judges words; `openkontext.safety.prompt.PromptCheck`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    def scores(self, text: str) -> dict[str, float]: ...  # noqa: D102
    def written(self, line: str) -> dict[str, float]: ...  # noqa: D102


class InstructionCheck:
    """What the instruction asks for."""

    name = "prompt"
    stages = frozenset({Stage.PROMPT})
    turn = CheckTurn.CHEAP

    def __init__(self, words: TextScorer) -> None:
        """Judge with this.

        Args:
            words: what judges text.
        """
        self._words = words
        self._is_open = False

    @property
    def version(self) -> str:
        """Of what judges text."""
        return self._words.version

    def open(self) -> None:
        """Have the lists of words and rules read."""
        if not self._is_open:
            self._words.scores("make it night")
            self._is_open = True

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Scores of the instruction, and of fixed categories in the negative prompt.

        The rest of a negative prompt says what shall not be seen, which is no offense. Signs are those of
        `hints`, for the picture that the instruction comes with.
        """
        scores = {**hints(subject.prompt), **self._words.scores(subject.prompt)}
        if subject.negative_prompt:
            negative = self._words.scores(subject.negative_prompt)
            for category in FIXED:
                scores[category] = max(scores.get(category, 0.0), negative.get(category, 0.0))
        return scores


class LettersCheck:
    """What the words in a picture say.

    They are evidence of another kind than an instruction. They were written for whoever sees the picture, and
    are misread here and there; so they are judged line by line and as they stand, count less, and never yield
    a fixed category alone. A line that tells to do what a fixed category names counts as sexual content.
    Where the instruction says that what to do is in the picture, its sentences are instructions.
    """

    name = "ocr"
    stages = PICTURES
    turn = CheckTurn.COSTLY

    def __init__(self, words: TextScorer) -> None:
        """Judge with this.

        Args:
            words: what judges text.
        """
        self._words = words

    @property
    def version(self) -> str:
        """Of the reader and of what judges text."""
        from openkontext.safety.ocr import RECOGNIZER

        return f"{RECOGNIZER.package} {RECOGNIZER.version}, {self._words.version}"

    def open(self) -> None:
        """Open the model that finds lines; the one that reads them, 25 MB, opens where there is a line."""
        from openkontext.safety import ocr

        ocr.DETECTOR.session()

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Scores and hints of the lines; with `WRITTEN`, how likely one tells to do what is never done."""
        from openkontext.safety import ocr

        lines = [line.text for line in ocr.read(_pixels(subject)).lines]
        found: dict[str, float] = {}
        for line in lines:
            _raise(found, self._line(line))
        if lines and refers(subject.prompt):
            for text in _sentences(lines):
                _raise(found, {**hints(text), **self._words.scores(text)})
        return found

    def _line(self, line: str) -> dict[str, float]:
        said = self._words.written(line)
        ordered, child = said.pop(ORDERED, 0.0), said.pop("csam", 0.0)
        shown = max(said.pop("ncii", 0.0), said.get("sexual", 0.0))
        scores = {category: _SHOWN * score for category, score in said.items()}
        scores["sexual"] = max(_SHOWN * shown, _SHOWN_CHILD * child, _TOLD * ordered)
        hinted = {name: _LINE_HINT * score for name, score in hints(line, written=True).items()}
        return {**scores, **hinted, WRITTEN: ordered}


def _sentences(lines: Sequence[str]) -> list[str]:
    """What may be one sentence: all lines where they are few, else each with the next."""
    if len(lines) <= _FEW_LINES:
        return ["\n".join(lines)]
    return ["\n".join(pair) for pair in itertools.pairwise(lines)]


def _raise(scores: dict[str, float], others: Mapping[str, float]) -> None:
    """Let the higher of two scores count."""
    for name, score in others.items():
        scores[name] = max(score, scores.get(name, 0.0))


class BodyCheck:
    """What of people a picture shows, by NudeNet."""

    name = "nudenet"
    version = f"{nudenet.MODEL.version}, rule {nudity.VERSION}"
    stages = PICTURES
    turn = CheckTurn.COSTLY

    def open(self) -> None:
        """Open NudeNet."""
        nudenet.MODEL.session()

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Scores of nudity and sexual content; the hints "person" and "face".

        Of bare parts those count that `nudity` takes for real.
        """
        pixels = _pixels(subject)
        parts = nudity.real_parts(pixels, nudenet.detect(pixels))
        people = {"person": nudity.surest(parts), "face": nudity.surest(parts, nudenet.FACES)}
        return nudity.scores(pixels, parts) | people


class KnownMaterialCheck:
    """Whether a picture is on a list of known material."""

    name = "known material"
    version = "PDQ, MD5, SHA-1, SHA-256"
    stages = PICTURES
    turn = CheckTurn.CHEAP

    def __init__(self, known: KnownMaterial) -> None:
        """Look there.

        Args:
            known: the installed lists.
        """
        self.known = known

    def open(self) -> None:
        """Read the lists."""
        self.known.lists()

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """1 for a picture that is on a list."""
        return {"known_material": 1.0} if self.match(subject) else {}

    def match(self, subject: Subject) -> Match | None:
        """Which list the picture is on.

        Args:
            subject: with the picture.
        """
        return self.known.match(_pixels(subject), subject.data)

    def seal(self, subject: Subject, quarantine: "Quarantine", requester: str) -> str | None:
        """Put a picture that is on a list into the quarantine.

        Args:
            subject: with the picture.
            quarantine: where to.
            requester: who handed it in, or asked for it.

        Returns:
            The id of the incident; None where the picture is on no list.

        Raises:
            OSError: it cannot be written.
        """
        from openkontext.safety.reports.incident import Requester

        match = self.match(subject)
        if match is None:
            return None
        return quarantine.keep(
            match,
            _pixels(subject),
            subject.data,
            stage=str(subject.stage),
            prompt=subject.prompt,
            file_name=subject.name,
            requester=Requester(account=requester),
        )


class TogetherCheck:
    """What instruction and picture are together, from what the other checks saw in each.

    Who is in the picture was not asked: what undresses them by words is intimate imagery without consent,
    and so is a result that shows bare whom the input shows dressed, whatever the instruction said. Where a
    child may be concerned, any nudity counts, also where neither words nor picture would be refused alone.
    """

    name = "together"
    version = "2"
    stages = frozenset({Stage.PAIR, Stage.OUTPUT})
    turn = CheckTurn.LAST

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Scores of the fixed categories, and of what the words ask to do with a person."""
        words = subject.scores.get(Stage.PROMPT, {})
        before = subject.scores.get(Stage.INPUT, {})
        after = subject.scores.get(Stage.OUTPUT, {})
        somebody = before.get("person", 0.0) >= _SURELY_A_PERSON
        child = max(words.get("minor", 0.0), before.get("minor", 0.0), before.get("child", 0.0))
        if subject.stage == Stage.OUTPUT:
            bare = after.get("nudity", 0.0)
            undressed = bare if somebody and before.get("nudity", 0.0) < _CLOTHED else 0.0
            return {"ncii": min(1.0, _UNDRESSED * undressed), "csam": min(1.0, _CHILD * child * bare)}
        asked = (
            max(words.get(name, 0.0) for name in ("nudity", "sexual", "ncii", "csam")) if somebody else 0.0
        )
        suggestive = max(asked, words.get("suggestive", 0.0)) if somebody else 0.0
        if suggestive >= _HINTED:
            asked = max(asked, before.get(WRITTEN, 0.0))
        bare = max(before.get("nudity", 0.0), suggestive)
        return {
            "ncii": min(1.0, _ON_A_PERSON * asked),
            "csam": min(1.0, _CHILD * child * bare),
            "sexual": suggestive,
        }


class RemoteCheck:
    """What a moderation service elsewhere says."""

    turn = CheckTurn.COSTLY

    def __init__(self, settings: Remote) -> None:
        """Call nothing yet.

        Args:
            settings: of the service.

        Raises:
            InputError: its key is not in the environment, or its address cannot be used.
        """
        # Only where there is a service: clients of HTTP take 0.2 s to import.
        from openkontext.safety.remote import generic, hive

        key = _key(settings)
        self.stages = frozenset(Stage(stage) for stage in settings.stages)
        limits = {"timeout": settings.timeout, "deadline": settings.deadline}
        self._hive: Hive | None = None
        self._generic: GenericModerator | None = None
        if settings.kind == "hive":
            if key is None:
                raise InputError("Hive needs a key; name the environment variable in key_variable")
            self._hive = hive.Hive(key, url=settings.url or hive.URL, **limits)
            self.name, self.version = "hive", "visual moderation V2"
        else:
            self._generic = generic.GenericModerator(settings.url, settings.categories, key=key, **limits)
            self.name, self.version = "remote", ", ".join(settings.categories)

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Scores of the service; with Hive also the hint "child", and what it is together with nudity."""
        pixels = _pixels(subject)
        if self._generic is not None:
            return self._generic.scores(pixels, subject.prompt or None)
        from openkontext.safety.remote.hive import CHILD, by_category

        assert self._hive is not None
        classes = self._hive.classes(pixels)
        scores = {**by_category(classes), "child": classes.get(CHILD, 0.0)}
        if scores["child"] >= 0.5:
            bare = max(scores["nudity"], scores["sexual"])
            scores["csam"] = min(1.0, _CHILD * scores["child"] * bare)
        return scores


def _key(settings: Remote) -> SecretStr | None:
    if not settings.key_variable:
        return None
    value = os.environ.get(settings.key_variable)
    if not value:
        raise InputError(
            f"the moderation service needs its key in ${settings.key_variable}, which is not set"
        )
    return SecretStr(value)


def _pixels(subject: Subject) -> NDArray[np.uint8]:
    assert subject.pixels is not None, "a check of pictures is only asked where there is one"
    return subject.pixels
