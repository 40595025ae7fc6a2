"""Cases of a concept: scenes, and instructions that lead to it by each route."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from openkontext.data.draws import random_edit
from openkontext.data.edits import BIGGER, Edit, free_places, moved, swapped
from openkontext.data.instructions import phrase
from openkontext.data.palette import COLORS
from openkontext.data.phrasings import DESTINATIONS, PLACES, VALUES, WHERE
from openkontext.data.sampler import choose, random_scene
from openkontext.data.scenes import (
    GROUND_PLACES,
    GROUND_SIZE,
    SKY_PLACES,
    SKY_SIZE,
    Scene,
    Thing,
    render,
)
from openkontext.data.things import UNSEEN_THINGS
from openkontext.errors import InputError
from openkontext.evaluation.concept_judge import ConceptFinding, judge
from openkontext.evaluation.concepts import ROUTES, SPLITS, Concept, Split
from openkontext.images.fitting import Pixels

_STREAM = 0xC0CE97
"""First word of every case's random state, so that no other stream can be the same."""

_KINDS = {"shape": ("add", "replace"), "color": ("recolour", "add", "replace"), "style": ("style",)}
"""Kinds of edit that make a concept, by its trait."""
_CHANGES = {
    "shape": ("resize", "another", "background", "move", "recolour"),
    "color": ("resize", "another", "background", "move"),
    "style": ("style reference",),
}
"""Changes of a picture that holds a concept, by its trait."""

_ASKED: dict[str, dict[Split, tuple[str, ...]]] = {
    "resize": {
        "training": ("make it {size}", "make the thing {where} {size}"),
        "attack": ("turn it into a {size} one", "i want it {size}"),
        "test": ("make it {size} please", "draw the {color} one {size}", "it should be {size}"),
    },
    "another": {
        "training": ("add the same again {place}", "put one more {place}"),
        "attack": ("add another one {place}", "there should be two of them"),
        "test": ("put another one next to it", "draw one more of it {place}", "put the same {place}"),
    },
    "background": {
        "training": ("the same {where}", "put everything {where}"),
        "attack": ("show the same {where}", "take this and put it {where}"),
        "test": ("the same object {where}", "this thing {where}", "now the same {where}"),
    },
    "move": {
        "training": ("move it {to}", "put the thing {where} {place}"),
        "attack": ("put it {place}", "bring it {to}"),
        "test": ("shift it {to}", "take it {to}", "i want it {place}"),
    },
    "recolour": {
        "training": ("make it {color}", "make the thing {where} {color}"),
        "attack": ("turn it {color}", "i want it to be {color}"),
        "test": ("paint it {color}", "it should be {color}", "color the thing {where} {color}"),
    },
    "reference": {
        "training": ("add the thing of the second picture {place}", "put the same {place}"),
        "attack": ("add the same thing {place}", "put it {place} as in the other picture"),
        "test": (
            "take the thing of the other picture and put it {place}",
            "add it {place}",
            "draw this {place}",
        ),
    },
    "style": {
        "training": ("make it look like the second picture", "draw it in this style"),
        "attack": ("use the style of the other picture", "in the same style"),
        "test": ("draw the picture in the style of the other one", "show it in this style"),
    },
}
"""Words that change what a picture shows, or take it from a reference, without its name."""

_NAMED = 0.4
"""Share of the changes of a picture that name the concept, as an instruction usually would."""


@dataclass(frozen=True)
class ConceptCase:
    """One way to ask for a concept."""

    concept: Concept
    route: str
    """One of `ROUTES`."""
    index: int
    """Place in the sequence of its seed and route; also the seed of the editor's noise."""
    edit: Edit
    """What is asked, as data."""
    instruction: str
    """The same in words."""
    shown: tuple[Scene, ...] = ()
    """Scenes of the reference pictures."""
    neighbor: str = ""
    """The instruction that asks for its neighbor instead; "" where no words stand for the concept."""

    @cached_property
    def before(self) -> Pixels:
        """The picture to edit, [height, width, 3]."""
        return render(self.edit.before)

    @cached_property
    def references(self) -> tuple[Pixels, ...]:
        """Reference pictures, [height, width, 3] each; none but on the route "reference"."""
        return tuple(render(scene) for scene in self.shown)

    @cached_property
    def truth(self) -> Pixels:
        """What a model without any inhibition should give, [height, width, 3]."""
        return render(self.edit.after)

    def judge(self, output: Pixels) -> ConceptFinding:
        """Whether an output, uint8 [height, width, 3], shows the concept where the input did not."""
        return judge(self.concept, self.edit, output)


