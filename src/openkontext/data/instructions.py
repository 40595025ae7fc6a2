"""Instructions: an edit in words.

Some phrasings are held out of training, so that evaluation can ask in words that are known but put
differently.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from openkontext.data.edits import IMPOSSIBLE, KINDS, Edit
from openkontext.data.sampler import choose
from openkontext.data.scenes import Scene, Thing
from openkontext.data.styles import STYLES

#: Phrasings by kind: those that training uses, and those held out of it. {it} names the thing, {a} the thing
#: asked for ("a red ball"), {new} its shape or its colour and shape, {colour}, {place}, {value} the rest.
_PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "recolour": (
        (
            "make {it} {colour}",
            "turn {it} {colour}",
            "paint {it} {colour}",
            "colour {it} {colour}",
            "color {it} {colour}",
            "recolour {it} {colour}",
            "change {it} to {colour}",
            "change the colour of {it} to {colour}",
            "change the color of {it} to {colour}",
            "{it} should be {colour}",
            "i want {it} to be {colour}",
            "make the colour of {it} {colour}",
        ),
        ("turn the colour of {it} to {colour}", "paint {it} in {colour}", "{it} in {colour}"),
    ),
    "replace": (
        (
            "replace {it} with {a}",
            "turn {it} into {a}",
            "change {it} into {a}",
            "change {it} to {a}",
            "swap {it} for {a}",
            "exchange {it} for {a}",
            "put {a} instead of {it}",
            "put {a} in place of {it}",
            "i want {a} instead of {it}",
            "make {it} {a}",
            "{it} should be {a}",
        ),
        ("swap {it} with {a}", "replace {it} by {a}", "{a} instead of {it}"),
    ),
    "remove": (
        (
            "remove {it}",
            "delete {it}",
            "erase {it}",
            "take {it} away",
            "take away {it}",
            "take out {it}",
            "get rid of {it}",
            "make {it} disappear",
            "remove {it} from the picture",
            "i do not want {it}",
            "without {it}",
        ),
        ("delete {it} from the picture", "take {it} out of the picture", "i want the picture without {it}"),
    ),
    "add": (
        (
            "add {a} {place}",
            "put {a} {place}",
            "place {a} {place}",
            "draw {a} {place}",
            "insert {a} {place}",
            "{place} add {a}",
            "{place} put {a}",
            "there should be {a} {place}",
            "i want {a} {place}",
            "add {a} to the picture {place}",
        ),
        ("{place} there should be {a}", "i want to add {a} {place}", "draw {a} to the picture {place}"),
    ),
    "move": (
        (
            "move {it} {to}",
            "put {it} {place}",
            "place {it} {place}",
            "shift {it} {to}",
            "bring {it} {to}",
            "move {it} over {to}",
            "{it} should be {place}",
            "i want {it} {place}",
        ),
        ("shift {it} over {to}", "i want {it} to move {to}", "take {it} {to}"),
    ),
    "background": (
        (
            "change the background to {value}",
            "replace the background with {value}",
            "replace the background by {value}",
            "make the background {value}",
            "put everything in {value}",
            "move everything to {value}",
            "set the scene in {value}",
            "put the scene in {value}",
            "the background should be {value}",
            "now in {value}",
            "i want {value} in the background",
        ),
        ("swap the background for {value}", "move the scene to {value}", "turn the background into {value}"),
    ),
    "season": (
        (
            "make it {value}",
            "change the season to {value}",
            "turn it into {value}",
            "now in {value}",
            "show it in {value}",
            "it should be {value}",
            "i want it to be {value}",
            "set the scene in {value}",
        ),
        ("turn the season to {value}", "show the scene in {value}", "change it to {value}"),
    ),
    "time": (
        (
            "make it {value}",
            "change the time to {value}",
            "change the time of day to {value}",
            "turn it into {value}",
            "show it at {value}",
            "it should be {value}",
            "i want it to be {value}",
            "now at {value}",
        ),
        ("turn the time of day to {value}", "show the scene at {value}", "change it to {value}"),
    ),
    "look": (
        (
            "make it {value}",
            "make the picture {value}",
            "make the whole picture {value}",
            "turn the picture {value}",
            "turn it {value}",
            "change the picture to {value}",
            "the picture should be {value}",
            "i want it {value}",
            "show it in {value}",
        ),
        ("change it to {value}", "i want the picture {value}", "the whole picture in {value}"),
    ),
    "resize": (
        (
            "make {it} {size}",
            "{it} should be {size}",
            "i want {it} {size}",
            "i want {it} to be {size}",
            "change the size of {it} and make it {size}",
            "draw {it} {size}",
            "turn {it} into a {size} one",
        ),
        ("i want to make {it} {size}", "show {it} {size}", "make the size of {it} {size}"),
    ),
    "count": (
        (
            "turn {it} into {several}",
            "replace {it} with {several}",
            "there should be {several} instead of {it}",
            "i want {several} instead of {it}",
            "change {it} to {several}",
            "put {several} in place of {it}",
            "make {it} {several}",
            "draw {several} instead of {it}",
        ),
        ("swap {it} for {several}", "put {several} instead of {it}", "change {it} into {several}"),
    ),
    "text": (
        (
            "change the sign to {text}",
            "make the sign say {text}",
            "write {text} on the sign",
            "put {text} on the sign",
            "the sign should say {text}",
            "replace {old} with {text}",
            "change {old} to {text}",
            "let the sign say {text}",
            "i want the sign to say {text}",
            "change the text on the sign to {text}",
        ),
        ("make the text on the sign {text}", "i want {text} on the sign", "turn {old} into {text}"),
    ),
    "style": (
        (
            "make it {value}",
            "turn it into {value}",
            "turn the picture into {value}",
            "draw it as {value}",
            "show it as {value}",
            "make the picture look like {value}",
            "make it look like {value}",
            "the picture should be {value}",
        ),
        ("change the picture into {value}", "draw the picture as {value}", "it should look like {value}"),
    ),
    "style reference": (
        (
            "draw {a} {where} in this style",
            "{a} {where} in the same style",
            "in this style draw {a} {where}",
            "make {a} {where} in the style of this picture",
            "use this style to draw {a} {where}",
            "paint {a} {where} in this style",
            "i want {a} {where} in this style",
        ),
        (
            "show {a} {where} in this style",
            "in the same style draw {a} {where}",
            "paint {a} {where} in the same style",
        ),
    ),
    "character reference": (
        (
            "the same robot {where}",
            "this robot {where}",
            "show the same robot {where}",
            "draw this robot {where}",
            "now the same robot {where}",
            "put the same robot {where}",
            "i want the same robot {where}",
            "take this robot and put it {where}",
        ),
        ("show this robot {where}", "draw the same robot {where}", "i want this robot {where}"),
    ),
}

#: Whole instructions for values that also go by other words.
_SAYINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("season", "winter"): ("make it snow", "let it snow", "cover everything in snow", "add snow"),
    ("season", "autumn"): ("make it fall", "make the leaves fall"),
    ("season", "summer"): ("make it green again", "melt the snow"),
    ("time", "night"): ("turn day into night", "make it dark", "add a moon and stars"),
    ("time", "sunset"): ("let the sun go down", "make it evening"),
    ("time", "day"): ("let the sun come up", "make it bright"),
    ("look", "black and white"): (
        "remove all colour",
        "remove the colours",
        "make it grey",
        "grayscale",
        "black and white",
    ),
    ("look", "sepia"): ("make it look like an old photo", "give it a sepia tone", "sepia"),
    ("look", "inverted"): (
        "invert the colours",
        "invert the colors",
        "make it a negative",
        "turn it into a negative",
    ),
}

_VALUES: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "the meadow", "a green meadow", "a field"),
    "forest": ("a forest", "the forest", "the woods"),
    "mountains": ("the mountains", "a mountain landscape", "mountains"),
    "beach": ("a beach", "the beach", "the seaside"),
    "desert": ("a desert", "the desert", "a sandy desert"),
    "city": ("a city", "the city", "a town"),
    "pencil": ("a pencil drawing", "a pencil sketch", "a sketch"),
    "watercolour": ("a watercolour", "a watercolour painting", "a watercolor painting"),
    "pixels": ("pixel art", "pixels"),
    "comic": ("a comic", "a comic drawing", "a cartoon"),
    "blueprint": ("a blueprint", "a blueprint drawing"),
    "summer": ("summer",),
    "autumn": ("autumn", "fall"),
    "winter": ("winter",),
    "day": ("day", "daytime", "noon"),
    "sunset": ("sunset", "evening", "dusk"),
    "night": ("night", "night time", "midnight"),
    "black and white": ("black and white", "grey", "gray"),
    "sepia": ("sepia", "brown like an old photo"),
    "inverted": ("inverted", "negative"),
}

_PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left"),
    "middle": ("in the middle", "in the center", "in the centre"),
    "right": ("on the right", "on the right side", "at the right"),
    "sky left": ("in the sky on the left", "at the top left", "in the left of the sky"),
    "sky middle": ("in the sky in the middle", "at the top in the middle", "in the middle of the sky"),
    "sky right": ("in the sky on the right", "at the top right", "in the right of the sky"),
}
_DESTINATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "to the left side"),
    "middle": ("to the middle", "to the center", "to the centre"),
    "right": ("to the right", "to the right side"),
    "sky left": ("to the top left", "to the left of the sky"),
    "sky middle": ("to the top in the middle", "to the middle of the sky"),
    "sky right": ("to the top right", "to the right of the sky"),
}
#: Where something is drawn anew.
_WHERE: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "in a field"),
    "forest": ("in a forest", "in the woods"),
    "mountains": ("in the mountains", "in a mountain landscape"),
    "beach": ("at the beach", "on a beach"),
    "desert": ("in the desert", "in a sandy desert"),
    "city": ("in the city", "in a town"),
}
_WHEN = {"day": "", "sunset": " at sunset", "night": " at night"}
_SIZES = {True: ("bigger", "larger"), False: ("smaller",)}
_NUMBERS = ("one", "two", "three")
_JOINTS = (" and ", " and then ", ", then ")
_OPENINGS = ("please ", "could you ", "can you ", "now ")


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("x") else "s")


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Words that mean this thing and no other in the scene."""
    shape = thing.shape if thing.form.count == 1 else _plural(thing.shape)
    names = [f"the {thing.colour} {shape}"]
    if sum(t.shape == thing.shape for t in scene.things) <= 1:
        names += [f"the {shape}"] * 2
    names.append(f"the {shape} {_PLACES[thing.place][0]}")
    return str(choose(rng, names))


