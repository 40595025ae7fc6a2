"""A closed-form edit of where text enters the transformer.

Gandikota et al., "Unified Concept Editing in Diffusion Models" (UCE, arXiv 2308.14761), on an
MM-DiT. UCE edits the keys and values of cross-attention, which are linear in the text features. FLUX has no
cross-attention. Its text tokens change from block to block, and its keys are not linear in the features. Two
layers still are, and all text passes through them: `context_embedder`, which takes T5's tokens, and the first
layer of the pooled embedding. These two are edited.

The new weight W' minimizes

    sum_i |W' c_i - W a_i|^2 + keep sum_j |W' c_j - W c_j|^2 + ridge |W' - W|^2

over features c_i of instructions with the concept, a_i of the same with its anchor, and c_j of all others:

    W' = (W A + keep W K + ridge W) (C + keep K + ridge I)^-1,
    A = sum a_i c_i^T, C = sum c_i c_i^T, K = sum c_j c_j^T.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.model.lora import Lora, LoraLayer
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository
from openkontext.text import Tokenizers
from openkontext.train.base import TeacherModel
from openkontext.train.inhibit_pairs import NEUTRAL, AskedConcept

TOKENS, POOLED = "context_embedder", "time_text_embed.text_embedder.linear_1"
"""The layers that all text passes through, by their names in the transformer."""

_AT_ONCE = 64
"""Instructions that are encoded together."""


def edited_weight(
    weight: Tensor, concept: Tensor, anchor: Tensor, others: Tensor, *, keep: float, ridge: float
) -> Tensor:
    """The weight that maps the concept's features to where it mapped the anchor's, and keeps all else.

    Args:
        weight: [out, in].
        concept: features [N, in].
        anchor: their anchors' [N, in].
        others: features to keep [M, in].
        keep: weight of all these together against the concept's together.
        ridge: how strongly the weight stays, as a share of the mean square of a feature's entry.

    Returns:
        [out, in] float64.
    """
    w, c, a, k = (x.double() for x in (weight, concept, anchor, others))
    cc, ac, kk = c.T @ c / len(c), a.T @ c / len(c), keep * (k.T @ k) / len(k)
    eye = torch.eye(len(cc), dtype=torch.float64) * ridge * (cc + kk).trace() / len(cc)
    return torch.linalg.solve(cc + kk + eye, (w @ (ac + kk + eye)).T).T


def as_lora(weight: Tensor, edited: Tensor, rank: int) -> LoraLayer:
    """The difference of two weights [out, in] as a LoRA: the best of a rank (Eckart and Young, 1936)."""
    u, s, v = torch.linalg.svd(edited.double() - weight.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return LoraLayer((root[:, None] * v[:rank]).float(), (u[:, :rank] * root).float(), float(len(root)))


def close(
    base: TeacherModel,
    asked: Sequence[AskedConcept],
    others: Sequence[AskedConcept],
    *,
    rank: int,
    keep: float,
    ridge: float,
) -> Lora:
    """Edit both layers.

    Args:
        base: the model; it stays as it is.
        asked: instructions with the concept; those whose anchor asks for nothing do not name it, and no text
            tells them from harmless ones, so that they are kept.
        others: instructions to keep.
        rank: of the LoRA that is made; the layers' own rank keeps the edit whole.
        keep: see `edited_weight`.
        ridge: see `edited_weight`.

    Raises:
        InputError: no instruction has words for the concept.
    """
    pairs = [(each.instruction, each.anchor) for each in asked if each.anchor != NEUTRAL]
    if not pairs:
        raise InputError("no case has words for the concept, so that there is no anchor to map it to")
    tokens, pooled, ids = features(base, [text for text, _ in pairs])
    anchor_tokens, anchor_pooled, anchor_ids = features(base, [text for _, text in pairs])
    unnamed = [each.instruction for each in asked if each.anchor == NEUTRAL]
    kept_tokens, kept_pooled, _ = features(base, [*(each.instruction for each in others), *unnamed])
    answers = [row[places(a, b)] for row, a, b in zip(anchor_tokens, ids, anchor_ids, strict=True)]
    given: Mapping[str, tuple[Tensor, Tensor, Tensor]] = {
        TOKENS: (
            torch.cat(tokens),
            torch.cat(answers),
            torch.cat(kept_tokens),
        ),
        POOLED: (torch.stack(pooled), torch.stack(anchor_pooled), torch.stack(kept_pooled)),
    }
    transformer: FluxTransformer = base.pipeline.transformer
    lora = {}
    for name, (concept, anchor, kept) in given.items():
        weight = transformer.get_parameter(f"{name}.weight").detach()
        lora[name] = as_lora(
            weight, edited_weight(weight, concept, anchor, kept, keep=keep, ridge=ridge), rank
        )
    return lora


def places(ids: Sequence[int], anchor: Sequence[int]) -> list[int]:
    """Which token of an anchor's instruction answers to each of an instruction.

    Words that both begin or end with answer to each other, and so does the padding. What lies between, the
    concept's name, answers to what the anchor has there: one token after the other, the last one for the
    rest.

    Args:
        ids: token ids of the instruction, padded with 0.
        anchor: those of the anchor's, of the same length.
    """
    n, m = int(np.count_nonzero(ids)), int(np.count_nonzero(anchor))
    same = [a == b for a, b in zip(ids[: min(n, m)], anchor[: min(n, m)], strict=True)]
    start = same.index(False) if False in same else len(same)
    most = min(n, m) - start
    ends = [a == b for a, b in zip(ids[n - most : n][::-1], anchor[m - most : m][::-1], strict=True)]
    end = ends.index(False) if False in ends else len(ends)
    last = max(m - end - 1, 0)  # of what the anchor has between
    middle = [min(i, last) for i in range(start, n - end)]
    padding = [max(i, min(m, len(ids) - 1)) for i in range(n, len(ids))]
    return [*range(start), *middle, *range(m - end, m), *padding]


def features(base: TeacherModel, texts: Sequence[str]) -> tuple[list[Tensor], list[Tensor], list[list[int]]]:
    """T5's tokens of each text [tokens, width], CLIP's pooled embedding [width], and T5's token ids.

    The padding's tokens are among them, since the transformer sees them, too.
    """
    tokenizers = Tokenizers(Repository(base.pipeline.tokenizer.parent, base.config))
    ids = [tokenizers.encode(text).t5_ids[0].tolist() for text in texts]
    tokens: list[Tensor] = []
    pooled: list[Tensor] = []
    for first in range(0, len(texts), _AT_ONCE):
        vectors, rows = base.encode_text(list(texts[first : first + _AT_ONCE]))
        tokens.extend(rows)
        pooled.extend(vectors)
    return tokens, pooled, ids