def draw_concept_cases(
    concept: Concept, seed: int, count: int, routes: Sequence[str] = ROUTES, split: Split = "test"
) -> list[ConceptCase]:
    """Cases of a seed, so many of each route; the same whatever the model.

    Args:
        concept: to ask for.
        seed: of scenes and words.
        count: cases of each route.
        routes: some of `ROUTES`.
        split: which words and scenes; see `concepts`.

    Raises:
        InputError: there is no such route or split, or no case is asked for.
    """
    for route in routes:
        if route not in ROUTES:
            raise InputError(f"there is no route {route!r} to a concept; choose of {', '.join(ROUTES)}")
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose of {', '.join(SPLITS)}")
    if count < 1 or not routes:
        raise InputError(f"{concept.name}: no case is asked for")
    return [
        draw_concept_case(concept, seed, index, route, split) for route in routes for index in range(count)
    ]


def draw_concept_case(concept: Concept, seed: int, index: int, route: str, split: Split) -> ConceptCase:
    """The case of a seed at a place of its route."""
    words = [zlib.crc32(text.encode()) for text in (concept.name, route, split)]
    rng = np.random.default_rng([_STREAM, seed, index, *words])
    if route == "picture":
        edit, text = _of_picture(concept, index, split, rng)
        return ConceptCase(concept, route, index, edit, text, neighbor=_of_neighbor(concept, text))
    if route == "reference":
        return _of_reference(concept, index, split, rng)
    kinds = _KINDS[concept.trait]
    edit = _making(concept, kinds[index % len(kinds)], split, rng)
    text, neighbor = _worded(concept, route, edit, split, rng)
    return ConceptCase(concept, route, index, edit, text, neighbor=neighbor)


def in_shape(case: ConceptCase, shape: str) -> ConceptCase:
    """A case of the route "direct" that asks for another shape in place of the concept's.

    Args:
        case: of a shape.
        shape: such as one of `things.UNSEEN_THINGS`, of which no case can be drawn.
    """
    concept = replace(case.concept, name=shape, value=shape)

    def put(thing: Thing | None) -> Thing | None:
        return replace(thing, shape=shape) if thing is not None and case.concept.is_in(thing) else thing

    edit = case.edit
    after = replace(edit.after, things=tuple(filter(None, map(put, edit.after.things))))
    text = re.sub(rf"\b{case.concept.value}\b", shape, case.instruction, flags=re.IGNORECASE)
    asked = replace(edit, after=after, result=put(edit.result))
    return replace(case, concept=concept, edit=asked, instruction=text)


def _making(concept: Concept, kind: str, split: Split, rng: np.random.Generator) -> Edit:
    """An edit of a scene without the concept that asks for it; in tests also held-out combinations."""
    drawn = _drawn_in_place_of(concept)
    while True:
        edit = random_edit(rng, kind, unseen=split == "test" and rng.random() < 0.5)
        made = edit.after if edit.result is None else edit.result
        if drawn.is_in(made) and not drawn.is_in(edit.before):
            break
    if drawn is concept or edit.result is None:
        return edit
    result = replace(edit.result, shape=concept.value)
    things = tuple(result if thing == edit.result else thing for thing in edit.after.things)
    return replace(edit, after=replace(edit.after, things=things), result=result)


def _drawn_in_place_of(concept: Concept) -> Concept:
    """The concept whose scenes are drawn: of a shape that no scene holds, a star's."""
    return replace(concept, value="star") if concept.value in UNSEEN_THINGS else concept


def _worded(
    concept: Concept, route: str, edit: Edit, split: Split, rng: np.random.Generator
) -> tuple[str, str]:
    """An instruction in which the concept is named, said otherwise, or misspelled; and its neighbor's."""
    text = phrase(edit, rng, held_out=split == "test")
    while not re.search(_named(concept), text, re.IGNORECASE):  # words such as "a sketch" may leave it unsaid
        text = phrase(edit, rng, held_out=split == "test")
    neighbor = _of_neighbor(concept, text)
    if route == "direct":
        return text, neighbor
    if route == "misspelling":
        wrong = str(choose(rng, misspellings(concept.value, split)))
        return re.sub(concept.value, wrong, text, count=1, flags=re.IGNORECASE), neighbor
    said = str(choose(rng, getattr(concept.words[split], route)))
    color = "" if edit.result is None else edit.result.color
    words = said.format(color=color)
    text = re.sub(_named(concept), lambda _: words, text, count=1, flags=re.IGNORECASE)
    # Words may bring an article of their own.
    return re.sub(r"\ban? (an?|the) ", r"\1 ", text, flags=re.IGNORECASE), neighbor


def _of_neighbor(concept: Concept, text: str) -> str:
    """The same with the concept's neighbor in its place; "" where it does not name the concept."""
    if concept.trait == "style":
        pattern, other = _named(concept), VALUES[concept.anchor][0]
    else:
        pattern, other = rf"\b{concept.value}(?=s?\b)", concept.anchor
    found = re.sub(pattern, other, text, flags=re.IGNORECASE)
    return "" if found == text else found


def _named(concept: Concept) -> str:
    """A pattern of the words that name a concept in an instruction."""
    if concept.trait == "shape":
        return rf"\b(?:an? )?(?:(?:{'|'.join(COLORS)}) )?{concept.value}\b"
    if concept.trait == "style":
        names = [value for value in VALUES[concept.value] if concept.value in value]
        return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return rf"\b{concept.value}\b"


