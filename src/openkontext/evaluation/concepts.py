"""Concepts: what a model shall be unable to produce, and the words to ask for it.

A concept is a TOML file: what it is, how the judge tells it, and words for it that do not name it. Three are
shipped (`SHIPPED`), all harmless: a shape, a color and a style of the drawn scenes.

How other rooms use it:

    concept = Concept.load("star")                       # or the path of a file
    cases = draw_concept_cases(concept, seed=0, count=50)      # of `concept_cases`: so many of each route
    for case in cases:
        output = editor.edit(
            case.before, case.instruction, reference_images=case.references, seed=case.index
        )
        finding = case.judge(np.asarray(output.image))    # finding.holds: the output shows the concept

A case keeps what was asked as data (`case.edit`), so that an attack may put its words in any other way, give
the picture in any other form, and judge the output with the same `case.judge`. `case.truth` is the picture
that a model without any inhibition should give.

Words and scenes come in three splits that share nothing. "training" is for what trains, "attack" for what is
tried between two rounds of training, and "test" for tables alone.
"""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from openkontext.data.edits import Edit
from openkontext.data.palette import COLORS
from openkontext.data.scenes import Scene, Thing
from openkontext.data.styles import STYLES
from openkontext.data.things import GROUND_THINGS, SHAPES, SKY_THINGS, UNSEEN_THINGS
from openkontext.errors import InputError
from openkontext.toml_file import checked_table, read_toml

SHIPPED = ("star", "purple", "pencil")
"""Names of the concepts that come with the package."""

ROUTES = ("direct", "paraphrase", "misspelling", "description", "picture", "reference")
"""Ways to a concept: by its name, by words around its name, by its name misspelled, by what it looks like, by
a change of a picture that holds it, and from a reference picture."""

SPLITS = ("training", "attack", "test")
"""What words and scenes are for; no two splits share any."""

Split = Literal["training", "attack", "test"]
Trait = Literal["shape", "color", "style"]

_FOLDER = Path(__file__).with_name("concept_files")


def _usable(words: str) -> str:
    """Words that can stand in an instruction."""
    if not words.strip():
        raise ValueError("are no words")
    try:
        named = {name for _, name, *_ in string.Formatter().parse(words) if name is not None}
        words.format(color="")
    except (ValueError, LookupError, AttributeError):
        named = {""}
    if named - {"color"}:
        raise ValueError("may hold {color} and no other braces")
    return words


_Words = Annotated[tuple[Annotated[str, AfterValidator(_usable)], ...], Field(min_length=1)]
_VALUES: dict[Trait, tuple[str, ...]] = {
    "shape": (*SHAPES, *UNSEEN_THINGS),
    "color": tuple(COLORS),
    "style": STYLES[1:],
}


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConceptWords:
    """Words of one split that stand for a concept where an instruction names it."""

    paraphrase: _Words
    """Words that hold its name or a synonym. {color} stands for the color of a thing."""
    description: _Words
    """What it looks like, without its name."""


@dataclass(frozen=True)
class Concept:
    """What a model shall be unable to produce."""

    name: str
    what: str
    """In plain words."""
    harmless: bool
    """Whether its pictures may be shown in a report."""
    trait: Trait
    """What the judge looks at."""
    value: str
    """The shape, color or style that is the concept."""
    anchor: str
    """A neighbor of the same trait, for methods that map the concept to another one."""
    words: dict[Split, ConceptWords]

    @classmethod
    def load(cls, name: str | Path) -> "Concept":
        """Read a concept.

        Args:
            name: one of `SHIPPED`, or the path of a TOML file.

        Raises:
            InputError: there is none, it has no cases, or a key or value in it is not known.
        """
        path = _FOLDER / f"{name}.toml" if name in SHIPPED else Path(name)
        missing = f"there is no concept {str(name)!r}: give {', '.join(SHIPPED)} or the path of a TOML file"
        return cls._of(path, read_toml(path, "concept", missing))

    @classmethod
    def _of(cls, path: Path, table: dict[str, Any]) -> "Concept":
        traits = [trait for trait in _VALUES if trait in table]
        if len(traits) != 1:
            raise InputError(f"{path}: give one of {', '.join(_VALUES)}, by which the judge tells it")
        if not table.get("words"):
            raise InputError(f"{path}: has no cases: give [words.training], [words.attack] and [words.test]")
        read = checked_table(path, _File, table)
        values = _VALUES[traits[0]]
        for key, value in ((traits[0], getattr(read, traits[0])), ("anchor", read.anchor)):
            if value not in values:
                raise InputError(f"{path}: {key} = {value!r} is not known; choose of {', '.join(values)}")
        if read.anchor == getattr(read, traits[0]):
            raise InputError(f"{path}: anchor is the concept itself; choose another {traits[0]}")
        return cls(
            read.name,
            read.what,
            read.harmless,
            traits[0],
            getattr(read, traits[0]),
            read.anchor,
            {"training": read.words.training, "attack": read.words.attack, "test": read.words.test},
        )

    def others(self) -> tuple[str, ...]:
        """The other shapes, colors or styles; of shapes those that hang or stand as it does."""
        values = _VALUES[self.trait]
        if self.trait == "shape":
            values = tuple(GROUND_THINGS if self.value in GROUND_THINGS else SKY_THINGS)
        return tuple(value for value in values if value != self.value)

    def concerns(self, edit: Edit) -> bool:
        """Whether an edit has to do with the concept: it is in a picture before, after or in between."""
        edits = (edit, *edit.parts)
        scenes = [scene for each in edits for scene in (each.before, each.after)]
        things = [thing for each in edits for thing in (each.subject, each.result)]
        return any(map(self.is_in, scenes)) or any(thing and self.is_in(thing) for thing in things)

    def is_in(self, what: Scene | Thing) -> bool:
        """Whether a scene or a thing holds the concept."""
        if isinstance(what, Thing):
            return {"shape": what.shape, "color": what.color}.get(self.trait) == self.value
        if self.trait == "style":
            return what.style == self.value
        return any(map(self.is_in, what.things))


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _AllWords:
    training: ConceptWords
    attack: ConceptWords
    test: ConceptWords


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _File:
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 _-]*$", max_length=60)]
    what: Annotated[str, Field(min_length=1)]
    harmless: bool
    anchor: str
    words: _AllWords
    shape: str | None = None
    color: str | None = None
    style: str | None = None
