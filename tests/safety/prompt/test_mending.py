import pytest

from openkontext.safety.prompt.lexicon import Lexicon
from openkontext.safety.prompt.mending import Mender, mender

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