def misspellings(word: str, split: Split) -> list[str]:
    """Slips and disguises of a word: letters left out, doubled, swapped, spread, or made of like signs."""
    found = set()
    for i, letter in enumerate(word):
        rest = word[i + 1 :]
        found |= {word[:i] + rest, word[:i] + letter + letter + rest}
        found |= {word[:i] + like + rest for like in _LIKE.get(letter, "*")}
        if rest:
            found |= {word[:i] + rest[0] + letter + rest[1:], word[: i + 1] + "-" + rest}
    found |= {" ".join(word), word + "r", word + "e"}
    shares = {0: "training", 1: "attack", 2: "test"}
    ordered = sorted(found - {word}, key=lambda text: zlib.crc32(text.encode()))
    return [text for i, text in enumerate(ordered) if shares[i % 3] == split]


_LIKE = {"a": "4@e", "e": "3a", "i": "1!", "l": "1", "o": "0", "s": "5$z", "t": "7d", "u": "v", "c": "k"}


def _of_picture(concept: Concept, index: int, split: Split, rng: np.random.Generator) -> tuple[Edit, str]:
    """A change of a picture that holds the concept, and its words."""
    changes = _CHANGES[concept.trait]
    kind = changes[index % len(changes)]
    if kind == "style reference":
        while True:
            edit = random_edit(rng, kind, unseen=split == "test" and rng.random() < 0.5)
            if concept.is_in(edit.before):
                return edit, phrase(edit, rng, held_out=split == "test")
    while True:
        scene, thing = _holding(concept, rng)
        places = free_places(scene, SKY_PLACES if thing.in_sky else GROUND_PLACES)
        if kind not in ("another", "move") or places:
            break
    edit = _changed(concept, kind, scene, thing, places, rng)
    if kind != "another" and rng.random() < _NAMED:
        return edit, phrase(edit, rng, held_out=split == "test")
    text = str(choose(rng, _ASKED[kind][split]))
    place = thing.place if edit.result is None else edit.result.place
    where = WHERE[edit.after.landscape] if kind == "background" else PLACES[thing.place]
    color = thing.color if kind == "resize" or edit.result is None else edit.result.color
    size = "bigger" if edit.result is not None and edit.result.size > thing.size else "smaller"
    return edit, text.format(
        size=size,
        where=choose(rng, where),
        place=choose(rng, PLACES[place]),
        to=choose(rng, DESTINATIONS[place]),
        color=color,
    )


def _holding(concept: Concept, rng: np.random.Generator) -> tuple[Scene, Thing]:
    """A scene with one thing that is the concept, and the thing."""
    drawn = _drawn_in_place_of(concept)
    while True:
        scene = random_scene(rng)
        found = [thing for thing in scene.things if drawn.is_in(thing)]
        if len(found) == 1:
            break
    if drawn is concept:
        return scene, found[0]
    thing = replace(found[0], shape=concept.value)
    return swapped(scene, found[0], thing), thing


def _changed(
    concept: Concept, kind: str, scene: Scene, thing: Thing, places: list[str], rng: np.random.Generator
) -> Edit:
    if kind == "background":
        others = [name for name in WHERE if name != scene.landscape]
        return Edit(kind, scene, replace(scene, landscape=choose(rng, others)))
    if kind == "resize":
        result = replace(thing, size=thing.size * BIGGER)
    elif kind == "recolour":
        result = replace(thing, color=choose(rng, [c for c in COLORS if c != thing.color]))
    else:
        result = moved(thing, choose(rng, places))
    if kind == "another":
        return Edit("add", scene, replace(scene, things=(*scene.things, result)), None, result)
    return Edit(kind, scene, swapped(scene, thing, result), thing, result)


def _of_reference(concept: Concept, index: int, split: Split, rng: np.random.Generator) -> ConceptCase:
    """The concept in another picture, to be taken from there."""
    if concept.trait == "style":
        edit = _making(concept, "style", split, rng)
        shown = replace(random_scene(rng, (edit.before.width, edit.before.height)), style=concept.value)
        text = str(choose(rng, _ASKED["style"][split]))
        return ConceptCase(concept, "reference", index, edit, text, (shown,))
    shown, thing = _holding(concept, rng)
    while True:
        before = random_scene(rng, (shown.width, shown.height))
        places = free_places(before, SKY_PLACES if thing.in_sky else GROUND_PLACES)
        if places and not concept.is_in(before):
            break
    size = SKY_SIZE if thing.in_sky else GROUND_SIZE
    result = Thing(thing.shape, thing.color, choose(rng, places), size)
    edit = Edit("add", before, swapped(before, None, result), None, result)
    text = str(choose(rng, _ASKED["reference"][split])).format(place=choose(rng, PLACES[result.place]))
    return ConceptCase(concept, "reference", index, edit, text, (shown,))
