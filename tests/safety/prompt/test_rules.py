import pytest

from openkontext.safety.prompt.lexicon import Lexicon
from openkontext.safety.prompt.rules import Rules

WORDS = {
    "verb": {"en": "take, put away"},
    "fill": {"en": "the, a, red"},
    "fruit": {"en": "apple*, pear", "ru": "груша"},
    "toy": {"en": "apple toy"},
}


def holds(pattern: str, text: str, harmless: str = "") -> bool:
    table: list[dict[str, object]] = [{"category": "found", "score": 0.5, "patterns": pattern}]
    if harmless:
        table.append({"category": "harmless", "patterns": harmless})
    return bool(Rules(table, Lexicon(WORDS)).hits(text.split()))


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("<fruit>", "two apples", True),
        ("<fruit>", "pears", False),  # no star
        ("<fruit>", "grusha", True),  # as typed in Latin letters
        ("<verb> <fruit>", "take apples", True),
        ("<verb> <fruit>", "put away apples", True),
        ("<verb> <fruit>", "put apples", False),
        ("<verb> <fill>* <fruit>", "take the red apple", True),
        ("<verb> <fill>* <fruit>", "take the blue apple", False),
        ("<verb> ..1 <fruit>", "take the blue apple", False),
        ("<verb> ..2 <fruit>", "take the blue apple", True),
        ("<verb> & <fruit>", "an apple that you take", True),
        ("<verb> & <fruit>", "an apple", False),
        ("<verb> one|two? <fruit>", "take two apples", True),
        ("<verb> one|two? <fruit>", "take apples", True),
        ("take !<fruit>", "take pear", False),
        ("take !<fruit>", "take plum", True),
        ("take !<fruit>", "take", False),
        ("take -<fruit>", "take", True),
        ("take -<fruit>", "take plum", True),
        ("take -<fruit>", "take pear", False),
    ],
)
def test_patterns(pattern: str, text: str, expected: bool) -> None:
    assert holds(pattern, text) is expected


def test_what_is_harmless_covers_its_words_and_no_others() -> None:
    assert not holds("<fruit>", "an apple toy", harmless="<toy>")
    assert holds("<fruit>", "an apple toy and an apple", harmless="<toy>")
    assert not holds("apple", "an apple toy", harmless="<toy>")


def test_a_denial_covers_its_words_unless_it_is_denied_itself() -> None:
    words = WORDS | {"insists": {"en": "never"}, "revives": {"en": "enough"}, "not": {"en": "without"}}
    table: list[dict[str, object]] = [
        {"category": "found", "patterns": "<fruit>"},
        {"category": "negated", "patterns": "<not> <fill>* <fruit>"},
    ]
    rules = Rules(table, Lexicon(words))
    assert not rules.hits(["without", "the", "apple"])
    assert rules.hits(["never", "without", "the", "apple"])
    assert rules.hits(["without", "apples", "enough"])
    assert rules.hits(["without", "¶", "apples"])
