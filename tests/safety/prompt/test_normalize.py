import base64
import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkontext.safety.prompt.normalize import decoded, fold, latin, tokens, transliterate, unleet


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ＭＡＫＥ", "make"),
        ("𝔪𝔞𝔨𝔢", "make"),
        ("ⓜⓐⓚⓔ", "make"),
        ("m\u0336a\u0336k\u0336e\u0336", "make"),
        ("ma\u200bk\u00ade", "make"),
        ("mákè", "make"),
        ("\U0001f1f2\U0001f1e6\U0001f1f0\U0001f1ea", "make"),
        ("&#109;ake", "make"),
        ("Straße", "strasse"),
        ("ЁЖ", "еж"),
    ],
)
def test_folding(text: str, plain: str) -> None:
    assert fold(text) == plain


def folded_one_by_one(text: str) -> str:
    """What `fold` promises, character by character."""
    fillers = "\u034f\u0640\u115f\u1160\u17b4\u17b5\u3164\uffa0"
    text = "".join(c for c in html.unescape(text) if c not in fillers)
    kept = []
    for character in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()):
        category = unicodedata.category(character)
        if category in ("Zs", "Zl", "Zp") or character in "\t\n\r\v\f":
            kept.append(" ")
        elif "\U0001f1e6" <= character <= "\U0001f1ff":
            kept.append(chr(ord(character) - 0x1F1E6 + ord("a")))
        elif category not in ("Mn", "Me", "Cf", "Cc", "Co", "Cn"):
            kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


@given(st.text() | st.text(st.sampled_from("aZ 9&;\t\x00\x7f~é́ﬁﾠ\u3164\u200b\u2028🇩🇪Ⓐ雪ß𝐀\ue000")))
def test_folding_is_the_same_for_every_text_and_every_time(text: str) -> None:
    assert fold(text) == fold(text) == folded_one_by_one(text)


def test_letters_of_other_scripts_that_look_latin() -> None:
    assert latin("сосоа һ") == "cocoa h"  # Cyrillic
    assert latin("photo") == "photo"


def test_russian_and_chinese_as_typed_in_latin_letters() -> None:
    assert transliterate("снег").startswith("sneg")
    assert transliterate("雪") == "xue"


def test_scripts_without_spaces_come_character_by_character() -> None:
    assert tokens("变成夜晚 now") == ["变", "成", "夜", "晚", "now"]


@pytest.mark.parametrize(("text", "plain"), [("m4k3 1t", "make it"), ("$n0w", "snow"), ("h@t!", "hat")])
def test_leetspeak(text: str, plain: str) -> None:
    assert unleet(text, "i") == plain


def test_a_plus_at_a_number_is_kept() -> None:
    assert tokens("18+ and 18, +18, 5+3") == ["18+", "and", "18", "+18", "5+", "3"]


def test_digits_alone_are_letters_only_beside_other_disguised_words() -> None:
    assert unleet("house 7175 or 80085", "i") == "house 7175 or 80085"
    assert unleet("m4ke 80085", "i") == "make boobs"


@pytest.mark.parametrize("number", ["r1727", "c127", "17h27", "4k", "16", "2nd", "90s", "50%", "35mm"])
def test_numbers_stay(number: str) -> None:
    assert unleet(number, "i").rstrip("%") == number.rstrip("%")


@pytest.mark.parametrize(
    "code",
    [
        base64.b64encode(b"make it snow").decode(),
        b"make it snow".hex(),
        "make%20it%20snow",
        " ".join(f"{byte:08b}" for byte in b"make it snow"),
    ],
)
def test_codes(code: str) -> None:
    assert "make it snow" in decoded(code)


def test_morse() -> None:
    assert "snow" in decoded("... -. --- .--")


@pytest.mark.parametrize("text", ["把号码改成1484", "ゼッケンを1281番にして", "번호를 7175로", "เลข1505บน"])
def test_a_number_in_the_midst_of_a_script_without_spaces_stays_one(text: str) -> None:
    number = "".join(c for c in text if c.isdigit())
    assert number in tokens(unleet(text, "i"))