def _several(thing: Thing, rng: np.random.Generator) -> str:
    """How many of a thing, such as "two red balls"."""
    count = thing.form.count
    name = thing.shape if count == 1 else _plural(thing.shape)
    colour = f"{thing.colour} " if rng.random() < 0.4 else ""
    return f"{_NUMBERS[count - 1]} {colour}{name}"


def phrase(edit: Edit, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """An instruction for an edit.

    Args:
        edit: The edit to ask for.
        rng: Chooses among the phrasings.
        held_out: Whether to take a phrasing that training never uses.
    """
    if len(edit.parts) == 2:
        first, second = (_words(part, rng, held_out) for part in edit.parts)
        return _dress(first + str(choose(rng, _JOINTS)) + second, rng)
    return _dress(_words(edit.parts[0] if edit.parts else edit, rng, held_out), rng)


def _words(edit: Edit, rng: np.random.Generator, held_out: bool) -> str:
    """An instruction for one edit, bare."""
    words: dict[str, str] = {}
    subject, result = edit.subject, edit.result
    if subject is not None:
        words["it"] = _refer(edit.before, subject, rng)
    if result is not None:
        words["colour"] = result.colour
        words["place"] = str(choose(rng, _PLACES[result.place]))
        words["to"] = str(choose(rng, _DESTINATIONS[result.place]))
        # A replacement that keeps the colour may leave it unsaid.
        unsaid = edit.kind == "replace" and subject is not None and subject.colour == result.colour
        words["a"] = _article(
            result.shape if unsaid and rng.random() < 0.7 else f"{result.colour} {result.shape}"
        )
    if edit.kind == "resize" and subject is not None and result is not None:
        words["size"] = str(choose(rng, _SIZES[result.size > subject.size]))
    if edit.kind == "count" and result is not None:
        words["several"] = _several(result, rng)
    if edit.kind == "text" and subject is not None and result is not None:
        quote = '"' if rng.random() < 0.8 else ""
        words["old"], words["text"] = (f"{quote}{thing.form.text}{quote}" for thing in (subject, result))
    if edit.kind in ("style reference", "character reference"):
        when = _WHEN[edit.after.time]
        words["where"] = str(choose(rng, _WHERE[edit.after.landscape])) + when
    if subject is None and result is None:
        field = {"background": "landscape"}.get(edit.kind, edit.kind)
        value = getattr(edit.after, field)
        sayings = _SAYINGS.get((edit.kind, value), ())
        if edit.kind == "season" and value == "summer":
            # What is said of summer depends on what it follows.
            sayings = sayings[:1] if edit.before.season == "autumn" else sayings
        if sayings and not held_out and rng.random() < 0.3:
            return str(choose(rng, sayings))
        words["value"] = str(choose(rng, _VALUES[value]))
    return str(choose(rng, _PHRASES[edit.kind][held_out])).format(**words)


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
        text = str(choose(rng, _OPENINGS)) + text
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.2 else text


def describe(scene: Scene, rng: np.random.Generator, most: int = 3) -> str:
    """What a picture shows, in words: the prompt that would make it from nothing.

    Args:
        scene: The scene, in colour.
        rng: Chooses among the phrasings, and what to leave unsaid.
        most: Things named at most, as many as the text encoders have room for.
    """
    words = [str(choose(rng, _VALUES[scene.landscape]))]
    words += (
        [f"in {choose(rng, _VALUES[scene.season])}"] if scene.season != "summer" or rng.random() < 0.3 else []
    )
    words += [f"at {choose(rng, _VALUES[scene.time])}"] if scene.time != "day" or rng.random() < 0.3 else []
    things = [scene.things[i] for i in rng.permutation(len(scene.things))[:most]]
    named = [f"{_article(f'{t.colour} {t.shape}')} {_PLACES[t.place][t.in_sky]}" for t in things]
    return _dress(f"{' '.join(words)} with {' and '.join(named)}", rng)


def every_word(kinds: Collection[str] = KINDS) -> list[str]:
    """All words that the instructions of these kinds can use, sorted; what a sign says is none of them."""
    from openkontext.data.palette import COLOURS
    from openkontext.data.things import SHAPES

    texts: list[str] = [*COLOURS, *SHAPES, *_OPENINGS, "a an the please"]
    texts += [p for kind in kinds if kind in _PHRASES for group in _PHRASES[kind] for p in group]
    texts += [p for (kind, _), group in _SAYINGS.items() if kind in kinds for p in group]
    styles = STYLES if "style" in kinds else ()
    texts += [p for value, group in _VALUES.items() if value not in STYLES or value in styles for p in group]
    texts += [p for table in (_PLACES, _DESTINATIONS) for group in table.values() for p in group]
    if "resize" in kinds or IMPOSSIBLE in kinds:
        texts += [size for sizes in _SIZES.values() for size in sizes]
    if "count" in kinds:
        texts += [*_NUMBERS, *map(_plural, SHAPES)]
    if "two parts" in kinds:
        texts += [joint.strip(" ,") for joint in _JOINTS]
    if "style reference" in kinds or "character reference" in kinds:
        texts += [*(p for group in _WHERE.values() for p in group), *_WHEN.values()]
    return sorted({w for text in texts for w in text.split() if not w.startswith("{")})
