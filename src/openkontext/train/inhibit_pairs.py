"""What inhibition trains on: cases of a concept and edits that have nothing to do with it, encoded once."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from openkontext.data.draws import random_edit
from openkontext.data.edits import KINDS, Edit
from openkontext.data.instructions import phrase
from openkontext.data.scenes import Scene, render
from openkontext.errors import InputError
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases
from openkontext.evaluation.concepts import Concept
from openkontext.files import whole
from openkontext.images import to_model
from openkontext.latents import PATCH, context_positions, position_ids
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, Grid, TextFeatures
from openkontext.train.pairs import PairExamples, build_cache, report

_STREAM = 0x1B17
"""First word of the random state of edits to preserve, so that no other stream can be the same."""

NEUTRAL = "."
"""An instruction that asks for nothing: models of drawn scenes leave the picture as it is."""


@dataclass(frozen=True)
class AskedConcept:
    """An edit in words, and what else it may be answered by."""

    edit: Edit
    instruction: str
    anchor: str = NEUTRAL
    """The instruction whose answer is taken in its place."""
    shown: tuple[Scene, ...] = ()
    """Scenes of the reference pictures."""


@dataclass(frozen=True, eq=False)
class ConceptBatch:
    """Edits of one size, with what their targets are made of."""

    batch: Batch
    """`target` holds the pictures as asked."""
    before: Tensor
    """The pictures to edit, as tokens of the target's grid [B, L, C]."""
    anchor: TextFeatures
    """The anchors' instructions."""
    neutral: TextFeatures
    """The instruction that asks for nothing, a batch of one."""

    def to(self, device: torch.device) -> "ConceptBatch":
        """The same on a device."""
        anchor, neutral = self.anchor.to(device), self.neutral.to(device)
        return ConceptBatch(self.batch.to(device), self.before.to(device), anchor, neutral)


def asked_of(cases: Iterable[ConceptCase], *, neighbor: bool) -> list[AskedConcept]:
    """Cases as training takes them.

    Args:
        cases: to train on.
        neighbor: whether words that stand for the concept are to be answered as if they named its neighbor;
            else, and where there are none, as if nothing were asked.
    """
    return [
        AskedConcept(case.edit, case.instruction, (case.neighbor if neighbor else "") or NEUTRAL, case.shown)
        for case in cases
    ]


