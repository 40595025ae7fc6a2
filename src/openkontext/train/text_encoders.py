"""The text encoders' stage: before any picture, they learn to read what an instruction asks.

CLIP's pooled embedding and T5's tokens each have to tell the kind of edit and the things, colors, places and
values it names, and T5's tokens where letters go. The heads that read them are thrown away; the encoders go
on training together with the transformer.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from openkontext.data.edits import IMPOSSIBLE, KINDS, Edit
from openkontext.data.families import family
from openkontext.data.instructions import phrase
from openkontext.data.landscapes import LANDSCAPES, SEASONS, TIMES
from openkontext.data.palette import COLORS
from openkontext.data.scenes import LOOKS, PLACES, Thing
from openkontext.data.signs import LETTERS, LONGEST
from openkontext.data.styles import STYLES
from openkontext.data.things import ALL_SHAPES, MOST
from openkontext.model.config import ModelConfig
from openkontext.model.text_encoders import build_clip, build_t5, encode_text
from openkontext.train.loop import Run, RunRecipe, warm_cosine
from openkontext.train.spelling import UNSAID, Spelling, look_beside, sign_text
from openkontext.train.training_engine import TrainingEngine, adamw

_VALUES = (*LANDSCAPES, *SEASONS, *TIMES, *LOOKS, *STYLES)
_QUESTIONS: dict[str, tuple[str, ...]] = {
    "kind": (*KINDS, IMPOSSIBLE),
    "subject shape": ALL_SHAPES,
    "result shape": ALL_SHAPES,
    "result color": tuple(COLORS),
    "result place": tuple(PLACES),
    "value": _VALUES,
    "bigger": ("yes", "no"),
    "result count": tuple(str(n) for n in range(1, MOST + 1)),
    **{f"letter {place}": (*LETTERS, "none") for place in range(LONGEST)},
}
_SHAPED = ("add", "replace", "count", "style reference")
_COLORED = ("add", "recolour", "style reference")


@dataclass(frozen=True)
class TextRecipe:
    """How long and how hard; defaults as for nano."""

    steps: int = 800
    batch_size: int = 64
    kinds: tuple[str, ...] = (*KINDS, IMPOSSIBLE)
    """The kinds of edit to be taught; the later stages keep to them."""
    learning_rate: float = 1.5e-3
    warm_up: int = 50
    keep_weight: float = 10.0
    """Where the encoders begin as another model's: weight of how far the features of its own instructions
    move. Its transformer goes by them; without this it would have to learn all words anew."""
    fresh_t5: bool = False
    """Whether T5 begins anew where the encoders begin as another model's, and learns to answer as that one
    does: for one that takes an instruction as a bag of words."""
    seed: int = 0


class TextEncoders(nn.Module):
    """Both encoders with their tokenizers: instructions in, what the transformer takes out.

    Args:
        config: shapes of the encoders.
        folder: holds `tokenizer/tokenizer.json` and `tokenizer_2/tokenizer.json`; None for no tokenizers.
    """

    def __init__(self, config: ModelConfig, folder: Path | None = None) -> None:
        super().__init__()
        self.clip, self.t5 = build_clip(config.clip), build_t5(config.t5)
        self.tokenizers: list[Tokenizer] = []
        if folder is None:
            return
        for name, length, pad in (
            ("tokenizer", config.clip.length, None),
            ("tokenizer_2", config.t5.length, "<pad>"),
        ):
            tokenizer = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
            pad = pad or "<|endoftext|>"
            tokenizer.enable_truncation(length)
            tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad, length=length)
            self.tokenizers.append(tokenizer)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Pooled embeddings [B, pooled] and text tokens [B, length, width]."""
        device = self.clip.device
        clip_ids, t5_ids = (
            torch.tensor([e.ids for e in t.encode_batch(texts)], device=device) for t in self.tokenizers
        )
        return encode_text(self.clip, self.t5, clip_ids, t5_ids)


