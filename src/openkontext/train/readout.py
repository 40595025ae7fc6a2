"""Read out of the transformer's middle what its picture shows, while it trains.

A head tells of every image token which thing covers it, in which color, and whether the edit changes it;
of a group, how many they are; of a sign, which letters stand there; of a robot, which parts it has. From
pixels alone a network learns last which thing an instruction means and where it stands, and which letter
goes where; asked for it outright, it learns that first. A second head reads out of the text where letters go
(`openkontext.train.spelling`). The idea is that of representation alignment
(arXiv 2410.06940), with the scene as data in the place of another network's features. The heads are thrown
away after training.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS
from openkontext.data.scenes import Scene, back_to_front, box_of
from openkontext.data.signs import LETTERS, cell
from openkontext.data.styles import COLORLESS
from openkontext.data.things import ALL_SHAPES, MOST
from openkontext.model.transformer import FluxTransformer
from openkontext.train.spelling import UNSAID, Spelling

TOKEN = 16
"""Side of the square that an image token covers, in pixels."""
COVERED = 0.3
"""Share of a token from which something covers it."""

_SHAPES, _COLORS = ALL_SHAPES, tuple(COLORS)

QUESTIONS: dict[str, tuple[tuple[object, ...], ...]] = {
    "thing": (("nothing", *ALL_SHAPES), ("nothing", *COLORS)),
    "count": (tuple(range(1, MOST + 1)),),
    "letter": (LETTERS,),
    "robot": (HEADS, TOPS, BODIES, FEET, tuple(COLORS)),
}
"""What is asked of a token, and the answers: a thing's shape and color; how many of it stand there; the
letter of a sign; a robot's parts, and the color of its head."""
_COLUMN = {
    name: sum(len(answers) for answers in list(QUESTIONS.values())[:i]) for i, name in enumerate(QUESTIONS)
}


def contents(scene: Scene) -> np.ndarray:
    """What each token shows: int64 [rows * columns, questions], the answers' numbers in `QUESTIONS`' order.

    -100 where there is nothing to be told: of colors in black and white, with a pencil and the like, of
    letters beside a sign.
    """
    rows, columns = scene.height // TOKEN, scene.width // TOKEN
    labels = np.full((rows, columns, sum(map(len, QUESTIONS.values()))), UNSAID, np.int64)
    labels[..., :2] = 0
    for thing in back_to_front(scene):
        left, top, side = box_of(scene, thing)
        covered = _covered((left, top, left + side, top + side), rows, columns)
        answers: list[int] = [UNSAID] * labels.shape[-1]
        answers[0], answers[1] = 1 + _SHAPES.index(thing.shape), 1 + _COLORS.index(thing.color)
        answers[_COLUMN["count"]] = thing.form.count - 1
        if thing.form.robot is not None:
            parts = dataclasses.astuple(thing.form.robot)
            found = [options.index(part) for options, part in zip(QUESTIONS["robot"], parts, strict=True)]
            answers[_COLUMN["robot"] :] = found
        labels[covered] = answers
        for place, letter in enumerate(thing.form.text):
            x0, y0, x1, y1 = cell(thing.form.text, place)
            box = left + side * x0, top + side * y0, left + side * x1, top + side * y1
            labels[_covered(box, rows, columns), _COLUMN["letter"]] = LETTERS.index(letter)
    if scene.look != "colour" or scene.style in COLORLESS:
        labels[..., [1, -1]] = UNSAID  # a thing's color, and that of a robot's head
    return labels.reshape(rows * columns, -1)


def _covered(box: tuple[float, float, float, float], rows: int, columns: int) -> np.ndarray:
    """Which tokens a box in pixels covers: bool [rows, columns]."""
    x0, y0, x1, y1 = box
    down, right = (
        np.clip(np.minimum(end, starts + TOKEN) - np.maximum(start, starts), 0, TOKEN) / TOKEN
        for start, end, starts in (
            (y0, y1, TOKEN * np.arange(rows)),
            (x0, x1, TOKEN * np.arange(columns)),
        )
    )
    covered: np.ndarray = np.outer(down, right) > COVERED
    return covered


class Readout(nn.Module):
    """The heads, and the hook that hands the first one the tokens of one block.

    Args:
        transformer: whose tokens to read.
        block: which single-stream block's.
    """

    def __init__(self, transformer: FluxTransformer, block: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(transformer.config.hidden_size)
        self._sizes = (2, *(len(answers) for group in QUESTIONS.values() for answers in group))
        self.head = nn.Linear(transformer.config.hidden_size, sum(self._sizes))
        self.spelling = Spelling(transformer.config.joint_attention_dim)
        self._tokens: Tensor | None = None
        transformer.single_transformer_blocks[block].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._tokens = output

    def loss(self, scenes: list[list[Scene]], changed: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Cross entropy of what the last forward pass's image tokens tell, by group of questions.

        Args:
            scenes: for every example, the scenes of the target and of each context image, in their order.
            changed: which of the target's tokens the edit changes: bool [B, target].
            weight: of the target's tokens [B, target]; the context's weigh 1.

        Returns:
            Of each group, and of "changed", the mean over its questions of the mean over the tokens where
            there is something to be told.
        """
        assert self._tokens is not None, "the transformer has not run"
        labels = torch.from_numpy(
            np.stack([np.concatenate([contents(s) for s in images]) for images in scenes])
        )
        labels = labels.to(changed.device)
        more = labels.shape[1] - changed.shape[1]
        logits = self.head(self.norm(self._tokens[:, -labels.shape[1] :].float())).split(self._sizes, dim=-1)
        answers = (F.pad(changed.long(), (0, more), value=UNSAID), *labels.unbind(-1))
        weight = F.pad(weight, (0, more), value=1.0)
        losses = [
            (weight * F.cross_entropy(logit.transpose(1, 2), answer, reduction="none")).sum()
            / (weight * (answer != UNSAID)).sum().clamp(min=1)
            for logit, answer in zip(logits, answers, strict=True)
        ]
        self._tokens = None
        groups = torch.stack(losses).split([1, *map(len, QUESTIONS.values())])
        return {name: group.mean() for name, group in zip(("changed", *QUESTIONS), groups, strict=True)}
