"""Instructions: their words, their phrasings, and that they mean one thing."""

import re

import numpy as np
import pytest

from openkontext.data.draws import random_edit
from openkontext.data.edits import FIRST_KINDS, IMPOSSIBLE, KINDS, Edit
from openkontext.data.families import family
from openkontext.data.instructions import every_word, phrase, slip
from openkontext.data.palette import COLORS
from openkontext.data.scenes import Scene, Thing
from openkontext.data.things import SHAPES

PLACE_WORDS = {
    "left": r"(on|at) the left( side)?",
    "middle": r"in the (middle|center|centre)",  # codespell:ignore centre
    "right": r"(on|at) the right( side)?",
    "sky left": r"in the sky on the left|at the top left|in the left of the sky",
    "sky middle": r"in the sky in the middle|at the top in the middle|in the middle of the sky",
    "sky right": r"in the sky on the right|at the top right|in the right of the sky",
}


def instructions(kind: str, draws: int, *, held_out: bool = False) -> list[tuple[Edit, str]]:
    pairs = []
    for i in range(draws):
        rng = np.random.default_rng([4, i])
        edit = random_edit(rng, kind, unseen=i % 2 == 0)
        pairs.append((edit, phrase(edit, rng, held_out=held_out)))
    return pairs


def plain(instruction: str) -> str:
    """An instruction without its opening, capital and full stop."""
    return re.sub(r"^(please|could you|can you|now) ", "", instruction.lower().rstrip("."))


def spoken(edit: Edit, instruction: str) -> set[str]:
    """The words of an instruction, without what a sign says."""
    said = {t.form.text.lower() for t in (edit.subject, edit.result) if t is not None and t.form.text}
    return {word.strip('",') for word in instruction.lower().rstrip(".").split()} - said


def meant(scene: Scene, words: str) -> list[Thing]:
    """The things that words at the start of a text can mean, as a reader of English takes them."""
    match = re.match(rf"the (?:({'|'.join(COLORS)}) )?({'|'.join(SHAPES)})\b ?(.*)", words)
    assert match, words
    color, shape, rest = match.groups()
    things = [t for t in scene.things if t.shape == shape and color in (None, t.color)]
    if len(things) > 1:
        things = [t for t in things if re.match(PLACE_WORDS[t.place], rest)]
        # "at the top left" is not "at the left": the longest description of a place wins.
    return things


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_instructions_use_listed_words_only(kind: str, held_out: bool):
    words = set(every_word())
    for edit, instruction in instructions(kind, 60, held_out=held_out):
        assert spoken(edit, instruction) <= words, instruction


def test_training_uses_every_listed_word():
    used: set[str] = set()
    for seed in range(120):
        rng = np.random.default_rng([6, seed])
        for edit in family(rng):
            used |= spoken(edit, phrase(edit, rng))
    missing = set(every_word()) - used
    assert not missing


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_phrasings_are_none_of_training(kind: str):
    for seed in range(6):
        edit = random_edit(np.random.default_rng([8, seed]), kind, unseen=False)
        rng = np.random.default_rng(seed)
        trained = {plain(phrase(edit, rng)) for _ in range(400)}
        held_out = {plain(phrase(edit, rng, held_out=True)) for _ in range(40)}
        assert len(held_out) > 2
        assert not trained & held_out


def test_first_kinds_have_fewer_words():
    assert set(every_word(FIRST_KINDS)) < set(every_word())


@pytest.mark.parametrize("kind", ["recolour", "replace", "remove", "move", "resize"])
def test_an_instruction_names_one_thing(kind: str):
    for edit, instruction in instructions(kind, 80) + instructions(kind, 40, held_out=True):
        text = plain(instruction)
        named = re.search(rf"the (?:(?:{'|'.join(COLORS)}) )?(?:{'|'.join(SHAPES)})\b", text)
        assert named, instruction
        assert meant(edit.before, text[named.start() :]) == [edit.subject], instruction


@pytest.mark.parametrize("kind", ["add", "move"])
def test_an_instruction_names_the_place(kind: str):
    sides = {"left": "left", "right": "right", "middle": "middle|center|centre"}  # codespell:ignore centre
    for edit, instruction in instructions(kind, 80):
        side = edit.result.place.split()[-1]
        assert re.search(rf"\b({sides[side]})\b", instruction, re.IGNORECASE), instruction
        in_sky = re.search(r"\b(sky|top)\b", instruction, re.IGNORECASE) is not None
        assert in_sky == edit.result.in_sky, instruction


@pytest.mark.parametrize("kind", ["recolour", "replace", "add"])
def test_an_instruction_says_what_is_asked(kind: str):
    for edit, instruction in instructions(kind, 80):
        words = instruction.lower().rstrip(".").split()
        if kind == "recolour" or edit.subject is None or edit.result.color != edit.subject.color:
            assert edit.result.color in words, instruction
        if kind != "recolour":
            assert edit.result.shape in words, instruction
        article = re.search(r"\b(a|an) (\w)", instruction.lower())
        if article:
            assert (article[1] == "an") == (article[2] in "aeiou"), instruction


def test_a_text_instruction_says_the_text_in_capitals():
    for edit, instruction in instructions("text", 40) + instructions("text", 20, held_out=True):
        assert re.search(rf'(^|[ "]){edit.result.form.text}($|[ ".])', instruction), instruction


def test_a_count_is_said():
    numbers = {1: "one", 2: "two", 3: "three"}
    for edit, instruction in instructions("count", 40):
        assert numbers[edit.result.form.count] in instruction.lower().split(), instruction


def test_two_parts_say_both():
    for edit, instruction in instructions("two parts", 40):
        first, rest = re.split(r",? (?:and then|and|then) ", instruction, maxsplit=1)
        assert edit.parts[0].subject is None or edit.parts[0].subject.shape in first
        assert rest


def test_a_slip_is_in_one_word_and_leaves_short_ones_alone():
    rng = np.random.default_rng(4)
    for _ in range(40):
        slipped = slip("make the mushroom bigger", rng).split()
        wrong = [
            (a, b) for a, b in zip(["make", "the", "mushroom", "bigger"], slipped, strict=True) if a != b
        ]
        assert len(wrong) == 1
        assert wrong[0][0] in ("mushroom", "bigger")
        assert len(wrong[0][1]) in (len(wrong[0][0]) - 1, len(wrong[0][0]))
    assert slip("make it red", rng) == "make it red"


def test_instructions_fit_the_text_encoders():
    longest = max(
        len(re.findall(r"\w+|[^\w\s]", text))
        for kind in [*KINDS, IMPOSSIBLE]
        for _, text in instructions(kind, 60)
    )
    assert longest < 32


def test_the_same_chance_gives_the_same_words():
    edit = random_edit(np.random.default_rng(2), "move", unseen=False)
    assert phrase(edit, np.random.default_rng(3)) == phrase(edit, np.random.default_rng(3))
