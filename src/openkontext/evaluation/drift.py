"""Drift: what successive edits do to what none of them asks to change.

A chain edits the output of the edit before it. After every turn, what no turn so far has touched is compared
with the true picture, and a character that stands in the scene must still be recognized. The same pictures
sent through the autoencoder alone, as often, show its share.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from openkontext.data.draws import next_edit
from openkontext.data.edits import KINDS, Edit, swapped
from openkontext.data.instructions import phrase
from openkontext.data.sampler import random_robot, random_scene
from openkontext.data.scenes import Scene, render
from openkontext.data.things import ROBOT
from openkontext.evaluation.likeness import robot_parts
from openkontext.evaluation.measures import scaled
from openkontext.evaluation.scores import Score
from openkontext.images.fitting import Pixels

TURNS = 6
"""Successive edits of a chain, as in the technical report's figure (arXiv 2506.15742)."""
CHAINABLE = ("recolour", "replace", "remove", "add", "move", "resize")
"""Kinds of edit that a chain is made of: they change one thing and leave the rest."""
PSNR_GOAL, RECOGNIZED_GOAL = 24.0, 0.9
"""What is to be left after six turns, in dB, and the share of chains whose character is to be recognized."""
_STREAM = 0xD21F7
"""First word of every chain's random state; no other evaluation and no training has it."""
_CHARACTER = "character reference"


@dataclass(frozen=True)
class Turn:
    """One edit of a chain."""

    edit: Edit
    instruction: str


@dataclass(frozen=True)
class Chain:
    """Successive edits, each of the outcome of the one before."""

    index: int
    """Place in the sequence of its seed."""
    turns: tuple[Turn, ...]

    @property
    def start(self) -> Scene:
        """What is edited first."""
        return self.turns[0].edit.before


@dataclass(frozen=True)
class Kept:
    """What is left after some turns."""

    chain: int
    turn: int
    """Turns done: 1 and up."""
    psnr: float
    """Of what no turn has touched against the true picture, in dB."""
    autoencoder: float
    """The same after as many passes through the autoencoder alone, in dB."""
    recognized: bool | None
    """Whether the character is still who it was; None where the scene has none."""


def draw_chain(seed: int, index: int, kinds: Collection[str] = KINDS, turns: int = TURNS) -> Chain:
    """The chain of a seed at a place in its sequence; the same whatever the count and the model.

    A model that was taught characters gets one to keep.
    """
    rng = np.random.default_rng([_STREAM, seed, index])
    scene = random_scene(rng)
    if _CHARACTER in kinds:
        old = next(thing for thing in scene.things if not thing.in_sky)
        scene = swapped(scene, old, random_robot(rng, old.place))
    possible = tuple(kind for kind in CHAINABLE if kind in kinds)
    done = []
    for _ in range(turns):
        edit = next_edit(rng, scene, possible)
        done.append(Turn(edit, phrase(edit, rng)))
        scene = edit.after
    return Chain(index, tuple(done))


def follow(
    chain: Chain, edit: Callable[[Pixels, str, int], Pixels], round_trip: Callable[[Pixels], Pixels]
) -> Iterator[tuple[Kept, Pixels]]:
    """Do a chain, and measure after every turn.

    Args:
        chain: what to ask for.
        edit: picture, instruction and seed of the noise -> the edited picture.
        round_trip: a picture after the autoencoder alone.

    Yields:
        What is left after the turn, and the picture.
    """
    picture = alone = render(chain.start)
    untouched = np.ones(picture.shape[:2], bool)
    for number, turn in enumerate(chain.turns, 1):
        picture = edit(picture, turn.instruction, 100 * chain.index + number)
        alone = round_trip(alone)
        untouched &= ~turn.edit.region()
        truth, start = render(turn.edit.after), render(chain.start)
        yield (
            Kept(
                chain.index,
                number,
                psnr(picture, truth, untouched),
                psnr(alone, start, untouched),
                _recognized(turn.edit.after, picture),
            ),
            picture,
        )


def psnr(a: Pixels, b: Pixels, where: np.ndarray) -> float:
    """Peak signal-to-noise ratio over the pixels in `where`, in dB; 99 where nothing differs."""
    square = ((a[where].astype(np.float64) - b[where]) ** 2).mean() if where.any() else 0.0
    return 99.0 if square == 0 else float(10 * np.log10(255**2 / square))


def _recognized(scene: Scene, picture: Pixels) -> bool | None:
    robots = [thing for thing in scene.things if thing.shape == ROBOT]
    if not robots:
        return None
    parts = robot_parts(scene, robots[0], scaled(picture))
    return all(asked == found for asked, found in parts.values())


@dataclass(frozen=True)
class DriftReport:
    """What is left after every number of turns."""

    psnr: tuple[float, ...]
    """Median over the chains, in dB: after the first turn, the second, ..."""
    autoencoder: tuple[float, ...]
    """The same for the autoencoder alone."""
    recognized: Score | None
    """In how many chains the character is itself after the last turn; None where no scene has one."""

    @classmethod
    def of(cls, kept: Sequence[Kept]) -> "DriftReport":
        """The report on all turns of all chains, at least one."""
        turns = sorted({each.turn for each in kept})
        last = [k.recognized for k in kept if k.turn == turns[-1] and k.recognized is not None]
        return cls(
            tuple(_median(k.psnr for k in kept if k.turn == turn) for turn in turns),
            tuple(_median(k.autoencoder for k in kept if k.turn == turn) for turn in turns),
            Score.of(last) if last else None,
        )


def _median(values: Iterable[float]) -> float:
    return round(float(np.median(list(values))), 2)