class _Reader(nn.Module):
    """Answers all questions from both encoders' outputs, each on its own."""

    def __init__(self, pooled: int, width: int) -> None:
        super().__init__()
        answers = sum(len(options) for options in _QUESTIONS.values())
        self.from_pooled = nn.Linear(pooled, answers)
        self.query = nn.Parameter(torch.randn(len(_QUESTIONS), width) * width**-0.5)
        self.from_tokens = nn.ModuleList(nn.Linear(width, len(options)) for options in _QUESTIONS.values())

    def forward(self, pooled: Tensor, text: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits per question: from the pooled embedding, and from the tokens."""
        weights = torch.softmax(self.query @ text.transpose(1, 2), dim=-1)
        gathered = weights @ text
        from_tokens = [head(gathered[:, i]) for i, head in enumerate(self.from_tokens)]
        sizes = [len(options) for options in _QUESTIONS.values()]
        return list(self.from_pooled(pooled).split(sizes, dim=-1)), from_tokens


def _answers(edit: Edit) -> list[int]:
    """The right answer to each question, UNSAID where the instruction does not hold it."""
    said: dict[str, str] = {}
    for part in edit.parts or (edit,):
        said |= _said(part)
    said["kind"] = edit.kind
    return [
        options.index(said[question]) if question in said else UNSAID
        for question, options in _QUESTIONS.items()
    ]


def _said(edit: Edit) -> dict[str, str]:
    """What the instruction for one edit holds, by question."""
    said: dict[str, str] = {}
    subject, result = edit.subject, edit.result
    if subject is not None and edit.kind != "character reference":
        said["subject shape"] = subject.shape
    if result is not None:
        if edit.kind in _SHAPED:
            said["result shape"] = result.shape
        if edit.kind in _COLORED:
            said["result color"] = result.color
        if edit.kind in ("add", "move"):
            said["result place"] = result.place
    if edit.kind == "resize" and subject is not None and result is not None:
        said["bigger"] = "yes" if result.size > subject.size else "no"
    if edit.kind == "count" and result is not None:
        said["result count"] = str(result.form.count)
    if edit.kind == "text" and result is not None:
        said |= _letters(result)
    field = {"background": "landscape", "style reference": "landscape", "character reference": "landscape"}
    if value := getattr(edit.after, field.get(edit.kind, edit.kind), None):
        said["value"] = value
    return said


def _letters(sign: Thing) -> dict[str, str]:
    """What a sign says, letter by letter."""
    padded = [*sign.form.text, *["none"] * LONGEST][:LONGEST]
    return {f"letter {place}": letter for place, letter in enumerate(padded)}


def _batches(recipe: TextRecipe, rng: np.random.Generator) -> Iterator[tuple[list[str], list[str], Tensor]]:
    """Instructions, what they write on signs, and the right answers."""
    while True:
        families = [family(rng, recipe.kinds) for _ in range(recipe.batch_size // 8)]
        edits = [_any_kind(edits, rng) for edits in families for _ in range(8)]
        signs = [sign_text(edit) for edit in edits]
        yield [phrase(edit, rng) for edit in edits], signs, torch.tensor([_answers(edit) for edit in edits])


def _any_kind(edits: list[Edit], rng: np.random.Generator) -> Edit:
    kinds = sorted({edit.kind for edit in edits})
    kind = kinds[int(rng.integers(len(kinds)))]
    chosen = [edit for edit in edits if edit.kind == kind]
    return chosen[int(rng.integers(len(chosen)))]


def _distance(features: Iterable[Tensor], others: Iterable[Tensor]) -> Tensor:
    """Mean squared distances, summed."""
    return torch.stack(
        [F.mse_loss(a.float(), b.float()) for a, b in zip(features, others, strict=True)]
    ).sum()


class _Learning:
    """The encoders with the heads that read them, and what their features shall stay near to.

    Args:
        encoders: that learn.
        reader: answers the questions.
        before: the encoders as they began, frozen; None where they know nothing yet.
        known: numbers of the kinds of edit that `before` knows.
    """

    def __init__(
        self, encoders: TextEncoders, reader: _Reader, before: TextEncoders | None, known: Collection[int]
    ) -> None:
        self.encoders, self.reader, self.before, self.known = encoders, reader, before, known
        self.spelling = Spelling(encoders.t5.config.d_model)
        parts = {"encoders": encoders, "reader": reader, "spelling": self.spelling}
        self.trained = nn.ModuleDict(parts)

    def loss(
        self, batch: tuple[list[str], list[str], Tensor], recipe: TextRecipe, engine: TrainingEngine
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss of instructions, what they write on signs and the right answers; what to log."""
        texts, signs, answers = batch
        told = [*texts, ""] if self.before else texts  # the empty one is what guidance goes by
        with engine.precision():
            features = self.encoders(told)
        read = self.reader(*(feature[: len(texts)].float() for feature in features))
        asked, right = _asked(read, answers.to(engine.device))
        spelled = self.spelling.loss(features[1][: len(texts)], texts, signs, self.encoders.tokenizers[1])
        loss = asked + spelled
        parts = {"loss": loss.detach(), "right": right, "spelling": spelled.detach()}
        if self.before:
            kept = [i for i, kind in enumerate(answers[:, 0].tolist()) if kind in self.known] + [-1]
            with engine.precision():
                moved = _distance([f[kept] for f in features], self.before([told[i] for i in kept]))
            parts["moved"] = moved.detach()
            loss = loss + recipe.keep_weight * moved
        return loss, parts


def _asked(read: tuple[list[Tensor], list[Tensor]], answers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of all questions that have an answer, and the share of right ones."""
    losses, right = [], []
    for logits in read:
        for i, answer in enumerate(logits):
            said = answers[:, i] != UNSAID
            if said.any():
                losses.append(F.cross_entropy(answer, answers[:, i], ignore_index=UNSAID))
                right.append((answer.argmax(-1) == answers[:, i])[said].float().mean())
    return torch.stack(losses).mean(), torch.stack(right).mean()


def train_text(
    recipe: TextRecipe,
    config: ModelConfig,
    tokenizers: Path,
    folder: Path,
    run_recipe: RunRecipe = RunRecipe(),  # noqa: B008 - frozen
    begin: Callable[[TextEncoders], None] | None = None,
    known: Collection[str] = (),
) -> TextEncoders:
    """Train or go on training both encoders; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        config: shapes of the encoders.
        tokenizers: folder of both tokenizers.
        folder: where the run keeps its state.
        run_recipe: how often to log and save; how a step is computed.
        begin: gives new encoders the weights to begin with; None leaves them random.
        known: kinds of edit whose instructions the encoders then know, and go on to read as they do.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 4])
    encoders = TextEncoders(config, tokenizers)
    if begin is not None:
        begin(encoders)
    before = copy.deepcopy(encoders).requires_grad_(False) if known else None
    if recipe.fresh_t5:
        encoders.t5 = build_t5(config.t5)
    if recipe.fresh_t5 or begin is None:
        look_beside(encoders.t5)
    numbers = {_QUESTIONS["kind"].index(kind) for kind in known}
    engine = TrainingEngine(run_recipe)
    learning = _Learning(encoders, _Reader(config.clip.hidden_size, config.t5.d_model), before, numbers)
    optimizer = adamw(recipe.learning_rate, betas=(0.9, 0.999), weight_decay=0.01)
    trained = engine.prepare(learning.trained, optimizer, decay=0.0)
    samples = recipe.batch_size * run_recipe.accumulate
    run = Run(folder, {"trained": trained}, rng, recipe.steps, run_recipe, samples)
    batches = _batches(recipe, rng)
    for step in run.steps_left():
        factor = warm_cosine(step, recipe.steps, recipe.warm_up)
        run.record(engine.step(trained, lambda: learning.loss(next(batches), recipe, engine), factor))
    return encoders
