"""A run: every attack of a plan on every case of every checkpoint, each kept before the next begins."""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openkontext import images
from openkontext.errors import InputError
from openkontext.evaluation.concepts import Concept, Split
from openkontext.files import alone, write_whole
from openkontext.redteam.attacks import Access
from openkontext.redteam.attacks.attack import MOST_QUERIES
from openkontext.redteam.attempts import AttackAnswer, Attempt
from openkontext.redteam.goals import AttackGoal, drawn_goal
from openkontext.redteam.judges import Judge, open_judge
from openkontext.redteam.ledger import PICTURES, Column, Ledger, Trial, key_of
from openkontext.redteam.model_series import SeriesModel
from openkontext.redteam.plan import PlannedAttack, RedTeamPlan
from openkontext.redteam.sealed import ATTACK as SEALED
from openkontext.redteam.sealed import SealedCases
from openkontext.redteam.system import filters_of, system_policy
from openkontext.redteam.target import CLOSED, HELD, REFUSED, Target


@dataclass
class CaseTally:
    """What a case's attempts have come to so far."""

    alone: Column = field(default_factory=lambda: Column(None))
    system: Column = field(default_factory=lambda: Column(None))
    words: str = ""
    """Of the attempt that passed the whole system, else the model alone, else of the last one."""
    answer: AttackAnswer | None = None
    """With the picture to keep: of the attempt that `words` tells, where it made one."""
    gradients: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left to show."""
        return bool(self.alone.success) and bool(self.system.success)

    def add(self, attempt: Attempt, answer: AttackAnswer) -> None:
        """Count one more attempt."""
        edits = len(attempt.instructions)
        if answer.system or not self.alone.success:
            self.words = attempt.words
            if answer.picture is not None:
                self.answer = answer
        if not self.alone.success:
            unreached = answer.alone is None and self.alone.success is None
            success = None if unreached else bool(answer.alone)
            self.alone = replace(self.alone, success=success, queries=self.alone.queries + edits)
            self.gradients += attempt.gradients
        if not self.system.success:
            stopped = answer.stopped
            self.system = replace(
                self.system,
                success=answer.system,
                queries=self.system.queries + edits,
                refused=self.system.refused + (stopped == REFUSED),
                held=self.system.held + (stopped == HELD),
                closed=self.system.closed + (stopped == CLOSED),
            )


class RedTeamRun:
    """A plan against checkpoints, in a work folder.

    Args:
        plan: what to try.
        checkpoints: to attack.
        work: folder where every case is kept; the same command goes on with what is there.
        sealed: a third party's cases, too.

    Raises:
        InputError: a judge cannot be loaded, or the work folder holds something else.
    """

    def __init__(
        self,
        plan: RedTeamPlan,
        checkpoints: Sequence[SeriesModel],
        work: Path,
        sealed: SealedCases | None = None,
    ) -> None:
        self.plan, self.checkpoints, self.work, self.sealed = plan, tuple(checkpoints), work, sealed
        self.judges: tuple[Judge, ...] = tuple(map(open_judge, plan.judges))
        self.filters = filters_of(plan.system)
        """Of the whole system: name -> version."""
        profile = system_policy(plan.system).profile
        # Classifiers are told by their versions, wherever their files lie.
        said = profile.model_dump(mode="json", exclude={"classifiers"})
        self._system = {"profile": said, "filters": self.filters}
        self.ledger = Ledger(work)
        self._drawn: dict[tuple[str, Split], list[AttackGoal]] = {}

    @property
    def count(self) -> int:
        """Cases on all checkpoints."""
        extra = 0 if self.sealed is None else len(self.sealed.cases)
        return len(self.checkpoints) * (self.plan.units + extra)

    def trials(self) -> Iterator[Trial]:
        """Every case in order; those that were done before come at once.

        Raises:
            InputError: a checkpoint or a judge cannot be used, the disk is full, or another run is at work in
                the folder.
        """
        with alone(self.work, "red-team run"):
            self.ledger = Ledger(self.work)  # another run may have ended since
            yield from self._trials()

    def _trials(self) -> Iterator[Trial]:
        for checkpoint in self.checkpoints:
            target: Target | None = None
            for concept, planned in ((c, a) for c in self.plan.concepts for a in self.plan.attacks):
                access: Access | None = None
                for case in range(planned.cases):
                    key = self._key(checkpoint, concept, planned, case)
                    done = self.ledger.trials.get(key)
                    if done is None or not self._has_picture(done):
                        target = target or self._open(checkpoint)
                        access = access or self._access(checkpoint, concept, planned)
                        done = self._try(key, checkpoint, target, planned, access.goals[case], access)
                        self.ledger.add(done)
                    yield replace(done, checkpoint=checkpoint.name)
            yield from self._sealed(checkpoint, target)

    def _open(self, checkpoint: SeriesModel) -> Target:
        return Target(checkpoint, self.plan.system, self.judges[0], self.plan.steps)

    def _goals(self, concept: Concept, split: Split, count: int) -> tuple[AttackGoal, ...]:
        """The first goals of a concept, drawn once for all checkpoints and attacks."""
        drawn = self._drawn.setdefault((concept.name, split), [])
        drawn += (drawn_goal(concept, self.plan.seed, at, split) for at in range(len(drawn), count))
        return tuple(drawn[:count])

    def _access(self, checkpoint: SeriesModel, concept: Concept, planned: PlannedAttack) -> Access:
        goals = self._goals(concept, "test", planned.cases)
        place = key_of(
            digest=checkpoint.digest, concept=_asked(concept), attack=planned.record(), seed=self.plan.seed
        )
        learn = partial(self._goals, concept, "attack")
        return Access(goals, self.work / planned.name / place, checkpoint.model, learn)

    def _key(self, checkpoint: SeriesModel, concept: Concept, planned: PlannedAttack, index: int) -> str:
        """Of all that decides a case; a plan that changes elsewhere leaves it as it is."""
        attack = planned.record()
        if attack["name"] == "ring-a-bell":  # it learns from all cases
            attack["cases"] = planned.cases
        return key_of(
            digest=checkpoint.digest,
            concept=_asked(concept),
            attack=attack,
            case=index,
            seed=self.plan.seed,
            steps=self.plan.steps,
            judge=asdict(self.plan.judges[0]),
            system=self._system,
        )

    def _try(
        self,
        key: str,
        checkpoint: SeriesModel,
        target: Target,
        planned: PlannedAttack,
        goal: AttackGoal,
        access: Access,
    ) -> Trial:
        """Let an attack try one case until both columns are reached or its queries are spent."""
        words = [zlib.crc32(text.encode()) for text in (goal.concept, planned.name)]
        rng = np.random.default_rng([self.plan.seed, goal.index, *words])
        attempts = planned.attack.attempts(goal, access, rng)
        tally, number, started = CaseTally(), 0, time.perf_counter()
        try:
            attempt = next(attempts)
            while True:
                answer = target.ask(goal, attempt, access, MOST_QUERIES * goal.index + number)
                tally.add(attempt, answer)
                number += 1
                if tally.done or tally.system.queries >= planned.attack.queries:
                    break
                attempt = attempts.send(answer)
        except StopIteration:
            pass
        attempts.close()
        return Trial(
            key=key,
            checkpoint=checkpoint.name,
            digest=checkpoint.digest,
            concept=goal.concept,
            attack=planned.name,
            case=goal.index,
            alone=tally.alone,
            system=tally.system,
            words=tally.words,
            gradients=tally.gradients,
            picture=self._kept(key, tally.answer),
            note="" if number else "this attack has nothing to try here",
            seconds=round(time.perf_counter() - started, 2),
        )

    def _sealed(self, checkpoint: SeriesModel, target: Target | None) -> Iterator[Trial]:
        """A third party's cases: of each nothing stays but what came of it."""
        for number, case in enumerate(self.sealed.cases if self.sealed else ()):
            assert self.sealed is not None
            key = self._sealed_key(checkpoint, self.sealed, number)
            if (done := self.ledger.trials.get(key)) is None:
                target = target or self._open(checkpoint)
                access = Access((case.goal,), self.work, checkpoint.model)
                tally = CaseTally()
                tally.add(case.attempt, self._asked(target, case.goal, case.attempt, access, number))
                done = Trial(
                    key=key,
                    checkpoint=checkpoint.name,
                    digest=checkpoint.digest,
                    concept=case.goal.concept,
                    attack=SEALED,
                    case=number,
                    alone=tally.alone,
                    system=tally.system,
                )
                self.ledger.add(done)
            yield replace(done, checkpoint=checkpoint.name)

    @staticmethod
    def _asked(
        target: Target, goal: AttackGoal, attempt: Attempt, access: Access, number: int
    ) -> AttackAnswer:
        try:
            return target.ask(goal, attempt, access, number)
        except InputError as error:
            # The reason may quote the case.
            raise InputError(
                f"sealed case {number + 1} cannot be asked of this model ({type(error).__name__})"
            ) from None

    def _sealed_key(self, checkpoint: SeriesModel, sealed: SealedCases, number: int) -> str:
        decides: dict[str, Any] = {"sealed": sealed.digest, "case": number, "digest": checkpoint.digest}
        return key_of(
            **decides,
            steps=self.plan.steps,
            judge=asdict(self.plan.judges[0]),
            system=self._system,
        )

    def _has_picture(self, trial: Trial) -> bool:
        """Whether the picture that was kept of a case, if any, is still there."""
        return not trial.picture or (self.work / PICTURES / f"{trial.picture}.png").exists()

    def _kept(self, key: str, answer: AttackAnswer | None) -> str:
        """Keep the picture of a case, signed where an edit made it; its name."""
        if answer is None or answer.picture is None:
            return ""
        path = self.work / PICTURES / f"{key}.png"
        data = images.encode(answer.picture, "PNG") if answer.made is None else answer.made.encode("PNG")
        try:
            write_whole(path, data, private=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        return key


def _asked(concept: Concept) -> dict[str, Any]:
    """All of a concept that an attack goes by: the words of training are for those who inhibit it."""
    said = asdict(concept)
    del said["words"]["training"]
    return said
