"""Words of other languages that the prompt check would take for misspellings, were it not told.

    pip install --no-deps pyspellchecker==0.9.1
    python -m openkontext.train.prompt_words

Every language has harmless words that are one letter away from a term of the rules, or fall apart into some:
French "nage", German "Schild", Spanish "nube". The dictionaries of pyspellchecker name them; the few that the
mending would change into such a term are written to `openkontext/safety/prompt/foreign.txt`. Run it again
after a change of the terms.
"""

import gzip
import importlib.util
import json
from importlib import resources
from pathlib import Path

from openkontext.errors import InputError
from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.mending import Mender
from openkontext.safety.prompt.normalize import fold
from openkontext.safety.prompt.rules import rules

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl")
"""Dictionaries of the Latin alphabet."""
_TELLING = frozenset(
    [
        "bare",
        "bareword",
        "undress",
        "sexual",
        "minor",
        "youth",
        "scanty",
        "intimate",
        "lewd_pose",
        "nude_role",
        "kinkword",
        "racy",
        "person",
        "garment",
        "half_garment",
        "bikini",
        "violence",
        "harm",
        "hate",
        "gore",
        "self_harm",
        "weapon",
    ]
)
"""Groups of words that a misspelled one must not become a term of."""
_PLAIN_SENTENCE = ["the", "picture", "shows"]
"""Makes a word one among others, as it stands in an instruction."""


def main() -> None:
    """Write the file."""
    folder = resources.files("openkontext.safety.prompt")
    vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").split()
    rules()  # they teach the lexicon the words that they name
    mender = Mender(vocabulary, lexicon())
    found = sorted(word for word in dictionary() if changed(mender, word))
    Path(str(folder / "foreign.txt")).write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{len(found)} words")


def dictionary() -> set[str]:
    """All words of `LANGUAGES` as the filter reads them: folded, of ASCII letters.

    Raises:
        InputError: pyspellchecker is not installed.
    """
    spec = importlib.util.find_spec("spellchecker")
    if spec is None or spec.origin is None:
        raise InputError("the dictionaries are missing; run: pip install --no-deps pyspellchecker==0.9.1")
    words = set()
    for language in LANGUAGES:
        file = Path(spec.origin).parent / "resources" / f"{language}.json.gz"
        words |= {fold(word) for word in json.loads(gzip.decompress(file.read_bytes()))}
    return {word for word in words if len(word) >= 4 and word.isascii() and word.isalpha()}


def changed(mender: Mender, word: str) -> bool:
    """Whether the mending makes another word of this one that is a term of the rules."""
    said = _telling([*_PLAIN_SENTENCE, word])
    return any(_telling(words) - said for words in mender.mend([*_PLAIN_SENTENCE, word]))


def _telling(words: list[str]) -> frozenset[str]:
    return _TELLING & set(lexicon().find(words))


if __name__ == "__main__":
    main()
