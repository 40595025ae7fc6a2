"""An operator's words: which disguises the rule undoes, and which harmless instructions it refuses.

    python benchmarks/word_rule.py [--words 400] [--missed]

Disguises are those of `openkontext redteam`. Harmless instructions are the benign ones of the prompt check's
suites. Each is held against lists of ordinary words that it does not hold. Near words are those of the
dictionary at one edit from a listed word, and those that begin or end with it.
"""

import argparse
import random
import sys
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from prompt_suites import NEAR_EDGE, benign

from openkontext.redteam.attacks.converters import CONVERTERS
from openkontext.redteam.attacks.words import disguised
from openkontext.safety.prompt.mending import mender, one_edit
from openkontext.safety.prompt.normalize import fold, tokens
from openkontext.safety.prompt.word_list import EVERYWHERE, WordList

LISTED = (
    *("star", "purple", "violet", "lilac", "pentagram", "dragon", "castle"),
    *("rifle", "cigarette", "balloon", "acmeola", "zorblax"),
)
"""Single words whose disguises are tried; the last two are in no dictionary."""
FRAMES = ("please put a red {} in the sky", "turn it into a {}", "{} instead of the house")
_COMMON = 12000
"""Words of the vocabulary that lists are drawn from: the most frequent ones."""
_PER_LIST = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=400, help="ordinary words that are listed in turns")
    parser.add_argument("--missed", action="store_true", help="list what is missed or refused wrongly")
    options = parser.parse_args()
    text = (resources.files("openkontext.safety.prompt") / "vocabulary.txt").read_text("utf-8")
    vocabulary = text.split()

    missed = {name: [word for word in LISTED if not _undone(word, name)] for name in CONVERTERS}
    print(f"{'disguise':20}undone, of {len(LISTED)} words in {len(FRAMES)} sentences")
    for name, words in missed.items():
        print(f"{name:20}{len(LISTED) - len(words):3}  {', '.join(words)}")

    rng = random.Random(0)
    listed = rng.sample(
        [word for word in vocabulary[1000:_COMMON] if len(word) > 3 and word not in EVERYWHERE], options.words
    )
    instructions = [p.text for suite in ("development", NEAR_EDGE) for p in benign(suite, 1500)]
    wrong, asked = [], 0
    for at in range(0, len(listed), _PER_LIST):
        rule = WordList("list", listed[at : at + _PER_LIST])
        for instruction in instructions[at // _PER_LIST :: len(listed) // _PER_LIST]:
            if not _names(instruction, rule):
                asked += 1
                wrong += [(instruction, rule.words)] if rule.holds(instruction) else []
    print(f"harmless instructions, with lists of {_PER_LIST} words: {len(wrong)} of {asked} refused")

    wrong_words, near = [], 0
    for word in LISTED:
        rule = WordList("list", [word])
        for other in vocabulary:
            if (one_edit(word, other) or word in other) and not _names(other, rule):
                near += 1
                wrong_words += [(word, other)] if rule.holds(f"make it a {other}") else []
    print(f"words near a listed one: {len(wrong_words)} of {near} refused")
    if options.missed:
        print(*wrong, *wrong_words, sep="\n")


def _undone(word: str, disguise: str) -> bool:
    rule = WordList("list", [word])
    return all(rule.holds(disguised(frame.format(word), (word,), disguise)) for frame in FRAMES)


def _names(text: str, rule: WordList) -> bool:
    """Whether a text holds a listed word, or its plural, as it is written."""
    said = tokens(fold(text))
    return any(word in said or f"{word}s" in said or f"{word}es" in said for word in rule.words)


if __name__ == "__main__":
    assert mender()  # opened before anything is measured
    main()
