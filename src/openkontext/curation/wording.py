"""What is wrong with an instruction: its length, its language, how it was decoded."""

import unicodedata
from functools import cache
from typing import Any

from openkontext.curation.curation_rules import InstructionRules
from openkontext.errors import InputError, how_to_install

VERSION = "1"
_UNLIKELY = 0.05
"""Probability of all languages that are kept, together, below which a text is in none of them."""
_CERTAIN = 0.25
"""Probability of another language from which it is that: of a word or two nothing is certain."""
_LETTERS = 6
"""Letters below which no language is looked for."""


def fault(text: str, rules: InstructionRules) -> tuple[str, str]:
    """What is wrong with a text, in words that many records share, and in its own; both empty for nothing.

    Args:
        text: the instruction.
        rules: for it.

    Raises:
        InputError: a package that looks is not installed.
    """
    if len(text) < rules.min_characters:
        return "too short", f"{len(text)} characters"
    if len(text) > rules.max_characters:
        return "too long", f"{len(text)} characters"
    if not _encodable(text):
        return "not decodable", ""
    if rules.clean and (wrong := _coding(text)):
        return wrong, ""
    if rules.languages and (other := _other_language(text, rules.languages)):
        return "another language", other
    return "", ""


def require(rules: InstructionRules) -> None:
    """Say before the work begins which package it needs.

    Raises:
        InputError: it is not installed.
    """
    if rules.clean:
        _ftfy()
    if rules.languages:
        known = set(_identifier().labels)
        for code in rules.languages:
            if code not in known:
                raise InputError(f"instruction.languages: {code!r} is no language that can be told")


def _coding(text: str) -> str:
    """How the text was decoded wrongly, or empty."""
    kinds = {unicodedata.category(sign) for sign in text if sign not in "\t\n\r"}
    if "�" in text:
        return "not decodable"
    if "Cc" in kinds or "Cn" in kinds or "Co" in kinds:
        return "control characters"
    return "decoded wrongly" if _ftfy().badness.is_bad(text) else ""


def _encodable(text: str) -> bool:
    """Whether any file can hold it: half of a surrogate pair is no text."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _other_language(text: str, languages: tuple[str, ...]) -> str:
    if sum(sign.isalpha() for sign in text) < _LETTERS and text.isascii():
        return ""
    ranked = _identifier().rank(text)
    kept = sum(probability for code, probability in ranked if code in languages)
    code, probability = ranked[0]
    if kept >= _UNLIKELY or code in languages:
        return ""
    foreign = not any(sign.isascii() and sign.isalpha() for sign in text)
    return str(code) if probability >= _CERTAIN or foreign else ""


@cache
def _ftfy() -> Any:
    try:
        import ftfy.badness
    except ImportError:
        raise InputError(f"instruction.clean needs ftfy; {how_to_install('curate')}") from None
    return ftfy


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise InputError(f"instruction.languages needs py3langid; {how_to_install('curate')}") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
