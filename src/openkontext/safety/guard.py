"""The guard of an editor: runs the checks of each stage, decides by the policy, holds, seals and refuses."""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.safety.checks import KnownMaterialCheck
from openkontext.safety.policy import Policy
from openkontext.safety.side_by_side import Scores, look_side_by_side
from openkontext.safety.verdict import (
    CATEGORIES,
    Check,
    CheckResult,
    CheckTurn,
    FilterRefusalError,
    Finding,
    HeldError,
    Stage,
    Subject,
    Verdict,
)

if TYPE_CHECKING:
    from openkontext.images import Picture
    from openkontext.safety.quarantine import Quarantine
    from openkontext.safety.review.queue import ReviewQueue

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture that comes with a request."""

    pixels: Pixels
    """uint8 [H, W, 3], sRGB, upright."""
    data: bytes | None = None
    """The file; None where there was none."""
    name: str = ""
    """What the file is called."""

    @classmethod
    def of(cls, picture: "Picture", source: object) -> "Shown":
        """A picture that was read, with the bytes that it was read from.

        Args:
            picture: as `images.load` gives it.
            source: what was handed in, an `images.ImageInput`; a path gives the name.
        """
        name = Path(source).name if isinstance(source, str | os.PathLike) else ""
        return cls(picture.pixels, picture.file, name)


@dataclass(frozen=True, eq=False)
class ScreeningRequest:
    """What is asked of one edit, as the guard sees it."""

    prompt: str
    negative_prompt: str = ""
    pictures: tuple[Shown, ...] = ()
    """The picture to edit, then the references."""
    tolerance: int | None = None
    """The request's safety_tolerance; None for the profile alone."""
    requester: str = ""
    """Who asks; empty where that is not known."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides the result, with `seed`; JSON. A reviewer approves exactly this."""


class Guard:
    """The checks and the policy of one deployment."""

    def __init__(
        self,
        policy: Policy,
        checks: Sequence[Check],
        *,
        quarantine: "Quarantine | None" = None,
        reviews: "ReviewQueue | None" = None,
    ) -> None:
        """Guard with these.

        Args:
            policy: decides.
            checks: look.
            quarantine: for known material; None for the one in the folder for data.
            reviews: the review queue; None where nobody reviews.

        Raises:
            InputError: the policy has people review, and there is no queue.
        """
        self.policy = policy
        self.checks = tuple(checks)
        self.quarantine = quarantine
        self.reviews = reviews
        if reviews is None and policy.profile.review.mode != "off":
            raise InputError(f"profile {policy.profile.name} has people review, and there is no review queue")

    def screen(self, asked: ScreeningRequest) -> "Screening":
        """Begin to judge one edit.

        Args:
            asked: what is asked.
        """
        return Screening(self, asked)

    def judge(
        self, subjects: Sequence[Subject], tolerance: int | None = None
    ) -> tuple[Verdict, list[Scores]]:
        """Run the checks of one stage: cheap ones first, side by side, in the budget; opening is not counted.

        Args:
            subjects: of one stage, one for each picture.
            tolerance: the request's safety_tolerance.

        Returns:
            The verdict, and for each subject the highest scores of all checks.
        """
        deadline = time.monotonic() + self.policy.profile.budget_seconds
        scores: list[Scores] = [{} for _ in subjects]
        results: list[CheckResult] = []
        for turn in CheckTurn:
            looked = [
                replace(subject, scores={**subject.scores, subject.stage: dict(found)})
                for subject, found in zip(subjects, scores, strict=True)
            ]
            chosen = [
                (check, at)
                for check in self.checks
                for at, subject in enumerate(looked)
                if check.turn == turn and subject.stage in check.stages
            ]
            more, deadline = self._run(chosen, looked, scores, deadline, tolerance)
            results += more
            if self.is_final(Verdict(tuple(results))):
                break
        return Verdict(tuple(results)), scores

    def is_final(self, verdict: Verdict) -> bool:
        """Whether a verdict refuses what no reviewer could approve: nothing further need look.

        Args:
            verdict: so far.
        """
        return not verdict.allowed and not (self.reviews and not verdict.fixed and not verdict.failure)

    def _run(
        self,
        chosen: Sequence[tuple[Check, int]],
        subjects: Sequence[Subject],
        scores: list[Scores],
        deadline: float,
        tolerance: int | None,
    ) -> tuple[list[CheckResult], float]:
        answers, deadline = look_side_by_side(chosen, subjects, deadline)
        budget = self.policy.profile.budget_seconds
        results = []
        for (check, at), answer in zip(chosen, answers, strict=True):
            if answer is None:
                late = f"it took longer than {budget:g} s"
                stage = subjects[at].stage
                results.append(CheckResult(check.name, check.version, stage, (), 1000 * budget, late))
                continue
            found, took = answer
            results.append(self._result(check, subjects[at].stage, found, took, tolerance))
            if not isinstance(found, Exception):
                for name, score in found.items():
                    scores[at][name] = max(score, scores[at].get(name, 0.0))
        return results, deadline

    def _result(
        self, check: Check, stage: Stage, answer: Scores | Exception, took: float, tolerance: int | None
    ) -> CheckResult:
        name, version = check.name, check.version
        if isinstance(answer, Exception):
            reason = " ".join(str(answer).split()) or type(answer).__name__
            _log.warning("the check %s could not look at the %s: %s", name, stage, reason)
            return CheckResult(name, version, stage, (), took, reason)
        findings = tuple(
            Finding(category, score, self.policy.threshold(category, stage, tolerance), stage, name, version)
            for category, score in answer.items()
            if category in CATEGORIES and score > 0
        )
        return CheckResult(name, version, stage, findings, took)


