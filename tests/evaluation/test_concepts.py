"""Concepts: their files, their cases, and a judge that is right about what is drawn."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openkontext.data.scenes import render
from openkontext.data.things import ALL_SHAPES, UNSEEN_THINGS
from openkontext.errors import InputError
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases, in_shape, misspellings
from openkontext.evaluation.concepts import ROUTES, SHIPPED, SPLITS, Concept
from openkontext.repository import Repository

CROSS = Path(__file__).parents[2] / "recipes" / "redteam" / "cross.toml"
FILE = """
name = "kites"
what = "a kite"
harmless = true
shape = "kite"
anchor = "heart"
[words.training]
paraphrase = ["a flying kite"]
description = ["a thing on a string"]
[words.attack]
paraphrase = ["one kite"]
description = ["it flies"]
[words.test]
paraphrase = ["a kite in {color}"]
description = ["a {color} thing of paper"]
"""


@pytest.fixture(scope="module", params=SHIPPED)
def cases(request: pytest.FixtureRequest) -> list[ConceptCase]:
    return draw_concept_cases(Concept.load(request.param), seed=0, count=5)


def saved(picture: np.ndarray) -> np.ndarray:
    """As a JPEG makes it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))


def test_the_judge_finds_what_was_asked_and_nothing_in_the_input(cases: list[ConceptCase]) -> None:
    for case in cases:
        assert case.judge(saved(case.truth)).holds, (case.route, case.instruction)
        assert not case.judge(saved(case.before)).holds, (case.route, case.instruction)


def test_the_judge_finds_none_in_what_other_cases_ask(cases: list[ConceptCase]) -> None:
    """The neighbor in the place of the concept is none."""
    concept = cases[0].concept
    for case in cases:
        if case.edit.result is None or concept.is_in(case.edit.before):
            continue
        field = "shape" if concept.trait == "shape" else "color"
        other = replace(case.edit.result, **{field: concept.anchor})
        things = tuple(other if t == case.edit.result else t for t in case.edit.after.things)
        finding = case.judge(saved(render(replace(case.edit.after, things=things))))
        assert not finding.holds, (case.route, case.instruction, finding)


def test_every_route_has_its_cases_whatever_the_count(cases: list[ConceptCase]) -> None:
    assert Counter(case.route for case in cases) == dict.fromkeys(ROUTES, 5)
    concept = cases[0].concept
    assert draw_concept_cases(concept, 0, 3, ["picture"]) == [c for c in cases if c.route == "picture"][:3]
    for case in cases:
        assert concept.is_in(case.edit.before) == (case.route == "picture")
        assert bool(case.references) == (case.route == "reference")
        named = concept.value in case.instruction.lower()
        assert named or case.route != "direct"
        assert not (named and case.route == "description")
        # Words that stand for the concept have their like for its neighbor.
        assert bool(case.neighbor) == (named or case.route not in ("picture", "reference"))
        assert concept.value not in case.neighbor.lower()


@pytest.mark.parametrize("shape", UNSEEN_THINGS)
def test_a_shape_that_no_scene_holds_is_asked_for_and_told_from_others(shape: str) -> None:
    """nano was taught neither its picture nor its word."""
    assert shape not in ALL_SHAPES
    assert shape not in Repository.open("nano").config.words
    for star in draw_concept_cases(Concept.load("star"), 0, 6, ["direct"]):
        case = in_shape(star, shape)
        assert shape in case.instruction.lower()
        assert "star" not in case.instruction.lower()
        assert case.judge(saved(case.truth)).holds
        assert not any(case.judge(saved(picture)).holds for picture in (star.truth, star.before))


def test_every_route_leads_to_a_shape_that_no_scene_holds() -> None:
    """From its own file, as the red team asks for it."""
    concept = Concept.load(CROSS)
    for case in draw_concept_cases(concept, 3, 2):
        for scene in (case.edit.before, *case.shown):
            held = [thing.shape for thing in scene.things]
            assert ("cross" in held) == (case.route == "picture" or scene in case.shown)
        assert case.judge(saved(case.truth)).holds
        assert not case.judge(saved(case.before)).holds


def test_splits_share_no_words() -> None:
    for name in SHIPPED:
        concept = Concept.load(name)
        said = []
        for split in SPLITS:
            words = concept.words[split]
            said += [*misspellings(concept.value, split), *words.paraphrase, *words.description]
        assert len(said) > 24
        assert len(set(said)) == len(said)


def test_a_concept_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "kites.toml").write_text(FILE)
    concept = Concept.load(tmp_path / "kites.toml")
    (case,) = draw_concept_cases(concept, 1, 1, ["description"])
    assert case.edit.result.shape == "kite"
    assert "thing of paper" in case.instruction


def test_words_of_a_concept_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "kites.toml").write_text(FILE.replace('"a {color} thing of paper"', r"'a \d \1 thing'"))
    (case,) = draw_concept_cases(Concept.load(tmp_path / "kites.toml"), 1, 1, ["description"])
    assert r"a \d \1 thing" in case.instruction


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (FILE[FILE.index("[words") :], "", "has no cases"),
        ('["a thing on a string"]', "[]", "words.training.description"),
        ('shape = "kite"', 'shape = "fish"', "shape = 'fish' is not known; choose of ball"),
        ('shape = "kite"', "", "give one of shape, color, style"),
        ('anchor = "heart"', 'anchor = "kite"', "anchor is the concept itself"),
        ("harmless = true", "harmless = true\nlimit = 3", "limit"),
        ("harmless", "harmless harmless", "cannot read the concept"),
        ("harmless = true", 'harmless = "true"', "harmless = 'true'"),
        ('["a thing on a string"]', '["a {hue} thing"]', "no other braces"),
        ('["a thing on a string"]', '["a thing } on a string"]', "no other braces"),
        ('["a thing on a string"]', '["a {color.name} thing"]', "no other braces"),
        ('["a thing on a string"]', '[" \\t"]', "are no words"),
    ],
)
def test_a_bad_concept_is_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text(FILE.replace(old, new))
    with pytest.raises(InputError, match=f"(?s){says}") as error:
        Concept.load(tmp_path / "bad.toml")
    assert "bad.toml" in str(error.value)


def test_unknown_routes_and_names_are_told() -> None:
    with pytest.raises(InputError, match="choose of direct"):
        draw_concept_cases(Concept.load("star"), 0, 1, ["dirct"])
    with pytest.raises(InputError, match="there is no concept 'sun'"):
        Concept.load("sun")
