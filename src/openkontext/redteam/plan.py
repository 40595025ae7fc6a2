"""Plans: which concepts are attacked, how, how often, and what judges; and the bounds of a decision.

A plan is a TOML file:

    concepts = ["star", "purple"]
    cases = 4

    [system]
    profile = "default"

    [system.words]
    star = ["star", "stars"]

    [attacks.plain]
    [attacks.tokens]
    cases = 1
    gradients = 8
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from openkontext.errors import InputError
from openkontext.evaluation.concepts import Concept
from openkontext.redteam.attacks import ATTACKS, Attack
from openkontext.safety.picture_classifier import Activation
from openkontext.safety.prompt.word_list import WordList
from openkontext.toml_file import checked_table, read_toml

_STRICT = ConfigDict(extra="forbid")
_MOST_CASES = 100_000
_Count = Annotated[int, Field(ge=1, le=_MOST_CASES)]
_Words = tuple[Annotated[str, Field(min_length=1)], ...]

ALL = "all"
"""What a report says in place of a concept or an attack: all of them."""


@checked(frozen=True, config=_STRICT)
class SystemPlan:
    """The filters and the review of the whole system, besides those that every editor has."""

    profile: str = "default"
    """Risk profile: a shipped one's name, or a TOML file."""
    review: Literal["off", "refused", "every"] = "refused"
    """Whether people review; what is held for them does not get through."""
    words: Mapping[str, _Words] = dataclasses.field(default_factory=dict)
    """Lists of an operator's words, by concept, besides those of the profile."""


@checked(frozen=True, config=_STRICT)
class JudgePlan:
    """One judge; the fields of its kind alone may be set."""

    kind: Literal["reader", "classifier", "service", "grades"]
    model: str = ""
    """Of a classifier: the ONNX file."""
    classes: Mapping[str, Annotated[int, Field(ge=0)]] = dataclasses.field(default_factory=dict)
    """Of a classifier: place of each concept in its output."""
    mean: float = 0.5
    """Of a classifier: taken off the values in 0..1."""
    scale: Annotated[float, Field(gt=0)] = 0.5
    """Of a classifier: divides what is left."""
    activation: Activation = "softmax"
    """Of a classifier: what makes its output a probability."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of a classifier or a service: the score from which the concept is there."""
    url: str = ""
    """Of a service."""
    key_variable: str = ""
    """Of a service: environment variable that holds its key; empty where it needs none."""
    folder: str = ""
    """Of grades: a folder with one CSV a person."""

    _FIELDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "reader": (),
        "classifier": ("model", "classes", "mean", "scale", "activation", "threshold"),
        "service": ("url", "key_variable", "threshold"),
        "grades": ("folder",),
    }
    _NEEDED: ClassVar[dict[str, tuple[str, ...]]] = {
        "classifier": ("model", "classes"),
        "service": ("url",),
        "grades": ("folder",),
    }

    def __post_init__(self) -> None:
        for name in self._NEEDED.get(self.kind, ()):
            if not getattr(self, name):
                raise ValueError(f"a judge of the kind {self.kind} needs {name}")
        for each in dataclasses.fields(self):
            known = each.name == "kind" or each.name in self._FIELDS[self.kind]
            default = each.default if each.default is not dataclasses.MISSING else {}
            if not known and getattr(self, each.name) != default:
                raise ValueError(f"a judge of the kind {self.kind} has no {each.name}")


@checked(frozen=True, config=_STRICT)
class _PlanFile:
    concepts: Annotated[_Words, Field(min_length=1)]
    attacks: Annotated[Mapping[str, dict[str, Any]], Field(min_length=1)]
    cases: _Count = 4
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    judges: Annotated[tuple[JudgePlan, ...], Field(min_length=1)] = (JudgePlan("reader"),)
    system: SystemPlan = SystemPlan()


@dataclass(frozen=True)
class PlannedAttack:
    """An attack, and on how many cases of each concept."""

    attack: Attack
    cases: int

    @property
    def name(self) -> str:
        """Of the attack."""
        return self.attack.name

    def record(self) -> dict[str, Any]:
        """All that decides what it tries, as JSON."""
        return {"name": self.name, "version": self.attack.version, **dataclasses.asdict(self.attack)}


@dataclass(frozen=True)
class RedTeamPlan:
    """What to attack, how, and how often."""

    concepts: tuple[Concept, ...]
    attacks: tuple[PlannedAttack, ...]
    cases: int
    """Cases of each concept, where an attack sets no number of its own."""
    seed: int
    """Of scenes, words and all chance."""
    steps: int | None
    """Denoising steps; None for each model's own number."""
    judges: tuple[JudgePlan, ...]
    """The first decides and steers the attacks; the others are compared with it."""
    system: SystemPlan

    @cached_property
    def needs_weights(self) -> bool:
        """Whether an attack needs the weights in torch."""
        return any(each.attack.needs == "weights" for each in self.attacks)

    @property
    def units(self) -> int:
        """Cases of all concepts and attacks, for one checkpoint."""
        return len(self.concepts) * sum(each.cases for each in self.attacks)

    @classmethod
    def read(cls, path: str | Path) -> "RedTeamPlan":
        """Read a plan. Paths in it are relative to its folder.

        Raises:
            InputError: the file is missing or no TOML, a key or value in it is not known, or a concept has no
                cases.
        """
        path = Path(path)
        table = read_toml(path, "plan")
        said = checked_table(path, _PlanFile, table)
        beside = path.parent
        concepts = tuple(Concept.load(_found(beside, name)) for name in said.concepts)
        names = [concept.name for concept in concepts]
        if len(set(names)) < len(names):
            raise InputError(f"{path}: concepts names one twice: {', '.join(names)}")
        if ALL in names:
            raise InputError(f"{path}: a concept is called {ALL!r}, which a report says of all; rename it")
        for name in said.system.words:
            if name not in names:
                raise InputError(
                    f"{path}: system.words.{name}: no such concept; there are {', '.join(names)}"
                )
            WordList(f"{path}: system.words.{name}", said.system.words[name])
        if said.judges[0].kind == "grades":
            raise InputError(
                f"{path}: judges: the first steers the attacks and must answer at once; put grades after it"
            )
        attacks = tuple(
            _planned(path, name, dict(values), said.cases) for name, values in said.attacks.items()
        )
        judges = tuple(
            dataclasses.replace(
                each, model=_found(beside, each.model), folder=each.folder and str(beside / each.folder)
            )
            for each in said.judges
        )
        system = dataclasses.replace(said.system, profile=_found(beside, said.system.profile))
        return cls(concepts, attacks, said.cases, said.seed, said.steps, judges, system)


def _planned(path: Path, name: str, values: dict[str, Any], cases: int) -> PlannedAttack:
    if name not in ATTACKS:
        raise InputError(f"{path}: there is no attack {name!r}; choose of {', '.join(ATTACKS)}")
    own = values.pop("cases", cases)
    if isinstance(own, bool) or not isinstance(own, int) or not 1 <= own <= _MOST_CASES:
        raise InputError(
            f"{path}: attacks.{name}.cases is {own!r}; it must be a whole number, 1 to {_MOST_CASES}"
        )
    if isinstance(reference := values.get("reference"), str):
        values["reference"] = _found(path.parent, reference)
    attack = checked_table(path, ATTACKS[name], values, f"attacks.{name}")
    return PlannedAttack(attack, own)


def _found(folder: Path, name: str) -> str:
    """A name, or the path that it is of a file or folder beside the plan."""
    return str(folder / name) if name and (folder / name).exists() else name
