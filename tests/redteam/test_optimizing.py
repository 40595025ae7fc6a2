"""Searches by gradients on nano: the loss falls, and the bound holds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openkontext.errors import InputError
from openkontext.evaluation.concepts import Concept
from openkontext.images import to_model
from openkontext.redteam.goals import AttackGoal, drawn_goals
from openkontext.redteam.optimizing import (
    Template,
    nameless,
    search_embeddings,
    search_encoding,
    search_pixels,
    search_tokens,
)
from openkontext.redteam.whitebox import Wanted, WhiteBox, opened
from openkontext.repository import Repository
from openkontext.text import Tokenizers


@pytest.fixture(scope="module")
def white() -> WhiteBox:
    return opened("nano")


@pytest.fixture(scope="module")
def goal() -> AttackGoal:
    (goal,) = drawn_goals(Concept.load("star"), 0, 1)
    return goal


@pytest.fixture(scope="module")
def wanted(white: WhiteBox, goal: AttackGoal) -> Wanted:
    return white.towards(goal.before, goal.truth, 1, np.random.default_rng(0))


def test_the_parts_are_those_of_the_model(white: WhiteBox, goal: AttackGoal) -> None:
    pooled, text = white.base.encode_text([goal.instruction])
    features = white.features(white.words(goal.instruction))
    assert torch.allclose(features.pooled, pooled, atol=0.02 * pooled.abs().max())
    assert torch.allclose(features.tokens, text, atol=0.02 * text.abs().max())
    tokens = white.base.encode_picture(to_model(goal.before))
    assert torch.allclose(white.picture_tokens(goal.before)[0], tokens, atol=1e-4)


def test_the_right_words_have_the_least_loss(white: WhiteBox, goal: AttackGoal, wanted: Wanted) -> None:
    texts = (goal.instruction, nameless(goal), "make it night")
    losses = white.loss(white.batch(goal.before, white.features(white.words(*texts))), wanted)
    assert losses.argmin() == 0


def test_a_search_over_tokens_lowers_the_loss(white: WhiteBox, goal: AttackGoal, wanted: Wanted) -> None:
    banned = frozenset({"star", "stars"})
    template = Template.without(goal.instruction, goal.names, 2)
    found = search_tokens(white, goal.before, template, wanted, 3, 4, banned, np.random.default_rng(0))
    assert found.losses == sorted(found.losses, reverse=True)
    assert found.losses[-1] < found.losses[0]
    assert not banned & set(found.text.split())
    with torch.no_grad():
        features = white.features(white.words(found.text))
        again = white.loss(white.batch(goal.before, features), wanted)
    assert again.item() == pytest.approx(found.losses[-1], rel=1e-3)


def test_more_words_than_the_model_reads_are_told(white: WhiteBox, goal: AttackGoal, wanted: Wanted) -> None:
    template = Template((goal.instruction, *(None,) * 100))
    with pytest.raises(InputError, match=r"slots = 100: the model reads \d+ tokens"):
        search_tokens(white, goal.before, template, wanted, 1, 1, frozenset(), np.random.default_rng(0))


def test_a_search_over_embeddings_lowers_the_loss(white: WhiteBox, goal: AttackGoal, wanted: Wanted) -> None:
    template = Template((None, None, nameless(goal)))
    found = search_embeddings(white, goal.before, template, wanted, 3, 0.3, np.random.default_rng(0))
    assert min(found.losses) < found.losses[0]
    plain = white.words(template.filled(["a", "a"]))
    moved = (found.words.t5 - plain.t5).abs().sum(-1)[0] > 0
    assert moved[:2].all()
    assert not moved[2:].any()


@pytest.mark.parametrize("bound", [1, 8])
def test_a_picture_stays_within_its_bound(
    white: WhiteBox, goal: AttackGoal, wanted: Wanted, bound: int
) -> None:
    found = search_pixels(white, goal.before, nameless(goal), wanted, 2, bound)
    apart = np.abs(found.pixels.astype(int) - goal.before.astype(int))
    assert 0 < apart.max() <= bound
    assert min(found.losses) < found.losses[0]


def test_a_search_over_encodings_comes_nearer(white: WhiteBox, goal: AttackGoal) -> None:
    """What it finds lies nearer to where the name leads than words of chance."""
    template = Template((nameless(goal), None, None))

    def found(generations: int) -> str:
        return search_encoding(
            white,
            template,
            [(goal.instruction, nameless(goal))],
            strength=1.0,
            population=16,
            generations=generations,
            banned=frozenset({"star", "stars"}),
            rng=np.random.default_rng(0),
        )

    def distance(text: str) -> float:
        with torch.no_grad():
            features = white.features(white.words(text, goal.instruction))
        parts = (F.normalize(part) for part in (features.pooled, features.tokens.mean(1)))
        return sum(float((part[0] - part[1]).square().sum()) for part in parts)

    assert distance(found(8)) < distance(found(0))
    assert "star" not in found(8)


def test_words_of_one_token() -> None:
    tokenizers = Tokenizers(Repository.open("nano"))
    assert tokenizers.one_token_words(["star", "pentagram", "x-ray", "Star", "make"]) == ["make", "star"]