class Screening:
    """One edit, judged from its instruction to its result."""

    def __init__(self, guard: Guard, asked: ScreeningRequest) -> None:
        self._guard, self._asked = guard, asked
        self._scores: dict[str, Scores] = {}
        self.verdict = Verdict()
        """What all checks said so far."""

    def admit(self) -> None:
        """Judge what was asked, before anything is computed.

        Raises:
            FilterRefusalError: it is refused.
            HeldError: it waits for a person.
        """
        verdict = self.judge_request()
        if not verdict.allowed:
            self._refuse(verdict, {})

    def judge_request(self) -> Verdict:
        """Judge the instruction, each picture, and both together; what is refused ends it there.

        Returns:
            What all checks said.
        """
        asked, judge = self._asked, self._guard.judge
        pictures: list[Scores] = []
        if asked.prompt:
            subject = Subject(Stage.PROMPT, asked.prompt, asked.negative_prompt)
            verdict, (self._scores[Stage.PROMPT],) = judge([subject], asked.tolerance)
            self.verdict = self.verdict.joined([verdict])
        if asked.pictures and not self._guard.is_final(self.verdict):
            subjects = [self._subject(Stage.INPUT, each.pixels, each) for each in asked.pictures]
            verdict, pictures = judge(subjects, asked.tolerance)
            self._scores[Stage.INPUT] = _highest(pictures)
            self.verdict = self.verdict.joined([verdict])
            self._seal(verdict, subjects)
        if asked.prompt and pictures and not self._guard.is_final(self.verdict):
            subjects = [
                replace(self._subject(Stage.PAIR, each.pixels), scores={**self._scores, Stage.INPUT: scores})
                for each, scores in zip(asked.pictures, pictures, strict=True)
            ]
            self.verdict = self.verdict.joined([judge(subjects, asked.tolerance)[0]])
        return self.verdict

    def of_seed(self, seed: int) -> "Screening":
        """The same, with what was said so far, for a further picture of the same request.

        Args:
            seed: of that picture, which an approval of it is bound to.
        """
        other = Screening(self._guard, replace(self._asked, options={**self._asked.options, "seed": seed}))
        other._scores, other.verdict = dict(self._scores), self.verdict
        return other

    def release(self, pixels: Pixels, *also: Pixels) -> Verdict:
        """Judge the result.

        Args:
            pixels: uint8 [H, W, 3].
            also: what else of it is handed out, or shows more of a part of it.

        Returns:
            What all checks said.

        Raises:
            FilterRefusalError: it is refused.
            HeldError: it waits for a person.
        """
        verdict = self._judge_output(pixels, *also)
        self.verdict = self.verdict.joined([verdict])
        self._seal(verdict, [self._subject(Stage.OUTPUT, each) for each in (pixels, *also)])
        if not verdict.allowed or self._guard.policy.profile.review.mode == "every":
            self._refuse(verdict, {"output": pixels})
        return self.verdict

    def may_preview(self, pixels: Pixels) -> bool:
        """Whether a picture that is not finished may be shown.

        Args:
            pixels: uint8 [H, W, 3].
        """
        if self._guard.policy.profile.review.mode == "every":
            return False
        return self._judge_output(pixels).allowed

    def _judge_output(self, *shown: Pixels) -> Verdict:
        subjects = [self._subject(Stage.OUTPUT, pixels) for pixels in shown]
        return self._guard.judge(subjects, self._asked.tolerance)[0]

    def _subject(self, stage: Stage, pixels: Pixels, shown: Shown | None = None) -> Subject:
        asked, shown = self._asked, shown or Shown(pixels)
        words = asked.prompt, asked.negative_prompt
        return Subject(stage, *words, pixels, shown.data, shown.name, self._scores)

    def _refuse(self, verdict: Verdict, made: Mapping[str, Pixels]) -> None:
        """Refuse, or hold for a person where one may decide; return where one has approved."""
        asked, reviews = self._asked, self._guard.reviews
        if reviews is None or verdict.fixed or verdict.failure:
            raise FilterRefusalError(verdict)
        roles = ("input", *(f"reference {number}" for number in range(1, len(asked.pictures))))
        pictures = {role: each.pixels for role, each in zip(roles, asked.pictures, strict=False)} | dict(made)
        if reviews.approved(asked.prompt, asked.options, pictures):
            return
        held = reviews.hold(
            prompt=asked.prompt,
            options=asked.options,
            verdict=self.verdict.record(),
            pictures=pictures,
            requester=asked.requester,
        )
        if held.state == "rejected":
            raise FilterRefusalError(verdict, f"refused: a reviewer rejected request {held.id[:8]}")
        raise HeldError(verdict, held.id, int(asked.options.get("seed", 0)))

    def _seal(self, verdict: Verdict, subjects: Sequence[Subject]) -> None:
        """Put what is on a list of known material into the quarantine; it is refused in any case."""
        if not any(each.category == "known_material" for check in verdict.checks for each in check.findings):
            return
        from openkontext.safety.quarantine import Quarantine

        quarantine = self._guard.quarantine or Quarantine()
        for check in self._guard.checks:
            if isinstance(check, KnownMaterialCheck):
                for subject in subjects:
                    try:
                        check.seal(subject, quarantine, self._asked.requester)
                    except Exception as error:  # it is refused all the same, and an operator must know
                        _log.error("known material was refused and could not be sealed: %s", error)


def _highest(scores: Iterable[Scores]) -> Scores:
    highest: Scores = {}
    for each in scores:
        for name, score in each.items():
            highest[name] = max(score, highest.get(name, 0.0))
    return highest
