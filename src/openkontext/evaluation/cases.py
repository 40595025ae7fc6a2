"""Cases: held-out scenes, each with an instruction and the true picture of its outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from openkontext.data.draws import random_edit
from openkontext.data.edits import KINDS, TASKS, Edit
from openkontext.data.instructions import phrase
from openkontext.data.scenes import render
from openkontext.evaluation.scene_judge import Judgment, judge
from openkontext.images.fitting import Pixels

_TASKS = {kind: task for task, kinds in TASKS.items() for kind in kinds}
_STREAM = 0x0E5A1
"""First word of every case's random state, so that no stream of training can be the same."""


@dataclass(frozen=True)
class Case:
    """One instruction on one scene."""

    index: int
    """Place in the sequence of its seed; also the seed of the editor's noise."""
    edit: Edit
    """What is asked, as data."""
    instruction: str
    """The same in words."""
    unseen: bool
    """Whether it asks for a combination that training never saw."""
    held_out_phrasing: bool
    """Whether it is put in a way that training never used."""

    @cached_property
    def before(self) -> Pixels:
        """The picture to edit, [height, width, 3]."""
        return render(self.edit.before)

    @cached_property
    def truth(self) -> Pixels:
        """The picture of the scene as asked, [height, width, 3]."""
        return render(self.edit.after)

    @property
    def reference(self) -> Pixels:
        """What the output is compared with: the truth."""
        return self.truth

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return f"case {self.index}"

    @property
    def kind(self) -> str:
        """Kind of edit."""
        return self.edit.kind

    @property
    def task(self) -> str:
        """Task of KontextBench; an impossible request belongs to none and is its own."""
        return _TASKS.get(self.kind, self.kind)

    @cached_property
    def may_change(self) -> NDArray[np.bool_]:
        """Where the picture may change, [height, width]."""
        return self.edit.region()

    @property
    def wanted(self) -> None:
        """Which measures to take of the output: all that can be."""
        return

    def judge(self, output: Pixels) -> Judgment:
        """What the judge finds in an output."""
        return judge(self.edit, output)


def draw_case(seed: int, index: int, kinds: Sequence[str] = KINDS) -> Case:
    """The case of a seed at a place in its sequence; the same whatever the count and the model.

    The kinds take turns. Every other turn asks for unseen combinations, every other pair of turns in held-out
    phrasings.
    """
    rng = np.random.default_rng([_STREAM, seed, index])
    turn = index // len(kinds)
    unseen, held_out = turn % 2 == 0, turn // 2 % 2 == 0
    edit = random_edit(rng, kinds[index % len(kinds)], unseen=unseen)
    return Case(index, edit, phrase(edit, rng, held_out=held_out), unseen, held_out)


def draw_cases(seed: int, count: int, kinds: Sequence[str] = KINDS) -> list[Case]:
    """The first `count` cases of a seed, of these kinds."""
    return [draw_case(seed, index, kinds) for index in range(count)]
