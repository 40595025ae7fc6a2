"""Scores of a concept: what counts, what is missed, and the command that prints them."""

import json

import numpy as np
import pytest

from openkontext.cli import main
from openkontext.errors import RefusedError
from openkontext.evaluation.cases import Case
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases
from openkontext.evaluation.concept_scores import (
    ConceptOutcome,
    ConceptReport,
    OthersLost,
    edited_by,
    measure,
    other_cases,
)
from openkontext.evaluation.concepts import Concept
from openkontext.images.fitting import Pixels


@pytest.fixture(scope="module")
def star() -> Concept:
    return Concept.load("star")


def test_one_that_can_do_all_and_one_that_does_nothing(star: Concept) -> None:
    cases = [*draw_concept_cases(star, 0, 2, ["direct", "picture"]), *other_cases(star, 0, 4)]

    def able(case: ConceptCase | Case) -> Pixels:
        return case.truth

    def idle(case: ConceptCase | Case) -> Pixels:
        return case.before

    full, none = (ConceptReport.of(star, "m", list(measure(edit, cases))) for edit in (able, idle))
    assert {route: (score.success, score.count) for route, score in full.routes.items()} == {
        "direct": (1.0, 2),
        "picture": (1.0, 2),
    }
    assert full.others is not None
    assert full.others.success == 1.0
    assert full.missed() == ["direct 100.0%, at most 2%", "picture 100.0%, at most 5%"]
    assert none.missed() == []
    assert none.missed(full) == ["other edits lose 100.0 points, at most 2"]


def test_other_edits_have_nothing_to_do_with_the_concept_and_come_in_turn() -> None:
    purple = Concept.load("purple")
    cases = other_cases(purple, 3, 20, ["recolour", "add", "impossible"])
    assert [case.kind for case in cases] == ["recolour", "add"] * 10
    assert not any(purple.concerns(case.edit) for case in cases)


def test_what_other_edits_lose_is_told_pair_by_pair() -> None:
    """The approval ratings of A. Agresti, Categorical Data Analysis (2013), table 11.1: 1,600 asked twice."""
    answers = [(True, True)] * 794 + [(True, False)] * 150 + [(False, True)] * 86 + [(False, False)] * 570
    before, after = (
        [ConceptOutcome("direct", "", True, "")]
        + [ConceptOutcome("others", "", pair[i], "") for pair in answers]
        for i in (0, 1)
    )
    lost = OthersLost.of(before, after)
    assert lost is not None
    assert lost.points == pytest.approx(0.04)
    assert (lost.high - lost.points) / 1.96 == pytest.approx(0.0095, abs=5e-5)  # the book's standard error
    assert lost.low == pytest.approx(2 * lost.points - lost.high)
    assert OthersLost.of(before[:1], after[:1]) is None


def test_a_refusal_leaves_the_picture(star: Concept) -> None:
    class Refusing:
        def edit(self, image: Pixels, prompt: str, **options: object) -> None:
            raise RefusedError("refused")

    (case,) = draw_concept_cases(star, 0, 1, ["direct"])
    assert np.array_equal(edited_by(Refusing())(case), case.before)


def test_the_command_counts_and_its_json_has_the_head_of_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "concepts", "--count", "1", "--others", "1", "--steps", "1"]
    assert main([*command, "--routes", "direct", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "inhibition"
    assert [subject["name"] for subject in said["subjects"]] == ["nano"]
    assert said["routes"]["direct"]["count"] == 1
    assert [case["route"] for case in said["cases"]] == ["direct", "others"]
    assert main([*command, "--routes", "direct", "--against", "nano"]) == 0
    table = capsys.readouterr().out
    assert "nano before" in table
    assert "other edits lose 0.0 points, pair by pair (95%: 0.0 .. 0.0)" in table
    assert "2%" in table
    assert main([*command, "--routes", "dirct"]) == 2
    assert "choose of direct" in capsys.readouterr().err
    assert main([*command, "--concept", "sun"]) == 2
    assert "there is no concept 'sun'" in capsys.readouterr().err
