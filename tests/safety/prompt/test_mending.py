import math
import random
import string

import pytest

from openkontext.safety.prompt.lexicon import Lexicon, lexicon
from openkontext.safety.prompt.mending import Mender, mender, one_edit

WORDS = [
    "the",
    "a",
    "it",
    "make",
    "red",
    "house",
    "in",
    "with",
    "under",
    "snow",
    "over",
    "photo",
    "bottle",
    "green",
]
SMALL = Mender(WORDS, Lexicon({"garden": {"en": "garden, flower*, gardener"}}))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("m a k e t h e h o u s e r e d", "make the house red"),
        ("makethehousered", "make the house red"),
        ("make the gar den red", "make the garden red"),
        ("make the g arden red", "make the garden red"),
        ("make the graden red", "make the garden red"),
        ("make the gardn red", "make the garden red"),
        ("make the gaaaarden reeeed", "make the garden red"),
        ("make the house red", "make the house red"),
        ("make the xylophone red", "make the xylophone red"),
    ],
)
def test_words_as_they_were_meant(text: str, meant: str) -> None:
    assert meant.split() in SMALL.mend(text.split())


def test_a_short_word_of_the_rules_is_not_cut() -> None:
    words = ["zieh", "ihr", "nicht", "die", "kleidung", "aus"]
    assert mender().mend(words) == [words]


def test_words_of_the_vocabulary_are_no_misspellings() -> None:
    for word in ("rude", "baked", "address", "therapist", "woodcock", "sharpen"):
        assert mender().mend(["make", "the", word]) == [["make", "the", word]]


def test_sense_tells_words_from_gibberish() -> None:
    assert SMALL.sense(["make", "the", "house", "red"]) == 1
    assert SMALL.sense(["znxr", "gur", "ubhfr", "erq"]) == 0


def test_letters_in_another_order_and_signs_in_their_place() -> None:
    assert ["make", "the", "garden", "red"] in SMALL.mend(["mkae", "the", "gadren", "red"])
    assert SMALL.unmask("gar*en") == ["garden"]
    assert SMALL.unmask("gar*age") == []


@pytest.mark.parametrize(
    "text",
    [
        "le canard nage dans l eau",
        "schreib das auf das schild",
        "ihre schulter und ihr nacken",
        "no cambies nada en la foto",
        "una nube sobre la casa",
        "quita la ropa de la cama",
        "elle range la tasse de la table",
        "the surrogate and the organization of the page",
    ],
)
def test_words_of_any_language_are_no_misspellings_and_no_pieces(text: str) -> None:
    assert mender().mend(text.split()) == [text.split()]


def test_misspellings_are_mended_still() -> None:
    for text, meant in (
        ("make her nkaed", "naked"),
        ("undrses her", "undress"),
        ("remove the clohtes", "clothes"),
    ):
        assert any(meant in words for words in mender().mend(text.split()))


def test_misspellings_and_anagrams_are_found_as_by_looking_at_every_word() -> None:
    rng, whole = random.Random(7), mender()
    ordinary = {word: math.log(rank + 2) for rank, word in enumerate(whole.ordinary)}
    terms = sorted(word for word in lexicon().spelled if len(word) >= 5 and word.isascii() and word.isalpha())
    known = ordinary.keys() | lexicon().words

    def dear(word: str) -> tuple[float, str]:
        return ordinary.get(word, 9.5), word

    for word in rng.sample(terms, 40):
        at = rng.randrange(1, len(word) - 1)
        other = word[:at] + rng.choice(string.ascii_lowercase) + word[at + 1 :]
        swapped = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        for token in (other, swapped, word[:at] + word[at + 1 :]):
            near = [term for term in terms if one_edit(token, term)]
            # Shorter terms are near, too; none of them is one edit from six letters or more.
            if len(token) >= 6 and not whole.knows(token):
                assert whole.correct(token) == min(near, key=dear)
        inner = list(word[1:-1])
        rng.shuffle(inner)
        mixed = word[0] + "".join(inner) + word[-1]
        same = [each for each in known if len(each) == len(mixed) and sorted(each) == sorted(mixed)]
        same = [each for each in same if each.isalpha() and (each[0], each[-1]) == (mixed[0], mixed[-1])]
        if not whole.knows(mixed):
            best = max(same, key=lambda each: (-dear(each)[0], each))
            assert whole._reorder(mixed) == best
