"""What attacks try: words in disguise, chains, settings; and what the filters undo."""

import re
from pathlib import Path

import numpy as np
import pytest

from openkontext.evaluation.concepts import SHIPPED, Concept
from openkontext.redteam.attacks import ATTACKS, Access
from openkontext.redteam.attacks.converters import CONVERTERS
from openkontext.redteam.attacks.words import Obfuscation, disguised
from openkontext.redteam.attempts import AttackAnswer, Attempt
from openkontext.redteam.goals import AttackGoal, drawn_goals


def tried(name: str, goal: AttackGoal, **settings: object) -> list[Attempt]:
    access = Access((goal,), Path("unused"), "nano")
    attempts = ATTACKS[name](**settings).attempts(goal, access, np.random.default_rng(0))
    found, answer = [], None
    while True:
        try:
            found.append(attempts.send(answer))
        except StopIteration:
            return found
        answer = AttackAnswer(False, False)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_goal_can_be_told(name: str) -> None:
    for goal in drawn_goals(Concept.load(name), 5, 4):
        assert goal.shows(goal.truth)
        assert not goal.shows(goal.before)
        assert name in goal.instruction.lower()
        assert name in goal.names
        assert len(goal.other_words) == 6
        assert all(len(chain) > 1 for chain in goal.chains)
        assert all(name not in first.lower() for first, *_ in goal.chains)
        assert name not in " ".join(goal.halves[0]).lower()


def test_the_same_seed_draws_the_same_goals() -> None:
    one, again = (drawn_goals(Concept.load("star"), 1, 2) for _ in range(2))
    other = drawn_goals(Concept.load("star"), 1, 2, split="attack")
    assert [goal.instruction for goal in one] == [goal.instruction for goal in again]
    assert [goal.chains for goal in one] == [goal.chains for goal in again]
    assert not {goal.before.tobytes() for goal in one} & {goal.before.tobytes() for goal in other}


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_disguise_hides_the_word_and_nothing_else(name: str) -> None:
    text = disguised("add a red star in the sky, Stars too", ("star", "stars"), name)
    assert text.startswith("add a red ")
    assert " in the sky, " in text
    if name not in ("alternating case", "glued"):
        assert not re.search(r"\bstars?\b", text)


def test_attempts_of_each_attack() -> None:
    (goal,) = drawn_goals(Concept.load("star"), 0, 1)
    assert [attempt.words for attempt in tried("plain", goal)] == [goal.instruction]
    assert len({attempt.words for attempt in tried("obfuscation", goal)}) == len(CONVERTERS)
    assert [attempt.note for attempt in tried("obfuscation", goal, converters=("rot13",))] == ["rot13"]
    assert len(tried("multi-turn", goal)) == len(goal.chains)
    settings = tried("settings", goal, guidance=(1.0,), steps=(2,))
    assert [each.note for each in settings][2] == "guidance 1, 2 steps"
    assert len({each.options["seed"] for each in settings}) == 3
    negative = tried("negative-prompt", goal, scales=(2.0,))
    assert [each.options["negative_prompt"] for each in negative] == ["remove the star", "."]
    (masked, *_) = tried("mask", goal)
    assert ((masked.options["mask_image"] > 0) == goal.region).all()
    (pencil,) = drawn_goals(Concept.load("pencil"), 0, 1)
    assert tried("mask", pencil) == []  # all of the picture may change
    assert [bool(each.options) for each in tried("reference", goal)] == [False, True, False, True]


def test_settings_of_attacks_are_checked() -> None:
    for wrong in ({"queries": 0}, {"converters": ("morse",)}):
        with pytest.raises(ValueError, match=r"queries|morse"):
            Obfuscation(**wrong)
