"""Judges: does a picture show a concept?

The reader knows each case's scene. The others see the picture alone: a classifier in ONNX, a service, people.
"""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import SecretStr

from openkontext.errors import InputError, how_to_install
from openkontext.images.fitting import Pixels
from openkontext.redteam.plan import JudgePlan
from openkontext.safety.picture_classifier import PictureClassifier
from openkontext.safety.remote.client import RemoteError
from openkontext.safety.remote.generic import GenericModerator

YES, NO = ("1", "yes", "true", "y"), ("0", "no", "false", "n")
"""What a grade may be; an empty one is none."""


@dataclass(frozen=True, eq=False)
class Question:
    """One picture, and what is asked of it."""

    concept: str
    picture: Pixels
    """uint8 [H, W, 3]."""
    words: str
    """The instruction that it came from."""
    name: str = ""
    """The picture's name in the folder of a run; empty where it is not kept."""
    reader: Callable[[Pixels], bool] | None = None
    """The case's own reader; None where it is not at hand."""


class Judge(Protocol):
    """Whatever says whether a picture shows a concept."""

    @property
    def name(self) -> str:
        """As a report shows it."""

    def shows(self, question: Question) -> bool | None:
        """Whether the picture shows the concept; None where this judge does not say."""


class ReaderJudge:
    """The independent reader of the drawn scenes."""

    name = "reader"

    def shows(self, question: Question) -> bool | None:
        """By the case's scene."""
        return None if question.reader is None else question.reader(question.picture)


class ClassifierJudge:
    """A classifier in ONNX: pictures [1, 3, H, W] float32 in, scores [1, classes] out.

    Raises:
        InputError: the file cannot be opened, or has other inputs and outputs.
    """

    name = "classifier"

    def __init__(self, plan: JudgePlan) -> None:
        self._threshold = plan.threshold
        self._classifier = PictureClassifier(
            f"the judge {plan.model}",
            Path(plan.model),
            plan.classes,
            mean=plan.mean,
            scale=plan.scale,
            activation=plan.activation,
        )

    def shows(self, question: Question) -> bool | None:
        """By the score of the concept's class; None for a concept that it has no class for.

        Raises:
            InputError: it gives no score.
        """
        if question.concept not in self._classifier.classes:
            return None
        try:
            return self._classifier.scores(question.picture)[question.concept] >= self._threshold
        except ValueError as error:
            raise InputError(f"the judge cannot be used: {error}") from None


class ServiceJudge:
    """A service: a form with `image` (JPEG) and `prompt`; it answers {"scores": {"<concept>": 0 to 1}}.

    It is the contract of `safety.remote.generic`.

    Raises:
        InputError: its address cannot be used, or its key is not in the environment.
    """

    name = "service"

    def __init__(self, plan: JudgePlan) -> None:
        key = None
        if plan.key_variable:
            if not (said := os.environ.get(plan.key_variable)):
                raise InputError(f"the judge {plan.url}: ${plan.key_variable} is not set; put its key there")
            key = SecretStr(said)
        self._plan, self._key = plan, key
        self._clients: dict[str, GenericModerator] = {}
        GenericModerator(plan.url, ("any",), key=key)  # says now whether the address is good

    def shows(self, question: Question) -> bool | None:
        """By the service's score.

        Raises:
            InputError: it gave no usable answer.
        """
        client = self._clients.setdefault(
            question.concept, GenericModerator(self._plan.url, (question.concept,), key=self._key)
        )
        try:
            scores = client.scores(question.picture, question.words)
        except RemoteError as error:
            raise InputError(f"the judge {self._plan.url}: {error}; the same command goes on later") from None
        return scores[question.concept] >= self._plan.threshold


class GradesJudge:
    """People's grades: one CSV a person, with the columns `picture` and `shows`.

    Raises:
        InputError: there is no such folder or no CSV in it, or a grade is neither yes nor no.
    """

    name = "people"

    def __init__(self, plan: JudgePlan) -> None:
        folder = Path(plan.folder)
        files = sorted(folder.glob("*.csv"))
        if not files:
            raise InputError(f"the judge {folder} cannot be loaded: it holds no CSV of grades")
        self.raters: dict[str, dict[str, bool]] = {file.stem: _grades(file) for file in files}
        """By person: picture -> grade."""

    def shows(self, question: Question) -> bool | None:
        """By most of the people who graded the picture; None where nobody did, or as many say no as yes."""
        grades = [rater[question.name] for rater in self.raters.values() if question.name in rater]
        share = sum(grades) / len(grades) if grades else 0.5
        return None if share == 0.5 else share > 0.5


def open_judge(plan: JudgePlan) -> Judge:
    """Open a judge.

    Raises:
        InputError: it cannot be loaded.
    """
    kinds: Mapping[str, Callable[[JudgePlan], Judge]] = {
        "classifier": ClassifierJudge,
        "service": ServiceJudge,
        "grades": GradesJudge,
    }
    return kinds[plan.kind](plan) if plan.kind in kinds else ReaderJudge()


def agreement(opinions: Sequence[Sequence[bool | None]]) -> float | None:
    """Krippendorff's alpha of judges on the same pictures, nominal; from the package krippendorff.

    Args:
        opinions: of each judge one value for each picture; None where it gave none.

    Returns:
        1 for full agreement, 0 for that of chance; None where it cannot be told: fewer than two judges, no
        picture with two opinions, or one opinion throughout.

    Raises:
        InputError: the package is not installed.
    """
    if len(opinions) < 2:
        return None
    try:
        import krippendorff
    except ImportError:
        raise InputError(f"several judges need krippendorff; {how_to_install('redteam')}") from None
    data = np.array([[np.nan if each is None else float(each) for each in row] for row in opinions])
    paired = data[:, (~np.isnan(data)).sum(axis=0) >= 2]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="nominal"))


def _grades(file: Path) -> dict[str, bool]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            if not {"picture", "shows"} <= set(table.fieldnames or ()):
                raise InputError(f"{file}: must have the columns picture and shows")
            found = {}
            for row in table:
                grade = (row["shows"] or "").strip().lower()
                if grade and grade not in YES + NO:
                    raise InputError(f"{file}: line {table.line_num}: {grade!r} is neither yes nor no")
                if grade:
                    found[(row["picture"] or "").strip()] = grade in YES
            return found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the judge {file} cannot be loaded: {error}") from None
