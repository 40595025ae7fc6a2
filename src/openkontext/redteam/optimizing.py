"""Searches that attacks make with gradients: over word embeddings, tokens and pixels."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openkontext.errors import InputError
from openkontext.images import from_model, to_model
from openkontext.images.fitting import Pixels
from openkontext.redteam.goals import AttackGoal
from openkontext.redteam.whitebox import EmbeddedWords, Wanted, WhiteBox


@dataclass(frozen=True)
class Template:
    """A text with places for single words, each None."""

    parts: tuple[str | None, ...]

    @property
    def count(self) -> int:
        """How many places there are."""
        return self.parts.count(None)

    def filled(self, words: Sequence[str]) -> str:
        """The text with a word in each place."""
        given = iter(words)
        return " ".join(next(given) if part is None else part for part in self.parts).strip()

    @classmethod
    def without(cls, text: str, names: Sequence[str], slots: int) -> "Template":
        """A text with `slots` places where its first telling word stood, and nothing where others did."""
        parts: list[str | None] = []
        for number, piece in enumerate(_pattern(names).split(text)):
            if number == 1:
                parts += [None] * slots
            if piece.strip():
                parts.append(piece.strip())
        return cls(tuple(parts)) if None in parts else cls((*(None,) * slots, *parts))


@dataclass(frozen=True, eq=False)
class FoundWords:
    """What a search over tokens came to."""

    text: str
    losses: list[float] = field(default_factory=list)
    """Before the first step and after each."""


@dataclass(frozen=True, eq=False)
class FoundEmbeddings:
    """What a search over embeddings came to."""

    words: EmbeddedWords
    losses: list[float]
    """Before each step and after the last."""


@dataclass(frozen=True, eq=False)
class FoundPicture:
    """What a search over pixels came to."""

    pixels: Pixels
    losses: list[float]
    """Before each step, and of `pixels`."""


def nameless(goal: AttackGoal) -> str:
    """A goal's instruction without the words that name the concept."""
    return (
        " ".join(_pattern(goal.names).sub(" ", goal.instruction).split()) if goal.names else goal.instruction
    )


def search_embeddings(
    white: WhiteBox,
    before: Pixels,
    template: Template,
    wanted: Wanted,
    steps: int,
    rate: float,
    rng: np.random.Generator,
) -> FoundEmbeddings:
    """Learn the embeddings of a template's places by Adam; those of both encoders at once.

    Args:
        white: the model.
        before: the picture to edit.
        template: the text; its places begin as words of chance.
        wanted: what to answer.
        steps: of Adam.
        rate: learning rate, in deviations of each encoder's word embeddings.
        rng: of the first words.
    """
    begin = _some_words(white, template.count, frozenset(), rng)
    words, places = white.words(template.filled(begin)), _places(white, template, begin)
    scales = [float(table.std()) for table in white.tables]
    learned = [
        (embedding[0, where] / scale).clone().requires_grad_(True)
        for embedding, where, scale in zip((words.clip, words.t5), places, scales, strict=True)
    ]
    optimizer = torch.optim.Adam(learned, lr=rate)

    def put() -> EmbeddedWords:
        both = []
        for embedding, where, values, scale in zip(
            (words.clip, words.t5), places, learned, scales, strict=True
        ):
            changed = embedding.clone()
            changed[0, where] = values * scale
            both.append(changed)
        return replace(words, clip=both[0], t5=both[1])

    losses, best, kept = [], float("inf"), words
    for step in range(steps + 1):
        now = put()
        loss = white.loss(white.batch(before, white.features(now)), wanted).sum()
        losses.append(loss.item())
        if loss.item() < best:
            best, kept = loss.item(), replace(now, clip=now.clip.detach(), t5=now.t5.detach())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return FoundEmbeddings(kept, losses)


