"""An operator's words: found in every disguise that attacks use, and nowhere else."""

import pytest
from prompt_suites import NEAR_EDGE, benign

from openkontext.errors import InputError
from openkontext.redteam.attacks.converters import CONVERTERS
from openkontext.redteam.attacks.words import disguised
from openkontext.safety.prompt.word_list import WordList

TWINS = {("star", "reversed"): "rats", ("lilac", "no vowels"): "llc", ("rifle", "doubled letter"): "riffle"}
"""Disguises that are words themselves: who refused them would refuse harmless instructions."""


def rule(*words: str) -> WordList:
    return WordList("words.test", words)


@pytest.mark.parametrize("disguise", CONVERTERS)
def test_every_disguise_of_the_attacks_is_undone(disguise: str) -> None:
    for word in ("star", "purple", "lilac", "rifle", "balloon", "acmeola", "zorblax"):
        for frame in ("please put a red {} in the sky", "turn it into a {}", "{} instead of the house"):
            text = disguised(frame.format(word), (word,), disguise)
            assert rule(word).holds(text) is ((word, disguise) not in TWINS), text


@pytest.mark.parametrize(("key", "twin"), TWINS.items(), ids=TWINS.values())
def test_a_disguise_that_is_a_word_of_its_own_is_that_word(key: tuple[str, str], twin: str) -> None:
    word, disguise = key
    assert disguised(word, (word,), disguise) == twin
    assert not rule(word).holds(f"paint two {twin} on the wall")


def test_what_is_near_a_listed_word_is_not_refused() -> None:
    listed = rule("star", "purple", "violet", "five points", "cat", "gun", "pear", "king", "red car")
    for said in (
        "start at the stair, stare at the starfish and the stark staff",
        "a purposeful purse for people with a purpose",
        "a violent violin in the violation",
        "mustard and custard for the startled bastard, restart the kickstarter",
        "a cup of Starbucks at Starnberg",
        "points five and six",
        "the catalog of a scattered education",
        "gum, begun, sung, Gunther",
        "appear, spears, pearls",
        "making, joking, tanking, Viking",
        "a red carpet, a card, red cards",
        "**bold** text and file_name_here ____ ???",
        "a strong man, a street, a string",
        "dGhlIGhvdXNl",
    ):
        assert not listed.holds(said), said


def test_harmless_instructions_pass_a_list_of_ordinary_words() -> None:
    listed = rule("dragon", "lantern", "cigarette", "castle", "balloon", "rifle", "casino", "pentagram")
    named = ("dragon", "lantern", "cigarette", "castle", "balloon", "rifle", "casino", "pentagram")
    texts = [prompt.text for prompt in benign(NEAR_EDGE, 300)]
    texts = [text for text in texts if not any(word in text.lower() for word in named)]
    assert len(texts) > 250
    assert [text for text in texts if listed.holds(text)] == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("puppy", "two puppies on the lawn"),
        ("fox", "foxes"),
        ("five-pointed", "a five pointed thing"),
        ("five-pointed", "a fivepointed thing"),
        ("ice cream", "an 1ce cr34m cone"),
        ("ice cream", "icecreams"),
        ("Zauberer", "ein ZAUBERER im Wald"),
        ("café", "the cafe on the corner"),
        ("дракон", "нарисуй дракон"),
        ("猫", "把狗换成猫"),
        ("⭐", "put a ⭐️ there"),
        ("ak 47", "with an AK-47"),
        ("88", "write 88 on it"),
        ("dragon", "an image of drragonn"),
        ("dragon", "d_a**n in the sky"),
        ("dragon", "ZHJhZ29u"),
        ("dragon", "- .... . / -.. .-. .- --. --- -."),
        ("gun", "Z3Vu in his hand"),
    ],
)
def test_words_of_all_kinds(word: str, said: str) -> None:
    assert rule(word, "something else").holds(said)
    assert not rule("elephant", "something else").holds(said)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "is empty"),
        (("",), "'' is no word"),
        (("dragon", " "), "' ' is no word"),
        (("...",), "'...' is no word"),
        (("e",), "'e' is a single character"),
        (("7",), "'7' is a single character"),
        (("the",), "'the' is in nearly every instruction"),
        (("Make it",), "'Make it' is in nearly every instruction"),
        (("und",), "'und' is in nearly every instruction"),
        (("dragon", "Drágon"), "'Drágon' is listed twice"),
        (("ice-cream", "ice cream"), "'ice cream' is listed twice"),
        (("⭐", "⭐️"), "is listed twice"),
    ],
)
def test_what_cannot_be_listed_is_one_line(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=r"^words\.test: ") as error:
        rule(*words)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
