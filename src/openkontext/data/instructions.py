"""Instructions: an edit in words.

Some phrasings are held out of training, so that evaluation can ask in words that are known but put
differently.
"""

from collections.abc import Collection

import numpy as np

from openkontext.data.edits import IMPOSSIBLE, KINDS, Edit
from openkontext.data.phrasings import (
    DESTINATIONS,
    JOINTS,
    NUMBERS,
    OPENINGS,
    PHRASES,
    PLACES,
    SAYINGS,
    SIZES,
    VALUES,
    WHEN,
    WHERE,
)
from openkontext.data.sampler import choose
from openkontext.data.scenes import Scene, Thing
from openkontext.data.styles import STYLES


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("x") else "s")


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Words that mean this thing and no other in the scene."""
    shape = thing.shape if thing.form.count == 1 else _plural(thing.shape)
    names = [f"the {thing.color} {shape}"]
    if sum(t.shape == thing.shape for t in scene.things) <= 1:
        names += [f"the {shape}"] * 2
    names.append(f"the {shape} {PLACES[thing.place][0]}")
    return str(choose(rng, names))


def _several(thing: Thing, rng: np.random.Generator) -> str:
    """How many of a thing, such as "two red balls"."""
    count = thing.form.count
    name = thing.shape if count == 1 else _plural(thing.shape)
    color = f"{thing.color} " if rng.random() < 0.4 else ""
    return f"{NUMBERS[count - 1]} {color}{name}"


def phrase(edit: Edit, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """An instruction for an edit.

    Args:
        edit: the edit to ask for.
        rng: chooses among the phrasings.
        held_out: whether to take a phrasing that training never uses.
    """
    if len(edit.parts) == 2:
        first, second = (_words(part, rng, held_out) for part in edit.parts)
        return _dress(first + str(choose(rng, JOINTS)) + second, rng)
    return _dress(_words(edit.parts[0] if edit.parts else edit, rng, held_out), rng)


def _words(edit: Edit, rng: np.random.Generator, held_out: bool) -> str:
    """An instruction for one edit, bare."""
    words: dict[str, str] = {}
    subject, result = edit.subject, edit.result
    if subject is not None:
        words["it"] = _refer(edit.before, subject, rng)
    if result is not None:
        words["colour"] = result.color
        words["place"] = str(choose(rng, PLACES[result.place]))
        words["to"] = str(choose(rng, DESTINATIONS[result.place]))
        # A replacement that keeps the color may leave it unsaid.
        unsaid = edit.kind == "replace" and subject is not None and subject.color == result.color
        words["a"] = _article(
            result.shape if unsaid and rng.random() < 0.7 else f"{result.color} {result.shape}"
        )
    if edit.kind == "resize" and subject is not None and result is not None:
        words["size"] = str(choose(rng, SIZES[result.size > subject.size]))
    if edit.kind == "count" and result is not None:
        words["several"] = _several(result, rng)
    if edit.kind == "text" and subject is not None and result is not None:
        quote = '"' if rng.random() < 0.8 else ""
        words["old"], words["text"] = (f"{quote}{thing.form.text}{quote}" for thing in (subject, result))
    if edit.kind in ("style reference", "character reference"):
        when = WHEN[edit.after.time]
        words["where"] = str(choose(rng, WHERE[edit.after.landscape])) + when
    if subject is None and result is None:
        field = {"background": "landscape"}.get(edit.kind, edit.kind)
        value = getattr(edit.after, field)
        sayings = SAYINGS.get((edit.kind, value), ())
        if edit.kind == "season" and value == "summer":
            # What is said of summer depends on what it follows.
            sayings = sayings[:1] if edit.before.season == "autumn" else sayings
        if sayings and not held_out and rng.random() < 0.3:
            return str(choose(rng, sayings))
        words["value"] = str(choose(rng, VALUES[value]))
    return str(choose(rng, PHRASES[edit.kind][held_out])).format(**words)


def slip(text: str, rng: np.random.Generator) -> str:
    """The text with a spelling slip: one of its longer words misses a letter, or has two of them swapped."""
    words = text.split(" ")
    longer = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.islower()]
    if not longer:
        return text
    i = choose(rng, longer)
    at = int(rng.integers(1, len(words[i]) - 2))
    a, b = words[i][at : at + 2]
    words[i] = words[i][:at] + (b + a if rng.random() < 0.5 and a != b else b) + words[i][at + 2 :]
    return " ".join(words)


def _dress(text: str, rng: np.random.Generator) -> str:
    """An opening, a capital letter and a full stop, now and then."""
    if rng.random() < 0.12 and not text.startswith(
        ("the ", "i ", "there ", "in ", "at ", "on ", "without ", "now ", "a ", "an ", "this ")
    ):
        text = str(choose(rng, OPENINGS)) + text
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.2 else text


def describe(scene: Scene, rng: np.random.Generator, most: int = 3) -> str:
    """What a picture shows, in words: the prompt that would make it from nothing.

    Args:
        scene: the scene, in color.
        rng: chooses among the phrasings, and what to leave unsaid.
        most: things named at most, as many as the text encoders have room for.
    """
    words = [str(choose(rng, VALUES[scene.landscape]))]
    words += (
        [f"in {choose(rng, VALUES[scene.season])}"] if scene.season != "summer" or rng.random() < 0.3 else []
    )
    words += [f"at {choose(rng, VALUES[scene.time])}"] if scene.time != "day" or rng.random() < 0.3 else []
    things = [scene.things[i] for i in rng.permutation(len(scene.things))[:most]]
    named = [f"{_article(f'{t.color} {t.shape}')} {PLACES[t.place][t.in_sky]}" for t in things]
    return _dress(f"{' '.join(words)} with {' and '.join(named)}", rng)


def every_word(kinds: Collection[str] = KINDS) -> list[str]:
    """All words that the instructions of these kinds can use, sorted; what a sign says is none of them."""
    from openkontext.data.palette import COLORS
    from openkontext.data.things import SHAPES

    texts: list[str] = [*COLORS, *SHAPES, *OPENINGS, "a an the please"]
    texts += [p for kind in kinds if kind in PHRASES for group in PHRASES[kind] for p in group]
    texts += [p for (kind, _), group in SAYINGS.items() if kind in kinds for p in group]
    styles = STYLES if "style" in kinds else ()
    texts += [p for value, group in VALUES.items() if value not in STYLES or value in styles for p in group]
    texts += [p for table in (PLACES, DESTINATIONS) for group in table.values() for p in group]
    if "resize" in kinds or IMPOSSIBLE in kinds:
        texts += [size for sizes in SIZES.values() for size in sizes]
    if "count" in kinds:
        texts += [*NUMBERS, *map(_plural, SHAPES)]
    if "two parts" in kinds:
        texts += [joint.strip(" ,") for joint in JOINTS]
    if "style reference" in kinds or "character reference" in kinds:
        texts += [*(p for group in WHERE.values() for p in group), *WHEN.values()]
    return sorted({w for text in texts for w in text.split() if not w.startswith("{")})