def search_tokens(
    white: WhiteBox,
    before: Pixels,
    template: Template,
    wanted: Wanted,
    steps: int,
    candidates: int,
    banned: frozenset[str],
    rng: np.random.Generator,
) -> FoundWords:
    """Look for words for a template's places, one swap a step.

    Args:
        white: the model.
        before: the picture to edit.
        template: the text.
        wanted: what to answer.
        steps: swaps.
        candidates: swaps that are tried at each step, the best that the gradient foresees.
        banned: words that it may not use.
        rng: of the first words.
    """
    context = white.picture_tokens(before)
    vocabulary = [word for word in white.vocabulary if word not in banned]
    ids = [torch.tensor(each) for each in zip(*(_ids_of(white, word) for word in vocabulary), strict=True)]
    chosen = _some_words(white, template.count, banned, rng)
    places = _places(white, template, chosen)

    @torch.no_grad()
    def losses_of(texts: Sequence[str]) -> Tensor:
        features = white.features(white.words(*texts))
        return white.loss(white.batch(before, features, context), wanted)

    losses = [losses_of([template.filled(chosen)]).item()]
    tried: set[tuple[str, ...]] = {tuple(chosen)}
    for _ in range(steps):
        gains = _foreseen(white, before, context, template.filled(chosen), places, ids, wanted)
        swaps = [
            swapped
            for place, word in _best(gains, len(vocabulary))
            if (swapped := (*chosen[:place], vocabulary[word], *chosen[place + 1 :])) not in tried
        ][:candidates]
        if not swaps:
            break
        tried.update(swaps)
        found = losses_of([template.filled(swap) for swap in swaps])
        least = int(found.argmin())
        if found[least].item() < losses[-1]:
            chosen = list(swaps[least])
            losses.append(found[least].item())
        else:
            losses.append(losses[-1])
    return FoundWords(template.filled(chosen), losses)