def preserved(concept: Concept, seed: int, count: int, kinds: Sequence[str] | None) -> list[AskedConcept]:
    """Edits to be answered as before: of all kinds in turn, every fourth one of a neighbor of the concept.

    Args:
        concept: that none of them has to do with.
        seed: of scenes and words.
        count: how many.
        kinds: that the model was taught; None for all.
    """
    kinds = [kind for kind in kinds or KINDS if kind in KINDS]
    neighbors = _neighbors(concept, seed, count // 4)
    rng = np.random.default_rng([_STREAM, seed])
    found: list[AskedConcept] = []
    while len(found) < count - len(neighbors):
        edit = random_edit(rng, kinds[len(found) % len(kinds)], unseen=False)
        if not concept.concerns(edit):
            found.append(AskedConcept(edit, phrase(edit, rng)))
    return found + neighbors


def _neighbors(concept: Concept, seed: int, count: int) -> list[AskedConcept]:
    """What is nearest to the concept: the same instructions with other shapes, colors or styles."""
    values = concept.others()
    found: list[AskedConcept] = []
    for i, value in enumerate(values):
        other = replace(concept, value=value)
        share = count * (i + 1) // len(values) - count * i // len(values)
        if share:
            cases = draw_concept_cases(other, seed + i, share, ["direct"], "training")
            found += [AskedConcept(c.edit, c.instruction) for c in cases if not concept.concerns(c.edit)]
    return found


@dataclass(frozen=True, eq=False)
class _Encoded:
    """One edit: tokens float16, text features bfloat16."""

    grids: tuple[Grid, ...]
    before: Tensor
    after: Tensor
    references: tuple[Tensor, ...]
    text: tuple[Tensor, Tensor]
    anchor: tuple[Tensor, Tensor]


class ConceptDraws(Protocol):
    """Where batches of inhibition come from."""

    def draw(self, rng: np.random.Generator, count: int) -> ConceptBatch:
        """Edits of one size; all chance comes from `rng`."""


class ConceptPairs:
    """Pairs of one's own, to be answered as if nothing were asked.

    Args:
        data: the pairs, as `finetune` takes them.
        folder: of their cache.
        base: encodes.

    Raises:
        InputError: there is no usable pair, or one has no picture before of the size of that after.
    """

    def __init__(self, data: str, folder: Path, base: TeacherModel) -> None:
        report(*build_cache(data, folder, base))
        self._examples = PairExamples(folder)
        for pair in self._examples.pairs:
            if pair.context != pair.target:
                raise InputError(f"{data}: {pair.name} needs a picture before of the same size as after")
        pooled, text = base.encode_text([NEUTRAL])
        self._neutral = TextFeatures(text, pooled)

    def __len__(self) -> int:
        return len(self._examples.pairs)

    def draw(self, rng: np.random.Generator, count: int) -> ConceptBatch:
        """Pairs of one size; sizes by their share."""
        batch = self._examples.draw(rng, count)
        return ConceptBatch(batch, batch.context, self._neutral.repeated(count), self._neutral)


class ConceptExamples:
    """Encoded edits, drawn at random.

    Args:
        asked: the edits, at least one.
        base: encodes.
        cache: file that keeps what was encoded; it is made where it is missing, or of other edits.

    Raises:
        InputError: there is no edit.
    """

    def __init__(self, asked: Sequence[AskedConcept], base: TeacherModel, cache: Path | None = None) -> None:
        if not asked:
            raise InputError("there is nothing to train on: no case of the concept, or no edit to preserve")
        self._base = base
        encoded = _cached(asked, base, cache)
        self._groups: dict[tuple[Grid, ...], list[_Encoded]] = defaultdict(list)
        for each in encoded:
            self._groups[each.grids].append(each)
        self._grids = sorted(self._groups)
        pooled, text = base.encode_text(["", NEUTRAL])
        self._empty, self._neutral = (TextFeatures(text[i : i + 1], pooled[i : i + 1]) for i in (0, 1))

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def draw(self, rng: np.random.Generator, count: int) -> ConceptBatch:
        """Edits of one size and as many references; sizes by their share."""
        shares = np.array([len(self._groups[grids]) for grids in self._grids], float)
        grids = self._grids[int(rng.choice(len(shares), p=shares / shares.sum()))]
        group = self._groups[grids]
        rows = [group[int(i)] for i in rng.integers(len(group), size=count)]
        before = torch.stack([row.before for row in rows]).float()
        shown = [torch.stack([row.references[i] for row in rows]).float() for i in range(len(grids) - 1)]
        shapes = [(PATCH * height, PATCH * width) for height, width in grids]
        ids = [position_ids(*shapes[0]), *context_positions(shapes, self._base.config.position_rule)]
        batch = Batch(
            torch.stack([row.after for row in rows]).float(),
            torch.cat((before, *shown), dim=1),
            torch.from_numpy(np.concatenate(ids)),
            grids[0],
            _features([row.text for row in rows]),
            self._empty,
        )
        return ConceptBatch(batch, before, _features([row.anchor for row in rows]), self._neutral)


def _features(rows: list[tuple[Tensor, Tensor]]) -> TextFeatures:
    tokens, pooled = zip(*rows, strict=True)
    return TextFeatures(torch.stack(tokens).float(), torch.stack(pooled).float())


def _cached(asked: Sequence[AskedConcept], base: TeacherModel, cache: Path | None) -> list[_Encoded]:
    mark = hashlib.sha256(repr((asked, base.config.name)).encode()).hexdigest()
    if cache is not None and cache.exists():
        kept = torch.load(cache, weights_only=False)
        if kept["mark"] == mark:
            return [_Encoded(*row) for row in kept["rows"]]
    pictures: dict[Scene, Tensor] = {}

    def tokens(scene: Scene) -> Tensor:
        if scene not in pictures:
            pictures[scene] = base.encode_picture(to_model(render(scene))).half()
        return pictures[scene]

    encoded = []
    for each in asked:
        before, after = tokens(each.edit.before), tokens(each.edit.after)
        pooled, text = base.encode_text([each.instruction, each.anchor])
        said, anchor = ((text[i].bfloat16(), pooled[i].bfloat16()) for i in (0, 1))
        scenes = (each.edit.before, *each.shown)
        grids = tuple((scene.height // 16, scene.width // 16) for scene in scenes)
        encoded.append(_Encoded(grids, before, after, tuple(map(tokens, each.shown)), said, anchor))
    if cache is not None:
        with whole(cache) as file:
            torch.save({"mark": mark, "rows": [tuple(vars(row).values()) for row in encoded]}, file)
    return encoded
