"""The filters of an edit, on a pair: its words, the picture before, both together, and the picture after."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from openkontext.curation.curation_rules import CurationRules
from openkontext.curation.opened import OpenPair, OpenPicture
from openkontext.curation.stages import Drop
from openkontext.errors import InputError
from openkontext.files import write_whole
from openkontext.safety.checks import KnownMaterialCheck
from openkontext.safety.guard import Guard
from openkontext.safety.policy import Policy, Review, load_policy
from openkontext.safety.quarantine import Quarantine
from openkontext.safety.standard import standard_guard
from openkontext.safety.verdict import Stage, Subject, Verdict

KNOWN, FILTERS = "known material", "filters"
"""Names of these stages. What they dropped is in no sample and no log."""
_PATIENCE = 300.0
"""Seconds for all checks of one stage: a busy machine must not decide what is kept. Who hangs is ended."""


def pair_guard(rules: CurationRules) -> Guard:
    """All checks that come with openkontext, by the rules' risk profile; nobody reviews.

    Raises:
        InputError: the profile cannot be used, or leaves something to reviewers.
    """
    profile = load_policy(rules.safety.profile).profile
    alone = profile.model_copy(update={"review": Review(), "budget_seconds": _PATIENCE})
    return standard_guard(Policy(alone))


class KnownMaterialStage:
    """Lists of known material. It looks at every picture that can be decoded, and seals what is on a list."""

    name, version = KNOWN, "1"

    def __init__(self, guard: Guard, notes: Path) -> None:
        """Look with the guard's checks.

        Args:
            guard: of this run.
            notes: folder that says which records were sealed, so that a run that goes on seals none twice.
        """
        self._checks = [check for check in guard.checks if isinstance(check, KnownMaterialCheck)]
        self._quarantine = guard.quarantine or Quarantine()
        self._notes = notes

    def sealed(self, name: str, instruction: str, pictures: Sequence[OpenPicture], number: int) -> int:
        """Seal the pictures that are on a list.

        Args:
            name: of the record.
            instruction: that came with them.
            pictures: of one record.
            number: of the record, from 0.

        Returns:
            How many there are.

        Raises:
            InputError: a list is damaged, or one cannot be sealed.
        """
        found = 0
        for each in pictures:
            subject = _subject(Stage.INPUT if each.role == "before" else Stage.OUTPUT, instruction, each)
            if not any(check.match(subject) for check in self._checks):
                continue
            found += 1
            note = self._notes / f"{number:012d}-{each.role}"
            if note.exists():
                continue
            try:
                for check in self._checks:
                    check.seal(subject, self._quarantine, "curation")
                write_whole(note, b"", private=True)
            except OSError as error:
                raise InputError(
                    f"{name}: known material cannot be sealed in {self._quarantine.folder} "
                    f"({error.strerror}); make room there and run the same again"
                ) from error
        return found


class Filters:
    """The prompt check, the checks of pictures, and those of both together."""

    name, version = FILTERS, "1"

    def __init__(self, guard: Guard) -> None:
        """Judge with this guard."""
        self._guard = guard

    def drop(self, pair: OpenPair) -> Drop | None:
        """See `stages.RecordStage`. The detail stays empty: what was found is told by its category alone."""
        verdict = self.judge(pair)
        if verdict.allowed:
            return None
        failed = verdict.failure
        if verdict.decisive is None and failed is not None:
            return Drop(f"the check {failed.name} could not look")
        return Drop(f"{verdict.category} ({verdict.stage})")

    def judge(self, pair: OpenPair) -> Verdict:
        """What all checks say, up to the first that refuses; the picture after is judged as a result is."""
        words, judge = pair.record.instruction, self._guard.judge
        verdict, (prompt,) = judge([Subject(Stage.PROMPT, words)])
        scores: dict[str, Mapping[str, float]] = {Stage.PROMPT: prompt}
        if verdict.allowed and pair.before is not None:
            looked, (before,) = judge([_subject(Stage.INPUT, words, pair.before)])
            verdict = verdict.joined([looked])
            scores[Stage.INPUT] = before
            if verdict.allowed:
                both = _subject(Stage.PAIR, words, pair.before, scores)
                verdict = verdict.joined([judge([both])[0]])
        if verdict.allowed:
            verdict = verdict.joined([judge([_subject(Stage.OUTPUT, words, pair.after, scores)])[0]])
        return verdict


def _subject(
    stage: Stage, words: str, opened: OpenPicture, scores: Mapping[str, Mapping[str, float]] | None = None
) -> Subject:
    name = f"{opened.role}.{(opened.picture.format or 'png').lower()}"
    return Subject(stage, words, "", opened.picture.pixels, opened.data, name, scores or {})