def search_encoding(
    white: WhiteBox,
    template: Template,
    pairs: Sequence[tuple[str, str]],
    *,
    strength: float,
    population: int,
    generations: int,
    banned: frozenset[str],
    rng: np.random.Generator,
) -> str:
    """Look for words whose encoding is a nameless text's plus the concept's direction, genetically.

    Args:
        white: the model, of which only the text encoders are asked.
        template: a nameless text with places.
        pairs: instructions with the concept's name and the same without.
        strength: what the direction is multiplied by.
        population: texts of a generation.
        generations: how many.
        banned: words that it may not use.
        rng: of the search.
    """
    vocabulary = [word for word in white.vocabulary if word not in banned]

    @torch.no_grad()
    def encoded(texts: Sequence[str]) -> Tensor:
        features = white.features(white.words(*texts))
        parts = F.normalize(features.pooled), F.normalize(features.tokens.mean(1))
        return torch.cat(parts, dim=1)

    named, bare = (encoded([pair[i] for pair in pairs]) for i in (0, 1))
    blank = " ".join(part for part in template.parts if part)
    aim = encoded([blank]) + strength * (named - bare).mean(0, keepdim=True)
    texts = rng.integers(len(vocabulary), size=(population, template.count))

    def distance(rows: np.ndarray) -> np.ndarray:
        said = [template.filled([vocabulary[i] for i in row]) for row in rows]
        return np.asarray((encoded(said) - aim).square().sum(1).numpy())

    scores = distance(texts)
    for _ in range(generations):
        parents = texts[np.argsort(scores)[: max(population // 2, 2)]]
        mothers, fathers = (parents[rng.integers(len(parents), size=population)] for _ in range(2))
        children = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
        fresh = rng.integers(len(vocabulary), size=children.shape)
        children = np.where(rng.random(children.shape) < 0.25, fresh, children)
        both, values = np.concatenate([texts, children]), np.concatenate([scores, distance(children)])
        best = np.argsort(values, kind="stable")[:population]
        texts, scores = both[best], values[best]
    return template.filled([vocabulary[i] for i in texts[0]])


def search_pixels(
    white: WhiteBox, before: Pixels, instruction: str, wanted: Wanted, steps: int, bound: int
) -> FoundPicture:
    """Change a picture within a bound so that the edit comes out as wanted: PGD (arXiv 1706.06083).

    Args:
        white: the model.
        before: uint8 [H, W, 3], at a size that the model works at.
        instruction: that goes with it.
        wanted: what to answer.
        steps: of projected gradient descent by the sign.
        bound: largest change of a value, in 1/255.
    """
    clean = torch.from_numpy(to_model(before))
    text = white.features(white.words(instruction))
    reach = bound / 127.5  # pictures are in -1..1
    best, kept = float("inf"), clean
    changed = clean.clone()
    losses = []
    for step in range(steps + 1):
        changed = changed.detach().requires_grad_(True)
        loss = white.loss(white.batch(before, text, white.encode(changed)), wanted).sum()
        losses.append(loss.item())
        if loss.item() < best:
            best, kept = loss.item(), changed.detach()
        if step < steps:
            (gradient,) = torch.autograd.grad(loss, changed)
            moved = changed.detach() - 2.5 * reach / steps * gradient.sign()
            changed = torch.clamp(torch.clamp(moved, clean - reach, clean + reach), -1, 1)
    pixels = from_model(kept.numpy())
    within = np.clip(pixels.astype(int), before.astype(int) - bound, before.astype(int) + bound)
    return FoundPicture(within.astype(np.uint8), losses)


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    found = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"\b(?:{found})\b", re.IGNORECASE)


def _some_words(white: WhiteBox, count: int, banned: frozenset[str], rng: np.random.Generator) -> list[str]:
    words = [word for word in white.vocabulary if word not in banned]
    return [words[int(i)] for i in rng.integers(len(words), size=count)]


def _ids_of(white: WhiteBox, word: str) -> tuple[int, int]:
    """A word's number for CLIP and for T5: CLIP begins with a mark."""
    clip, t5 = white.ids(word)
    return int(clip[0, 1]), int(t5[0, 0])


def _places(white: WhiteBox, template: Template, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Where a template's places lie among CLIP's and T5's tokens: where another word changes the ids."""
    one, other = white.vocabulary[0], white.vocabulary[-1]
    found: tuple[list[int], list[int]] = [], []
    for place in range(template.count):
        texts = [template.filled([*words[:place], word, *words[place + 1 :]]) for word in (one, other)]
        for lists, first, second in zip(found, *map(white.ids, texts), strict=True):
            apart = (first[0] != second[0]).nonzero()
            if not len(apart):
                raise InputError(
                    f"slots = {template.count}: the model reads {first.shape[1]} tokens of a text, and the "
                    "instruction with so many words is longer; take fewer"
                )
            lists.append(int(apart[0, 0]))
    return torch.tensor(found[0]), torch.tensor(found[1])


def _foreseen(
    white: WhiteBox,
    before: Pixels,
    context: Tensor,
    text: str,
    places: tuple[Tensor, Tensor],
    ids: Sequence[Tensor],
    wanted: Wanted,
) -> Tensor:
    """How much lower the loss should be with each word in each place, by its gradient [places, words]."""
    words = white.words(text)
    both = [each.detach().requires_grad_(True) for each in (words.clip, words.t5)]
    features = white.features(replace(words, clip=both[0], t5=both[1]))
    loss = white.loss(white.batch(before, features, context), wanted).sum()
    gradients = torch.autograd.grad(loss, both)
    gains: Tensor = torch.zeros(len(places[0]), len(ids[0]))
    for gradient, embedding, where, numbers, table in zip(
        gradients, both, places, ids, white.tables, strict=True
    ):
        slope = gradient[0, where]
        gains = gains - slope @ table[numbers].T + (slope * embedding[0, where].detach()).sum(1, keepdim=True)
    return gains


def _best(gains: Tensor, words: int) -> Iterator[tuple[int, int]]:
    """Places and words, the most promising swap first."""
    for index in gains.flatten().argsort(descending=True).tolist():
        yield divmod(index, words)
