"""What a model of few words makes of any text, against Python's own tables of Unicode, and what it names."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkontext.folding import fold, is_blank, plain_text, unknown_words

PLAIN = plain_text()
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("don’t ‘do’ `it´", "don't 'do' `it'"),
        ("“HI” „so« »or‹ 『this』", '"hi" "so" "or\' "this"'),
        ("now — or – then ‐ or ― a−b … ‥", "now - or - then - or - a-b ... .."),
        ("½ 5½ ⅔ 3⁄4 m² ① Ⅳ № ™", " 1/2 5 1/2 2/3 3/4 m2 1 iv no tm"),
        ("5′ 3″ 2×3 ÷ ≈", "5' 3\" 2x3 / "),
        ("café CAFÉ naïve Łódź Øre straße Œuvre Ærø İzmir ısı Đà Nẵng", None),
        ("ｍａｋｅ　ｉｔ ＢＩＧ！", "make it big!"),
        ("𝐦𝐚𝐤𝐞 𝓲𝓽 𝕟𝕚𝕘𝕙𝕥 ⓝⓞⓦ ﬁeld oﬃce", "make it night now field office"),
        ("make\u00a0it\u2009a\u202fnight\u3000now\u2028then", "make it a night now then"),
        ("ni\u200bg\u00adht\ufeff no\x00w \u202etop\u2069", "night now top"),
        ("night🌙 夜 now", "night now"),
    ],
)
def test_signs_become_the_plain_ones(typed: str, plain: str | None) -> None:
    if plain is None:
        plain = "cafe cafe naive lodz ore strasse oeuvre aero izmir isi da nang"
    assert PLAIN.normalize_str(typed).split() == plain.split()


def test_every_character_of_every_plane_becomes_printable_ascii() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(every), 4000):
        plain = PLAIN.normalize_str("a".join(every[start : start + 4000]))
        assert plain.isascii(), hex(start)
        assert plain.isprintable(), hex(start)


def test_ascii_stays_and_forms_of_ascii_become_it() -> None:
    for character in map(chr, [*range(0x09, 0x0E), *range(0x20, 0x7F)]):
        plain = " " if character.isspace() else character.lower()
        assert PLAIN.normalize_str(f"a{character}b") == f"a{plain}b"
    for code in range(0x80, sys.maxunicode + 1):
        # As of Unicode 3.2: the libraries' tables are of several years.
        form = unicodedata.ucd_3_2_0.normalize("NFKD", chr(code))
        if len(form) == 1 and form.isascii() and form.isalnum():
            assert PLAIN.normalize_str(f"a{chr(code)}b") == f"a{form.lower()}b", hex(code)


@given(ANY)
def test_folding_twice_changes_nothing_more(text: str) -> None:
    plain = PLAIN.normalize_str(text)
    assert PLAIN.normalize_str(plain) == plain


@pytest.mark.parametrize("text", ["夜", "сделай ночь, пожалуйста!", "🌙🌙", "§", "रात\nबना"])
def test_where_no_word_is_left_a_full_stop_stands(text: str) -> None:
    assert PLAIN.normalize_str(text) == "."


@pytest.mark.parametrize("text", ["", "  ", "?", '"', "\t"])
def test_texts_of_ascii_alone_are_never_that_full_stop(text: str) -> None:
    assert PLAIN.normalize_str(text).strip() == text.strip()


def test_only_what_shows_nothing_is_blank() -> None:
    for text in (
        "",
        " \t\n",
        "\u3000\u00a0",
        "\u200b\u200b",
        "\x00",
        "\ufeff\u2060",
        "\u2800\u3164",
        "\u0301",
    ):
        assert is_blank(text), ascii(text)
    for text in ("a", "🌙", "夜", ".", "\ue000", "❤️"):
        assert not is_blank(text), ascii(text)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Don’t make the CAFÉ red — it’s “night”…", ["it’s"]),
        ("make the caf\u00e9 \uff52\uff45\uff44, ni\u200bght", []),
        ("night🌙 🌙 make", ["🌙"]),
        ("夜にして", ["夜にして"]),
        ("сделай ночь, сделай", ["сделай", "ночь"]),
        ("रात बना दो", ["रात", "बना", "दो"]),
        ("ทำให้เป็นกลางคืน", ["ทำให้เป็นกลางคืน"]),
        ("اجعلها ليلاً", ["اجعلها", "ليلاً"]),
        ("한국어로 밤", ["한국어로", "밤"]),
        ("make 👨‍👩‍👧‍👦 red 🇫🇷, 👍🏽 1️⃣ ❤️", ["👨‍👩‍👧‍👦", "🇫🇷", "👍🏽", "1️⃣", "❤️"]),
        ("£5 and 100°", ["£", "5", "and", "100", "°"]),
        ("Zebra zebra ZÉBRA", ["zebra"]),
        ("make \u202eit\u2069 zeb\u200bra", ["it", "zebra"]),
        ("mаke", ["mаke"]),  # with a Cyrillic a, which only looks known
        ("don't rock’n’roll", ["rock’n’roll"]),
        ("\ue000 make \U0010fffe", ["\ue000", "\U0010fffe"]),
        ("make 。、¿ • § the", []),  # punctuation is no word
    ],
)
def test_what_was_not_taught_is_named_as_it_is_written(text: str, unknown: list[str]) -> None:
    words = {"don't", "make", "the", "cafe", "red", "night"}
    assert unknown_words(text, words) == unknown


@given(ANY)
def test_what_is_named_is_in_the_text_and_what_is_not_named_reaches_the_model(text: str) -> None:
    unknown = unknown_words(text, ())
    assert len(set(unknown)) == len(unknown)
    letters = [c for c in fold(text) if c.isalnum()]
    assert bool(unknown) >= bool(letters)
    assert not unknown_words(text, {"a"}) or not set(fold(text)) <= set("a ")
